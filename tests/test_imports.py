"""Imports point one way, from the command line down; see LEVELS."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "d2s_cli"
#: lower rooms first; a room may import its own level and those below
LEVELS = {
    "errors": 0,
    "runtime": 1,
    "weights": 2,
    "images": 2,
    "guides": 3,
    "metrics": 3,
    "ranks": 3,
    "diffusion": 3,
    "recipe": 4,
    "manifest": 5,
    "batches": 5,
    "ahead": 0,
    "events": 5,
    "picture": 5,
    "opening": 5,
    "filling": 5,
    "closing": 5,
    "engine": 6,
    "bench": 7,
    "judged_sets": 6,
    "evaluation": 6,
    "evaluation_options": 6,
    "doctor": 6,
    "paper": 6,
    "training": 4,
    "cli": 7,
    "__main__": 8,
}
HEAVY = {"torch", "numpy", "cv2", "PIL", "safetensors", "requests"}


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_no_import_points_upwards() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        room = _room(path)
        if room == "__init__":
            continue
        for name in _imports(path):
            parts = name.split(".")
            ours = parts[0] == "d2s_cli" and len(parts) > 1 and parts[1] in LEVELS
            if ours and LEVELS[parts[1]] > LEVELS[room]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_only_the_command_line_knows_typer_and_rich() -> None:
    knowing = {
        _room(path)
        for path in PACKAGE.rglob("*.py")
        if {name.split(".")[0] for name in _imports(path)} & {"typer", "rich"}
    }
    assert knowing == {"cli"}


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from d2s_cli.cli.app import app\n"
        "for words in (['--help'], ['--version'], ['inpaint', '--help']):\n"
        "    app(words, standalone_mode=False)\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == "[]", run.stderr
    assert run.returncode == 0


def test_completing_loads_nothing_heavy() -> None:
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr))\n"
        "sys.argv = ['d2s']\n"
        "from d2s_cli.cli.app import main\n"
        "main()"
    )
    asked = {"_D2S_COMPLETE": "complete_bash", "COMP_WORDS": "d2s inpaint -w ", "COMP_CWORD": "3"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "d2s-base" in run.stdout
    assert run.stderr.strip() == "[]", run.stderr
