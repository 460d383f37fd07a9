"""The command line as a stranger meets it."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from calling import call

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (
    "init", "run", "plan", "rerun", "verify", "prune", "rollback", "status", "evaluate", "export", "import", "show",
    "browse", "report", "synth", "demo",
)  # fmt: skip


def bluemask(*words, cwd=None):
    return subprocess.run(
        [str(Path(sys.executable).parent / "bluemask"), *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def test_help_is_quick_and_names_every_command(tmp_path):
    bluemask("--help")  # once for the bytecode
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = bluemask("--help", cwd=tmp_path)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0
    assert all(name in result.stdout for name in COMMANDS)
    # of the processor, whatever else it has to do: half a second is the promise, and an import of torch gets no grace
    assert ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime < 2.0


def test_help_imports_no_heavy_library():
    code = "import sys, bluemask; print(sorted({'torch', 'prefect', 'zarr', 'numpy', 'timm'} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    result = call(name, "--help")
    assert result.returncode == 0
    assert f"Example: bluemask {name}" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    "words",
    [
        ("run", "none.yaml"),
        ("plan", "none.yaml"),
        ("status", "none.store"),
        ("verify", "none.store"),
        ("prune", "none.store"),
        ("rollback", "none.store", "vit"),
        ("rerun", "none.store", "--stage", "mask"),
        ("export", "none.store", "out"),
        ("import", "none.store", "a.zip", "--format", "cvat"),
        ("browse", "none.store", "--no-show"),
        ("report", "none.store"),
        ("evaluate", "none.store", "--masks", "none"),
        ("show", "none.store", "a.png", "--out", "a.png"),
        ("init", "none", "--out", "c.yaml", "--store", "s"),
    ],
)
def test_an_error_is_a_sentence_without_a_traceback(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*words)
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("bluemask: ")
    assert "none" in result.stderr


def test_the_page_of_commands_is_what_the_command_line_says():
    import bluemask as program
    from flows.reference import reference

    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert page == reference(program.app), "run `make docs`"
    assert all(f"## bluemask {name}\n" in page for name in COMMANDS)


def test_the_page_of_the_config_holds_every_key_with_its_words():
    from flows.config import Config
    from flows.reference import config_reference

    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == config_reference(), "run `make docs`"
    assert "| `positives` | `3` | Points on a piece" in page
    assert all(f"| `{name}` |" in page or f"## {name}\n" in page for name in Config.model_fields)
    assert "| |\n| --- | --- | --- |\n\n" not in page, "no section is empty"
    assert all(not line.rstrip().endswith("| |") or line.startswith("| key") for line in page.splitlines())
