"""CUDA graphs as the audit shim sees them: a captured backward pass trains at every replay.

Loaded by audit_shim.py in the candidate's process: imports nothing of the harness. A script that
captures forward and backward of its step calls no backward pass any more once the clock runs, it
replays. So graphs are followed from `capture_begin` to `capture_end`, and a replay of one that
holds a backward pass is told as a pass; a captured validation holds none. `torch.cuda.graph`,
`make_graphed_callables` and the compiler's own graphs all go through these methods. Captures and
launches past torch's classes (cuda-python, a library's own) are not seen.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

METHODS = ("capture_begin", "capture_end", "replay")
KINDS = (("cuda", "CUDAGraph"), ("accelerator", "Graph"))
Tell = Callable[[], None]
Guard = Callable[..., None]


class Graphs:
    """Which graphs train.

    open       those whose capture has begun and has not ended
    training   those in whose capture a backward pass was called, or a training graph replayed

    Both go by identity, as a script's class may compare as it likes, and hold weakly: a graph that
    the script drops must give its memory back.
    """

    def __init__(self) -> None:
        self.open: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.training: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def passed(self) -> None:
        """A backward pass, called or replayed: every open capture may hold it. Which thread and
        stream it goes to is not asked, as a stream under capture can be reached from any."""
        self.training.update(self.open)

    def begun(self, graph: Any) -> None:
        """A new capture: what the graph held before is gone."""
        self.training.pop(id(graph), None)
        self.open[id(graph)] = graph

    def ended(self, graph: Any) -> None:
        self.open.pop(id(graph), None)

    def trains(self, graph: Any) -> bool:
        return self.training.get(id(graph)) is graph

    def follow(self, torch: Any, before: Tell, replayed: Tell, guarded: Guard) -> None:
        """Wrap torch's graph classes, those it has.

        before     called before a capture begins: in it nothing can be read off the GPU
        replayed   called before a training graph is replayed
        guarded    calls a function of the shim's that must not break the script
        """
        for owner in owners(torch):
            self._wrap(owner, before, replayed, guarded)

    def _wrap(self, owner: Any, before: Tell, replayed: Tell, guarded: Guard) -> None:
        begin, end, replay = (getattr(owner, name) for name in METHODS)

        @functools.wraps(begin)
        def capture_begin(graph: Any, *args: Any, **kwargs: Any) -> Any:
            before()
            result = begin(graph, *args, **kwargs)
            guarded(self.begun, graph)
            return result

        @functools.wraps(end)
        def capture_end(graph: Any, *args: Any, **kwargs: Any) -> Any:
            # One that raises may leave the capture open (called on another stream).
            result = end(graph, *args, **kwargs)
            guarded(self.ended, graph)
            return result

        @functools.wraps(replay)
        def noted(graph: Any, *args: Any, **kwargs: Any) -> Any:
            if self.trains(graph):
                replayed()
            return replay(graph, *args, **kwargs)

        for name, wrapped in zip(METHODS, (capture_begin, capture_end, noted), strict=True):
            setattr(owner, name, wrapped)


def owners(torch: Any) -> list[Any]:
    """The class that does the work of each kind of graph: the lowest with all three methods. That
    is the C++ class, which a script's own classes and direct calls reach as well; where torch has
    no CUDA, its base is empty and the Python class is taken. Without graphs, none."""
    found = []
    for module, name in KINDS:
        kind = getattr(getattr(torch, module, None), name, None)
        line = kind.__mro__[::-1] if isinstance(kind, type) else ()
        found += [c for c in line if all(hasattr(c, method) for method in METHODS)][:1]
    return found


def is_capturing(torch: Any) -> bool:
    """Does a capture go on where this thread works? Reading a tensor back would break it."""
    try:
        return bool(torch.cuda.is_current_stream_capturing())
    except Exception:  # no CUDA here
        return False
