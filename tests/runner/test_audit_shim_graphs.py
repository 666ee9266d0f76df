"""The shim follows CUDA graphs: against a pretended torch, real torch without CUDA, a real GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.runner.test_audit_shim import FAKE_TORCH, Run, shim

# A stand-in for torch's graphs: a class that works (in C++ there), and Python's above it.
CUDA = """
def synchronize(): pass
class Event:
    def elapsed_time(self): pass
capturing = False
def is_current_stream_capturing(): return capturing
class _CUDAGraph:
    log = []
    def capture_begin(self, pool=None): self.log.append('begin')
    def capture_end(self): self.log.append('end')
    def replay(self): self.log.append('replay')
class CUDAGraph(_CUDAGraph):
    def capture_begin(self, pool=None): super().capture_begin(pool=pool)
    def capture_end(self): super().capture_end()
    def replay(self): super().replay()
"""
START = """
import torch
from torch.cuda import CUDAGraph, _CUDAGraph
def passes(): torch.autograd.backward(torch.Tensor())
def capture(graph, *works):
    graph.capture_begin()
    for work in works: work()
    graph.capture_end()
    return graph
"""


def pretended(folder: Path, script: str, cuda: str = CUDA) -> Run:
    for name, text in {**FAKE_TORCH, "torch/cuda.py": cuda}.items():
        path = folder / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done, notes = shim(folder, START + script, PYTHONPATH=str(folder / "site"))
    assert done.returncode == 0, done.stderr
    return done, notes


def counted(notes: dict[str, list[dict[str, Any]]]) -> int:
    (end,) = notes["end"]
    assert sum(len(note["at"]) for note in notes.get("backward", [])) == end["backward"]
    return int(end["backward"])


COUNTS = {
    "one capture and three replays": (
        "graph = capture(CUDAGraph(), passes)\nfor _ in range(3): graph.replay()", 4),
    "a captured validation": (
        "graph = capture(CUDAGraph())\nfor _ in range(3): graph.replay()", 0),
    "several at once": (
        "a, b = capture(CUDAGraph(), passes), capture(CUDAGraph())\n"
        "for graph in (a, b, a, b, a): graph.replay()", 4),
    "a pass between two captures": (
        "a = capture(CUDAGraph())\npasses()\nb = capture(CUDAGraph())\na.replay(), b.replay()", 1),
    "the method of the class below": (
        "graph = capture(CUDAGraph(), passes)\n_CUDAGraph.replay(graph)", 2),
    "an instance of the class below": ("capture(_CUDAGraph(), passes).replay()", 2),
    "a class of the script's own": (
        "class Own(CUDAGraph):\n    def replay(self): return super().replay()\n"
        "capture(Own(), passes).replay()", 2),
    "one that is equal to any other, and has no hash": (
        "class Own(CUDAGraph):\n    def __eq__(self, other): return True\n"
        "a, b = capture(Own(), passes), capture(Own())\na.replay(), b.replay()", 2),
    "a replay of it captured": (
        "inner = capture(CUDAGraph(), passes)\nouter = capture(CUDAGraph(), inner.replay)\n"
        "outer.replay()", 3),
    "captured again without a pass": (
        "graph = capture(CUDAGraph(), passes)\ncapture(graph).replay()", 1),
    "a pass from another thread": (
        "import threading\n"
        "def other():\n    t = threading.Thread(target=passes)\n    t.start()\n    t.join()\n"
        "capture(CUDAGraph(), other).replay()", 2),
    "an end that failed ended nothing": (
        "graph, log = CUDAGraph(), _CUDAGraph.log\ngraph.capture_begin()\n_CUDAGraph.log = None\n"
        "try: graph.capture_end()\nexcept AttributeError: pass\n"
        "_CUDAGraph.log = log\npasses()\ngraph.capture_end()\ngraph.replay()", 2),
    "a beginning that failed began nothing": (
        "graph, log = CUDAGraph(), _CUDAGraph.log\n_CUDAGraph.log = None\n"
        "try: graph.capture_begin()\nexcept AttributeError: pass\n"
        "_CUDAGraph.log = log\npasses()\ngraph.replay()", 1),
}  # fmt: skip


@pytest.mark.parametrize("what", COUNTS)
def test_what_counts_as_a_pass(what: str, tmp_path: Path) -> None:
    script, expected = COUNTS[what]
    _, notes = pretended(tmp_path, script)
    assert counted(notes) == expected
    assert "trouble" not in notes


def test_the_methods_do_what_they_did(tmp_path: Path) -> None:
    done, _ = pretended(
        tmp_path,
        "graph = capture(CUDAGraph(), passes)\ngraph.capture_begin(pool=3)\ngraph.capture_end()\n"
        "graph.replay()\nprint(*_CUDAGraph.log)\n"
        "print(CUDAGraph.replay.__qualname__, _CUDAGraph.replay.__qualname__)\n"
        "try: graph.capture_begin(nothing=1)\n"
        "except TypeError as error: print('nothing' in str(error))\n",
    )
    assert done.stdout.splitlines() == [
        "begin end begin end replay", "CUDAGraph.replay _CUDAGraph.replay", "True",
    ]  # fmt: skip


def test_a_graph_that_is_dropped_is_gone(tmp_path: Path) -> None:
    done, _ = pretended(
        tmp_path,
        "import weakref\n"
        "graphs = [capture(CUDAGraph(), passes), capture(CUDAGraph()), CUDAGraph()]\n"
        "graphs[2].capture_begin()\n"
        "held = [weakref.ref(graph) for graph in graphs]\n"
        "graphs.clear()\n"
        "print([one() for one in held])\n",
    )
    assert done.stdout == "[None, None, None]\n"


def test_a_graph_that_cannot_be_followed_is_noted_and_runs(tmp_path: Path) -> None:
    done, notes = pretended(
        tmp_path,
        "class Own(_CUDAGraph):\n    __slots__ = ()\n"
        "capture(Own(), passes).replay()\nprint(*_CUDAGraph.log)\n",
        CUDA.replace("class _CUDAGraph:", "class _CUDAGraph:\n    __slots__ = ()"),
    )
    assert done.stdout == "begin end replay\n"
    assert counted(notes) == 1
    assert [note["event"] for note in notes["trouble"]] == ["begun"]


# -- torch as it is --------------------------------------------------------------------------


def test_torch_without_cuda_is_left_as_it_was(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.backends.cuda.is_built():
        pytest.skip("this torch has CUDA")
    done, notes = shim(
        tmp_path,
        "import torch\n"
        "try: torch.cuda.CUDAGraph()\n"
        "except RuntimeError as error: print(error)\n"
        "torch.ones(1, requires_grad=True).sum().backward()\n"
        # Torch 2.13 has this class without CUDA too: the C++ one below takes the wrappers.
        "work = getattr(getattr(torch, 'accelerator', None), 'Graph', object).__mro__[1:2]\n"
        "print(all(hasattr(kind.replay, '__wrapped__') for kind in work if kind is not object))\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Tried to instantiate dummy base class CUDAGraph\nTrue\n"
    assert counted(notes) == 1
    assert "trouble" not in notes


def test_parameters_are_looked_at_before_a_capture_and_not_in_it(tmp_path: Path) -> None:
    """Training in a capture that records nothing (another stream, the CPU) is not the untrained
    state; and a look in a real capture would break it: it copies from the GPU."""
    pytest.importorskip("torch")
    done, notes = shim(
        tmp_path,
        "import torch\n"
        "base, cuda = torch.cuda.CUDAGraph.__mro__[1], torch.cuda\n"
        "for name in ('capture_begin', 'capture_end', 'replay'):\n"
        "    setattr(base, name, lambda self, **_: None)\n"
        "base.__new__ = lambda cls, *_: object.__new__(cls)\n"
        "base.__init__ = lambda self, *_: None\n"
        "cuda.is_current_stream_capturing = lambda: capturing\n"
        "capturing, graph, looks = False, cuda.CUDAGraph(), []\n"
        "reshape = torch.Tensor.reshape\n"
        "def noted(tensor, *shape):\n"
        "    looks.append(capturing)\n"
        "    return reshape(tensor, *shape)\n"
        "torch.Tensor.reshape = noted\n"
        "model = torch.nn.Linear(200, 100)\n"
        "graph.capture_begin()\n"
        "capturing = True\n"
        "for _ in range(3):\n"
        "    model(torch.randn(5, 200)).square().sum().backward()\n"
        "    with torch.no_grad():\n"
        "        for p in model.parameters(): p -= 1e-3 * p.grad\n"
        "capturing = False\n"
        "graph.capture_end()\n"
        "graph.replay()\n"
        "print('looks', *looks)\n"
        "print('step:0/9 val_loss:10.8 train_time:0ms step_avg:0.00ms')\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "looks False False"
    assert notes["clock"][0]["parameters"] == {"tensors": 2, "same": 0, "kept": 2, "fresh": 0}
    assert counted(notes) == 4


GPU = """
import torch
torch.cuda.set_stream(torch.cuda.Stream())
model = torch.nn.Linear(64, 64, device='cuda')
rows = torch.randn(8, 64, device='cuda')
def work():
    model.zero_grad(set_to_none=False)
    model(rows).square().sum().backward()
    with torch.no_grad():
        for p in model.parameters(): p.sub_(p.grad, alpha=1e-3)
state = {k: v.clone() for k, v in model.state_dict().items()}
work()
graph, forward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
with torch.cuda.graph(graph, pool=torch.cuda.graph_pool_handle()): work()
with torch.cuda.graph(forward), torch.no_grad(): loss = model(rows).square().sum()
def lost():
    forward.replay()
    return loss.item()
before = lost()
for _ in range(3): graph.replay()
torch._C._CUDAGraph.replay(graph)
assert lost() < before
# Its backward pass is a call and a replay.
part = torch.cuda.make_graphed_callables(torch.nn.Linear(64, 64, device='cuda'), (rows,))
model.load_state_dict(state)
print('step:0/9 val_loss:10.8 train_time:0ms step_avg:0.00ms')
part(rows).sum().backward()
import weakref
gone = weakref.ref(graph)
del graph
print('gone', gone() is None)
"""


@pytest.mark.gpu
def test_graphs_of_a_gpu(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    done, notes = shim(tmp_path, GPU)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "gone True"
    assert "trouble" not in notes
    assert notes["clock"][0]["parameters"]["same"] == notes["clock"][0]["parameters"]["tensors"]
    # A call and its capture, four replays; of the callable its warm-up passes, its capture, and
    # the last pass, which is a call and the replay that it makes.
    assert counted(notes) == 2 + 4 + 3 + 1 + 2
