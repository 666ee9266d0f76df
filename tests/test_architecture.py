"""The house keeps its rules: what may import what, who prints, who starts processes, how long."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parents[1] / "harness"
FILES = sorted(HARNESS.rglob("*.py"))
NAMES = [path.relative_to(HARNESS).as_posix() for path in FILES]
LONGEST = 400


def tree(name: str) -> ast.Module:
    return ast.parse((HARNESS / name).read_text(encoding="utf-8"))


def imports(name: str) -> set[str]:
    """Dotted names of everything a file imports, lazily or not."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(name: str) -> set[str]:
    return {module.split(".")[0] for module in imports(name)}


def attributes(name: str) -> set[str]:
    """Dotted attribute accesses such as `sys.stdout`, and bare names that are called."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(f"{node.func.id}()")
    return found


def test_there_is_something_to_check() -> None:
    assert len(NAMES) > 50
    assert {"terminal.py", "runner/launch.py", "stats/loss.py", "logs.py"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_no_file_is_longer_than_a_reader_can_hold(name: str) -> None:
    lines = (HARNESS / name).read_text(encoding="utf-8").count("\n")
    assert lines < LONGEST


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(tree(name)), "a module docstring"


# Programs that run in a process of their own, and talk to their parent over their own streams.
# Those of the second kind run in the candidate's process, beside its torch.
IN_THE_CANDIDATES_PROCESS = {
    "runner/audit_shim.py",
    "runner/audit_shim_graphs.py",
    "runner/audit_shim_parts.py",
    "runner/scorer_program.py",
}
CHILD_PROGRAMS = {"runner/telemetry_process.py", *IN_THE_CANDIDATES_PROCESS}


@pytest.mark.parametrize("name", sorted(set(NAMES) - IN_THE_CANDIDATES_PROCESS))
def test_the_harness_never_imports_torch_nor_a_candidate(name: str) -> None:
    assert not roots(name) & {"torch", "candidates", "baseline", "tests", "triton", "safetensors"}


@pytest.mark.parametrize("name", sorted(IN_THE_CANDIDATES_PROCESS & set(NAMES)))
def test_what_runs_in_the_candidates_process_knows_nothing_of_the_harness(name: str) -> None:
    assert "harness" not in roots(name)
    module = "harness." + name.removesuffix(".py").replace("/", ".")
    assert not any(module in imports(other) for other in NAMES)


# sys.stderr.close() after a broken pipe: there is nobody left to print to.
MAIN = {"cli/main.py": {"sys.stderr"}}


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"terminal.py"} - CHILD_PROGRAMS))
def test_only_the_terminal_prints(name: str) -> None:
    streams = {
        "sys.stdout",
        "sys.stderr",
        "sys.__stdout__",
        "sys.__stderr__",
        "print()",
        "typer.echo",
    }
    assert not attributes(name) & streams - MAIN.get(name, set())


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("runner/")])
def test_only_the_runner_starts_processes(name: str) -> None:
    assert not roots(name) & {"subprocess", "multiprocessing", "pty"}
    assert "concurrent.futures.ProcessPoolExecutor" not in imports(name)
    calls = {
        "os.fork",
        "os.system",
        "os.popen",
        "os.execv",
        "os.execve",
        "os.posix_spawn",
        "os.spawnv",
    }
    assert not attributes(name) & calls


PURE = [n for n in NAMES if n.startswith("stats/")] + [
    n for n in NAMES if n.startswith("log") and n not in ("logs.py", "log_file.py")
]
ALLOWED_IN_STATS = {"__future__", "collections", "dataclasses", "itertools", "math", "typing"}


@pytest.mark.parametrize("name", PURE)
def test_statistics_and_parsing_do_no_io(name: str) -> None:
    assert not roots(name) & {
        "asyncio", "http", "io", "os", "pathlib", "shutil", "socket", "ssl", "sys", "tempfile",
        "threading", "time", "urllib",
    }  # fmt: skip
    assert "open()" not in attributes(name)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("stats/")])
def test_statistics_are_functions_of_numbers(name: str) -> None:
    third = roots(name) - set(sys.stdlib_module_names)
    assert third <= {"harness", "numpy", "scipy"}
    own = {module for module in imports(name) if module.startswith("harness")}
    assert all(module.startswith("harness.stats") for module in own)


@pytest.mark.parametrize("name", ["logs.py", "log_file.py"])
def test_the_log_reader_only_reads_files(name: str) -> None:
    assert not roots(name) & {"socket", "subprocess", "threading", "urllib", "time"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - IN_THE_CANDIDATES_PROCESS))
def test_nothing_is_unpickled_and_no_candidate_is_loaded(name: str) -> None:
    assert not roots(name) & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    assert not attributes(name) & {"eval()", "exec()", "runpy.run_path"}


LAYERS = {
    # folder or file -> what it may not know of: arrows point one way only.
    "stats/": ("harness.",),
    "errors.py": ("harness.",),
    "canonical.py": ("harness.",),
    "checks/": ("harness.cli", "harness.report", "harness.submit", "harness.terminal",
                "harness.verdict.", "harness.series", "harness.runner"),
    "report/": ("harness.cli", "harness.runner", "harness.submit", "harness.terminal.Terminal"),
    "runner/": ("harness.cli", "harness.verdict", "harness.checks", "harness.bundle",
                "harness.report", "harness.terminal"),
    "bundle.py": ("harness.cli", "harness.verdict.", "harness.report", "harness.runner",
                  "harness.series", "harness.terminal"),
    "looks.py": ("harness.cli", "harness.checks", "harness.runner", "harness.series",
                 "harness.terminal"),
    "verdict.py": ("harness.cli", "harness.runner", "harness.report", "harness.series",
                   "harness.terminal"),
    "tracks/": ("harness.bundle", "harness.plan", "harness.cli", "harness.runner"),
    "data/": ("harness.cli", "harness.runner", "harness.report"),
    "board/": ("harness.cli", "harness.runner", "harness.series", "harness.submit",
               "harness.terminal"),
    "publication/": ("harness.cli", "harness.series", "harness.submit", "harness.terminal"),
    "nightly/": ("harness.cli", "harness.runner", "harness.series", "harness.terminal"),
}  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
def test_arrows_point_one_way(layer: str) -> None:
    for name in NAMES:
        if not name.startswith(layer):
            continue
        own = f"harness.{layer.split('/')[0].removesuffix('.py')}"
        for module in imports(name):
            inside = module == own or module.startswith(f"{own}.")
            crossed = [
                bar for bar in LAYERS[layer] if f"{module}.".startswith(bar.rstrip(".") + ".")
            ]
            assert inside or not crossed, f"{name} imports {module}"


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("cli/")])
def test_commands_are_thin_and_import_when_called(name: str) -> None:
    """At the top of a command's file stands nothing that help would have to wait for."""
    allowed = {"__future__", "collections", "enum", "pathlib", "sys", "typing", "typer", "harness"}
    for node in tree(name).body:
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] in allowed


def test_there_is_no_import_cycle() -> None:
    """Over imports made at load time; lazy ones may go round."""
    modules = {
        "harness." + n.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): n
        for n in NAMES
    }

    def loaded(name: str) -> set[str]:
        found: set[str] = set()
        for node in tree(name).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                # A submodule can be had from a package that is still being loaded.
                wanted = inner if all(i in modules for i in inner) else [node.module, *inner]
                found |= {modules[m] for m in wanted if m in modules and modules[m] != name}
        return found

    graph = {name: loaded(name) for name in NAMES}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in graph[name]:
                walk(other, (*path, name))
            done.add(name)

    for name in NAMES:
        walk(name, ())
