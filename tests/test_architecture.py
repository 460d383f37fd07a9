"""The layout of the project: who may import whom, what is installed, how long things may get."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"storage", "models", "tasks", "flows", "viewer", "bench", "bluemask"}
MAY_IMPORT = {
    "storage": {"storage"},
    "models": {"models"},
    "tasks": {"tasks", "storage", "models"},
    "viewer": {"viewer", "tasks", "storage", "models"},
    "flows": {"flows", "viewer", "tasks", "storage", "models"},
    "bluemask": OURS,
    "bench": OURS,
}
FILES = [
    *sorted(path for folder in OURS - {"bluemask"} for path in (ROOT / folder).rglob("*.py")),
    ROOT / "bluemask.py",
]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(str(node.module).split(".")[0])
    return names


def home(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path):
    assert imported(path) & OURS <= MAY_IMPORT[home(path)]


@pytest.mark.parametrize("path", sorted((ROOT / "models").rglob("*.py")), ids=lambda path: path.stem)
def test_what_trains_networks_needs_neither_prefect_nor_zarr(path):
    assert not imported(path) & {"prefect", "zarr"}


def test_no_flow_module_hides_another_module():
    # Prefect puts the folder of a flow first on sys.path
    taken = set(sys.stdlib_module_names) | {name.split(".")[0] for name in metadata.packages_distributions()}
    names = {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__"}
    assert not names & taken


def test_only_the_command_line_is_installed():
    found = metadata.packages_distributions()
    assert set(found["bluemask"]) == {"bluemask"}
    assert not [
        name
        for name in ("storage", "models", "tasks", "flows", "viewer")
        if "bluemask" in found.get(name, [])
    ]


def test_the_rest_is_not_importable_from_elsewhere(tmp_path):
    code = "import importlib.util as u; print([n for n in ('storage','models','tasks','flows','viewer') if u.find_spec(n)])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_files_stay_readable():
    long = {p.relative_to(ROOT).as_posix(): n for p in FILES if (n := len(p.read_text().splitlines())) > 350}
    assert not long


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    body = node.body[1:] if ast.get_docstring(node) else node.body
    if not body:
        return 0
    part = lines[body[0].lineno - 1 : body[-1].end_lineno]
    return sum(1 for line in part if line.strip() and not line.strip().startswith("#"))


def test_functions_stay_short_and_documented():
    lengths, silent = {}, []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{path.relative_to(ROOT)}:{node.name}"
                lengths[name] = body_lines(node, text.splitlines())
                if not node.name.startswith("_") and not ast.get_docstring(node) and node.col_offset == 0:
                    silent.append(name)
    assert not silent
    assert not {name: n for name, n in lengths.items() if n > 50}
    ordered = sorted(lengths.values())
    assert ordered[len(ordered) // 2] <= 8
    assert ordered[int(len(ordered) * 0.9)] <= 25


def test_a_plan_loads_neither_torch_nor_prefect():
    code = (
        "import sys; sys.path.insert(0, '.'); import flows.begin, flows.summary, tasks.registry;"
        "tasks.registry.stages(); print(sorted({'torch', 'prefect', 'timm', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
