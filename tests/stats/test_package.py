"""The package as a whole: cheap to import, and free of I/O."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import harness.stats

MODULES = sorted(
    path for path in Path(harness.stats.__file__).parent.glob("*.py") if path.stem != "__init__"
)


def test_importing_everything_loads_no_heavy_library() -> None:
    imports = "; ".join(f"import harness.stats.{path.stem}" for path in MODULES)
    code = f"import sys; {imports}; print([m for m in ('numpy', 'scipy') if m in sys.modules])"
    root = Path(harness.stats.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_does_io(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input"}
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert not imported & {"os", "sys", "pathlib", "time", "random", "subprocess", "torch"}
