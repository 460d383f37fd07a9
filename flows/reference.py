"""docs/commands.md, made from the command line itself: `make docs`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer

KINDS = {Path: "PATH", int: "NUMBER", float: "NUMBER"}
HEAD = """# Commands

Made by `make docs` from the command line itself; `bluemask COMMAND --help` says the same.

Exit status: 0 all done, 1 something failed, 2 wrong input; `bluemask run` also 3, where it is done but some images
could not be read. `BLUEMASK_TRACEBACK=1` shows where an error came from.
"""


def reference(app: typer.Typer) -> str:
    """A page in Markdown with every command: what it does, its arguments and options, an example."""
    group: Any = typer.main.get_command(app)
    functions = {
        item.name or str(item.callback.__name__): item.callback
        for item in app.registered_commands
        if item.callback
    }
    names = [name for name, command in group.commands.items() if not command.hidden]
    links = " · ".join(f"[{name}](#bluemask-{name})" for name in names)
    made = [_command(name, group.commands[name], functions[name]) for name in names]
    return "\n".join([HEAD, links, "", *made])


def _command(name: str, command: Any, function: Any) -> str:
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option" and item.name != "help"]
    words = " ".join(
        ["bluemask", name, *(_metavar(item) for item in arguments), *["[OPTIONS]"] * bool(options)]
    )
    parts = [f"## bluemask {name}\n", f"```sh\n{words}\n```\n", inspect.cleandoc(command.help or ""), ""]
    if arguments or options:
        parts += ["| | | by default |", "| --- | --- | --- |"]
        parts += [_row(f"`{_metavar(item)}`", item) for item in arguments]
        parts += [_row(", ".join(f"`{word}`" for word in _words(item, function)), item) for item in options]
        parts.append("")
    example = (command.epilog or "").removeprefix("Example: ")
    return "\n".join([*parts, f"Example: `{example}`\n"])


def _words(option: Any, function: Any) -> list[str]:
    value = "" if option.is_flag else f" {_metavar(option, function)}"
    return [f"{word}{value}" for word in option.opts] + list(option.secondary_opts)


def _metavar(item: Any, function: Any = None) -> str:
    if item.metavar:
        return str(item.metavar)
    if item.param_type_name == "argument":
        return str(item.name).rstrip("_").upper()
    kind = get_type_hints(function).get(str(item.name))
    found = [KINDS[part] for part in (kind, *get_args(kind)) if part in KINDS]
    return found[0] if found else "TEXT"


def _row(title: str, item: Any) -> str:
    default = "" if item.required or item.default in (None, "", False) else f"`{item.default}`"
    needed = "needed" if item.required else default
    return f"| {title} | {' '.join((item.help or '').split())} | {needed} |"


def write_reference(app: typer.Typer, path: Path) -> None:
    """Write the page."""
    path.write_text(reference(app), encoding="utf-8")
