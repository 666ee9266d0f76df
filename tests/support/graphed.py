"""The mini trainer with the backward pass of its step in a CUDA graph, on a machine without CUDA.

The methods that torch's graph class inherits are not there without CUDA; stand-ins do their work:
what is called in a capture leaves nothing behind, and a replay computes it, past `torch.autograd`'s
functions as on a GPU.
"""

from __future__ import annotations

STAND_IN = '''torch.set_num_threads(1)


class Driver(torch.cuda.CUDAGraph.__mro__[1]):
    def __new__(cls, *_):
        return object.__new__(cls)

    def __init__(self, *_):
        pass

    def capture_begin(self, **_):
        pass

    def capture_end(self):
        pass

    def replay(self):
        self.work()


for name in ("__new__", "__init__", "capture_begin", "capture_end", "replay"):
    setattr(Driver.__mro__[1], name, Driver.__dict__[name])


class Step:
    """The gradients of one model's step: captured at the first batch, replayed for each."""

    of = {}

    def __init__(self, model, batch):
        self.model, self.batch = model, [part.clone() for part in batch]
        self.graph = torch.cuda.CUDAGraph()
        self.graph.capture_begin()
        self.loss().backward()
        self.graph.capture_end()
        for p in model.parameters():
            p.grad = None
        self.graph.work = self.work

    def loss(self):
        inputs, targets = self.batch
        return F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())

    def work(self):
        loss = self.loss()
        torch.autograd.Variable._execution_engine.run_backward(
            (loss,), (torch.ones_like(loss),), False, False, (), True, True
        )

    @classmethod
    def replay(cls, model, batch):
        step = cls.of.setdefault(id(model), None) or cls(model, batch)
        cls.of[id(model)] = step
        for part, new in zip(step.batch, batch, strict=True):
            part.copy_(new)
        step.graph.replay()
'''
CALL = "    F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()\n"
GRAPHED = (
    ("torch.set_num_threads(1)\n", STAND_IN),
    ("    inputs, targets = batch\n" + CALL, "    Step.replay(model, batch)\n"),
)
"""What is replaced in the honest trainer (tests/support/bench.py); a cheat's own lines follow."""
