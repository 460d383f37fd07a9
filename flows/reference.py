"""docs/commands.md and docs/config.md, made from the command line and the config's own classes: `make docs`."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flows.config import Config

KINDS = {Path: "PATH", int: "NUMBER", float: "NUMBER"}
HEAD = """# Commands

Made by `make docs` from the command line itself; `bluemask COMMAND --help` says the same.

Exit status: 0 all done, 1 something failed, 2 wrong input; `bluemask run` also 3, where it is done but some images
could not be read, or bear marks that do not fit. `BLUEMASK_TRACEBACK=1` shows where an error came from.
"""


CONFIG_HEAD = """# The config

Made by `make docs` from the config's own classes. `bluemask init` writes a config that runs as it is; every key that is
not in it has the default below. `BLUEMASK__SECTION__KEY` in the environment overrides a key (`BLUEMASK__CAM__LOW=0.3`).
Relative paths are seen from the config's own folder. A key or value that is not allowed is refused, with what is.
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


def config_reference() -> str:
    """A page in Markdown with every key of the config: its type, its default, what it does and why."""
    fields = Config.model_fields
    sections: dict[str, Any] = {name: f.annotation for name, f in fields.items() if _is_section(f.annotation)}
    parts = [CONFIG_HEAD, *_keys({name: f for name, f in fields.items() if name not in sections})]
    for name, kind in sections.items():
        parts += [f"## {name}\n", inspect.cleandoc(kind.__doc__ or "") + "\n", *_keys(kind.model_fields)]
    return "\n".join(parts)


def _is_section(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, BaseModel)


def _keys(fields: dict[str, FieldInfo]) -> list[str]:
    rows = ["| key | by default | |", "| --- | --- | --- |"]
    for name, field in fields.items():
        default = "needed" if field.is_required() else f"`{json.dumps(_plain(field.default))}`"
        rows.append(
            f"| `{name}` | {default} | {' '.join((field.description or '').split())}{_allowed(field)} |"
        )
    return [*rows, ""]


def _plain(value: Any) -> Any:
    """A default as YAML has it."""
    return list(value) if isinstance(value, tuple) else value


def _allowed(field: FieldInfo) -> str:
    """The choices of a key that has some."""
    choices = [repr(c) for part in (field.annotation, *get_args(field.annotation)) for c in _choices(part)]
    return f" One of {', '.join(dict.fromkeys(choices))}." if choices else ""


def _choices(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def write_reference(app: typer.Typer, path: Path) -> None:
    """Write the page, and the one of the config beside it."""
    path.write_text(reference(app), encoding="utf-8")
    path.with_name("config.md").write_text(config_reference(), encoding="utf-8")
