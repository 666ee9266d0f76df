"""Which of several programs of candidates/small.py takes a micro-batch faster, on one GPU.

    python tests/candidates/compare_small.py "" "--ablate fused_heads"
    python tests/candidates/compare_small.py --stages 1,2,3 "" "--record 84" "--record 85"

Each argument is what small.py would be given; the others are held against the first. All are set
up in this process as one rank of eight and recorded as in a run, then take turns: in every round
each does --repeats pairs of micro-batches of a stage, the second added to the first as that of an
Adam step is, in an order that changes, so that what a GPU's clock does over a minute meets all of
them alike. Updates and communication are left out. Printed, for one micro-batch, are the median of
the rounds and, for the others, the mean of the paired differences with its standard error. Data as
for small.py; profiles of whole programs are profile_small.py's.
"""

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from profile_small import load


def order(count: int, turn: int) -> list[int]:
    """Who runs when in this round: the programs rotate, and every other round goes backwards."""
    shifted = [(turn // 2 + i) % count for i in range(count)]
    return shifted[::-1] if turn % 2 else shifted


def difference(first: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """(mean of other - first, its standard error), paired by round."""
    deltas = [b - a for a, b in zip(first, other, strict=True)]
    spread = statistics.stdev(deltas) if len(deltas) > 1 else float("nan")
    return statistics.fmean(deltas), spread / len(deltas) ** 0.5


def describe(name: str, times: Sequence[float], first: Sequence[float] | None) -> str:
    """A line for one program: its median and what it differs by from the first."""
    line = f"  {statistics.median(times):8.3f} ms  {name or '(the default program)'}"
    if first is None:
        return line
    mean, error = difference(first, times)
    return f"{line}: {mean:+.3f} +- {error:.3f} ms"


class Program:
    """One program, ready to do micro-batches as one rank of eight."""

    def __init__(self, small: Any, name: str, device: Any) -> None:
        self.small, self.name = small, name
        cfg, _ = small.parse(shlex.split(name))
        self.cfg, _ = small.fit_to_device(cfg, device)
        self.trainer = small.Trainer(self.cfg, 0, small.SLOTS, device, small.Log(1))
        self.trainer.accumulation = 1
        self.trainer.model.set_grad_scale(1.0)
        self.trainer.optimizer.sparse = None
        self.loader = small.TrainLoader(self.cfg, 0, small.SLOTS, device)

    def two_steps(self, stage: int) -> None:
        """The passes of a step without Adam and of the next: its banks' gradients are new, what
        else there is grows."""
        step = self.trainer.schedule.starts[stage] + 2
        self.trainer.forward_backward(self.loader, step)
        for p in self.trainer.optimizer.bank_params:
            p.grad = None
        self.trainer.forward_backward(self.loader, step + 1)
        self.trainer.model.zero_grad(set_to_none=True)

    def prepare(self, stage: int) -> None:
        """Compile and record a stage."""
        self.trainer.set_stage(self.trainer.schedule.starts[stage])
        self.trainer.recording = self.cfg.graphs
        self.two_steps(stage)
        self.trainer.recording = False
        refused = self.trainer.passes.refused if self.trainer.passes is not None else {}
        for why in refused.values():  # these run kernel by kernel: another thing than is compared
            print(f"not recorded: a pass of {self.name or 'the default program'} ({why})")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="+", help='arguments of small.py, "" for none')
    parser.add_argument("--stages", default="1,3", metavar="A,B")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=2, help="pairs of micro-batches a turn (2)")
    given = parser.parse_args(argv)
    stages = [int(number) - 1 for number in given.stages.split(",")]
    if not set(stages) <= {0, 1, 2}:
        parser.error(f"--stages {given.stages}: 1, 2 and 3 are the stages")

    import torch

    if not torch.cuda.is_available():
        print("error: comparing needs a GPU", file=sys.stderr)
        return 4
    small, device = load(), torch.device("cuda", 0)
    attention = small.find_attention(device)
    small.use_attention(attention)
    print(torch.cuda.get_device_name(), f"attention: {attention.name}", sep="\n")
    small.leave_default_stream(small.Config(), device)
    began = time.perf_counter()
    programs = [Program(small, name, device) for name in given.programs]
    for stage in stages:
        for program in programs:
            program.prepare(stage)
            torch.cuda.synchronize()
        print(f"compiled after {time.perf_counter() - began:.0f} s", flush=True)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        times: list[list[float]] = [[] for _ in programs]
        for turn in range(-2, given.rounds):  # the first two only warm the GPU
            for i in order(len(programs), turn):
                marks[0].record()
                for _ in range(given.repeats):
                    programs[i].two_steps(stage)
                marks[1].record()
                torch.cuda.synchronize()
                if turn >= 0:
                    times[i].append(marks[0].elapsed_time(marks[1]) / (2 * given.repeats))
        print(f"stage {stage + 1}, {given.rounds} rounds of {given.repeats} pairs:")
        for i, program in enumerate(programs):
            print(describe(program.name, times[i], times[0] if i else None), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
