"""The shim runs a script as Python would, and notes what it does. Torch in one test only."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SHIM = Path(__file__).resolve().parents[2] / "harness" / "runner" / "audit_shim.py"
Run = tuple["subprocess.CompletedProcess[str]", dict[str, list[dict[str, Any]]]]


def shim(folder: Path, script: str, **environment: str) -> Run:
    """(the process, notes by kind) of a script under the shim."""
    work, notes = folder / "work", folder / "notes"
    work.mkdir()
    notes.mkdir()
    (work / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(SHIM), "script.py"],
        cwd=work,
        env={**os.environ, "SPEEDRUN_AUDIT_OUT": str(notes), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for path in notes.iterdir():
        for line in path.read_text().splitlines():
            note = json.loads(line)
            found.setdefault(note["k"], []).append(note)
    return done, found


def test_the_script_is_main_and_knows_of_nothing(tmp_path: Path) -> None:
    done, notes = shim(
        tmp_path,
        "import os, sys\n"
        "print(__name__, os.path.basename(__file__), len(sys.argv), sys.path[0] == os.getcwd())\n"
        "print(sys.modules['__main__'].__file__ == __file__, 'SPEEDRUN_AUDIT_OUT' in os.environ)\n"
        "class A: pass\n"
        "print(A.__module__, sys.modules[A.__module__].A is A)\n",
    )
    assert done.stdout == "__main__ script.py 1 True\nTrue False\n__main__ True\n"
    assert done.stderr == ""
    assert notes["end"][0]["how"] == "exit"


@pytest.mark.parametrize(
    ("last", "code", "how"),
    [
        ("sys.exit(3)", 3, "SystemExit"),
        ("raise KeyError('x')", 1, "KeyError"),
        ("os._exit(5)", 5, "os._exit"),
        ("print('end')", 0, "exit"),
    ],
)
def test_its_end_is_its_own(last: str, code: int, how: str, tmp_path: Path) -> None:
    done, notes = shim(tmp_path, f"import os, sys\n{last}\n")
    assert done.returncode == code
    assert [note["how"] for note in notes["end"]] == [how]


def test_opened_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.bin").write_bytes(b"x" * 5000)
    done, notes = shim(
        tmp_path,
        "import json, pathlib\n"
        f"data = pathlib.Path({str(data)!r})\n"
        "for _ in range(5): (data / 'a.bin').read_bytes()\n"
        "pathlib.Path('out.txt').write_text('x')\n"
        "try: open('missing')\n"
        "except OSError: pass\n",
        DATA_PATH=str(data),
    )
    assert done.returncode == 0, done.stderr
    found = [(Path(n["path"]).name, n["w"], n["size"]) for n in notes["open"]]
    assert found.count(("a.bin", False, 5000)) == 5
    assert ("out.txt", True, None) in found
    assert ("missing", False, None) in found
    assert not [name for name, _, _ in found if name.endswith((".pyc", "__init__.py"))]


def test_processes_sockets_and_compiler_variables(tmp_path: Path) -> None:
    done, notes = shim(
        tmp_path,
        "import os, socket, subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'pass'])\n"
        "try: socket.create_connection(('127.0.0.1', 9), 0.1)\n"
        "except OSError: pass\n"
        "os.environ['TRITON_X'] = '1'\n"
        "os.environ['OTHER'] = '2'\n",
    )
    assert done.returncode == 0, done.stderr
    started = notes["process"][0]["what"]
    assert started.startswith("subprocess.Popen python")
    assert started.endswith(" -c pass")
    assert "/" not in started
    assert notes["socket"][0]["address"] == "('127.0.0.1', 9)"
    assert [(n["name"], n["value"]) for n in notes["putenv"]] == [("TRITON_X", "1")]


def test_result_lines_are_noted_once_however_they_are_written(tmp_path: Path) -> None:
    line = "step:{}/3 train_time:1ms step_avg:1ms"
    done, notes = shim(
        tmp_path,
        "import sys\n"
        f"print({line.format(1)!r}, flush=True)\n"
        f"sys.stdout.write({line.format(2)!r} + '\\n' + {line.format(3)!r})\n"
        "print()\n"
        "print('step:', 'val_loss: a word')\n"
        "print('a line with', 'step:1/3 val_loss:3')\n",
    )
    assert done.stdout.count("\n") == 5
    assert sum(len(n["at"]) for n in notes["line"]) == 4
    assert len(notes["clock"]) == 1


def test_a_replaced_clock(tmp_path: Path) -> None:
    _, notes = shim(tmp_path, "import time\ntime.time = lambda: 0.0\n")
    assert notes["end"][0]["replaced"] == ["time"]


FAKE_TORCH = {
    "torch/__init__.py": """
from torch import autograd, cuda
class Tensor: pass
class FakeTensor(Tensor): pass
def compile(model=None, **kwargs): return model
def inner(): return compile(None, backend="eager")
""",
    "torch/autograd.py": "def backward(x): return 'b'\ndef grad(outputs): return 'g'",
    "torch/cuda.py": "def synchronize(): pass\nclass Event:\n    def elapsed_time(self): pass",
    "torch/optim/__init__.py": "",
    "torch/optim/optimizer.py": "hooks = []\nregister_optimizer_step_pre_hook = hooks.append",
}


def test_what_is_noted_of_torch(tmp_path: Path) -> None:
    """Against a pretended torch: calls are counted and passed on, torch's own are left out."""
    for name, text in FAKE_TORCH.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done, notes = shim(
        tmp_path,
        "import torch\n"
        "assert torch.autograd.backward(torch.Tensor()) == 'b'\n"
        "assert torch.autograd.grad(outputs=[torch.Tensor()]) == 'g'\n"
        "torch.autograd.backward(torch.FakeTensor())\n"
        "assert torch.compile('m', **{'mo' + 'de': 'max-autotune'}) == 'm'\n"
        "assert torch.compile(model='n', dynamic=False) == 'n'\n"
        "torch.inner()\n"
        "from torch.optim.optimizer import hooks\n"
        "for _ in range(3): hooks[0](None, (), {})\n"
        "torch.cuda.synchronize = lambda: None\n",
        PYTHONPATH=str(tmp_path / "site"),
    )
    assert done.returncode == 0, done.stderr
    assert [n["kwargs"] for n in notes["compile"]] == [
        {"mode": "max-autotune"}, {"dynamic": "False"},
    ]  # fmt: skip
    (end,) = notes["end"]
    assert (end["backward"], end["optimizer"], end["replaced"]) == (2, 3, ["synchronize"])
    assert sum(len(n["at"]) for n in notes["backward"]) == 2


def test_a_flood_of_events_stays_small(tmp_path: Path) -> None:
    """And what is opened of the data is noted all the same."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "shard.bin").touch()
    done, notes = shim(
        tmp_path,
        "for i in range(30_000):\n    open(f'f{i}', 'w').close()\n"
        f"open({str(data / 'shard.bin')!r})\n",
        DATA_PATH=str(data),
    )
    assert done.returncode == 0
    assert len(notes["open"]) == 20_001
    assert notes["open"][-1]["path"].endswith("shard.bin")
    assert notes["end"][0]["left_out"] == {"open": notes["end"][0]["left_out"]["open"]}
    assert notes["end"][0]["left_out"]["open"] >= 10_000


@pytest.mark.parametrize(
    ("restore", "expected"),
    [("model.load_state_dict(state)", {"same": 2}), ("", {"kept": 2})],
)
def test_parameters_made_after_a_first_backward_pass(
    tmp_path: Path, restore: str, expected: dict[str, int]
) -> None:
    """A scalar goes backward before there is a model, and gc.freeze hides the model from the
    collector before the clock: its parameters are compared nevertheless (0 of 0 were)."""
    pytest.importorskip("torch")
    done, notes = shim(
        tmp_path,
        "import gc, torch\n"
        "torch.ones(1, requires_grad=True).sum().backward()\n"
        "model = torch.nn.Linear(200, 100)\n"
        "state = {k: v.clone() for k, v in model.state_dict().items()}\n"
        "for _ in range(3):\n"
        "    model(torch.randn(5, 200)).square().sum().backward()\n"
        "    with torch.no_grad():\n"
        "        for p in model.parameters(): p -= 1e-3 * p.grad\n"
        f"{restore}\n"
        "gc.freeze()\n"
        "print('step:0/9 val_loss:10.8 train_time:0ms step_avg:0.00ms')\n",
    )
    assert done.returncode == 0, done.stderr
    zeros = {"tensors": 2, "same": 0, "kept": 0, "fresh": 0}
    assert notes["clock"][0]["parameters"] == {**zeros, **expected}


@pytest.mark.parametrize(("dummies", "expected"), [(5, {"kept": 2}), (300, {"fresh": 2})])
def test_training_behind_dummy_passes_is_not_the_untrained_state(
    tmp_path: Path, dummies: int, expected: dict[str, int]
) -> None:
    """The model comes after passes that mean nothing, is trained, and put back to half-way."""
    pytest.importorskip("torch")
    done, notes = shim(
        tmp_path,
        "import torch\n"
        f"for _ in range({dummies}): torch.ones(1, requires_grad=True).sum().backward()\n"
        "model = torch.nn.Linear(200, 100)\n"
        "for step in range(4):\n"
        "    if step == 3: state = {k: v.clone() for k, v in model.state_dict().items()}\n"
        "    model(torch.randn(5, 200)).square().sum().backward()\n"
        "    with torch.no_grad():\n"
        "        for p in model.parameters(): p -= 1e-3 * p.grad\n"
        "model.load_state_dict(state)\n"
        "print('step:0/9 val_loss:10.8 train_time:0ms step_avg:0.00ms')\n",
    )
    assert done.returncode == 0, done.stderr
    zeros = {"tensors": 2, "same": 0, "kept": 0, "fresh": 0}
    assert notes["clock"][0]["parameters"] == {**zeros, **expected}


# -- samples of parameters, compared ---------------------------------------------------------

Sample = tuple[tuple[int, ...], tuple[float, ...]]


def compare(before: list[Sample], after: list[Sample]) -> dict[str, int]:
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "shim_parts", SHIM.with_name("audit_shim_parts.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.compare(before, after))


def weights(seed: int, scale: float = 1.0) -> tuple[float, ...]:
    draw = random.Random(seed)
    return tuple(scale * draw.gauss(0, 1) for _ in range(128))


ZEROS, ONES = (0.0,) * 128, (1.0,) * 128
SHAPE = (8, 16)


def trained(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(v + 0.05 * d for v, d in zip(values, weights(99), strict=True))


@pytest.mark.parametrize(
    ("after", "tally"),
    [
        ([weights(1), weights(2), ZEROS, ONES], {"same": 4, "kept": 0, "fresh": 0}),
        ([ONES, ZEROS, weights(2), weights(1)], {"same": 4, "kept": 0, "fresh": 0}),
        ([trained(weights(1)), weights(2), ZEROS, ONES], {"same": 3, "kept": 1, "fresh": 0}),
        ([weights(1), weights(2), trained(ZEROS), ONES], {"same": 3, "kept": 1, "fresh": 0}),
        ([weights(1), weights(2), ZEROS, trained(ONES)], {"same": 3, "kept": 1, "fresh": 0}),
        ([weights(3), weights(4), ZEROS, ONES], {"same": 2, "kept": 0, "fresh": 2}),
        ([trained(v) for v in (weights(1), weights(2), ZEROS, ONES)],
         {"same": 0, "kept": 4, "fresh": 0}),
    ],
)  # fmt: skip
def test_kept_training_is_told_from_a_fresh_draw(
    after: list[tuple[float, ...]], tally: dict[str, int]
) -> None:
    before = [(SHAPE, values) for values in (weights(1), weights(2), ZEROS, ONES)]
    found = compare(before, [(SHAPE, values) for values in after])
    assert found == {"tensors": 4, **tally}
