"""The loss of candidates/small.py with one technique switched off, for each of the fourteen.

    python tests/candidates/ablate_small.py                  all, on every GPU of this machine
    python tests/candidates/ablate_small.py --gpus 1 --only xsa,yarn --seeds 1,2
    python tests/candidates/ablate_small.py --records 85,88,89 --per-gpu 3
    python tests/candidates/ablate_small.py --whole --seeds 1,2,3,4       with the least noise

Each run is a process of its own on one GPU, --per-gpu at a time (one compiles while another trains:
no run is timed); data and caches as for small.py (DATA_PATH, TORCHINDUCTOR_CACHE_DIR). A run is the
first 300 steps of the program. What acts only later (YaRN, the untying) or fades out later (MTP) is
compared within the whole schedule squeezed into 300 steps, against a run of its own kind with
everything on; and so are the programs of later records, whose lower loss is what they can spend on
fewer steps. With --whole everything is: the cooldown brings equal runs together (a spread of 0.004
nats at its end, of 0.006 before it), for twice the tokens. Prints one line a run, then the table; a
line that says `failed` is followed by the run's last words.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

SCRIPT = Path(__file__).parents[2] / "candidates" / "small.py"
EARLY = (
    "mudd", "xsa", "bigram", "value_embeds", "paired_heads", "key_offset", "smear", "gates",
    "normuon", "cautious_decay", "mantissa",
)  # fmt: skip
LATE = ("mtp", "yarn", "untie")  # seen in a whole schedule only
VAL_LOSS = re.compile(r"^step:(\d+)/\d+ val_loss:(\S+) ", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One run: the technique that is off ("" for none), the kind of schedule, the seed, and whose
    program it is."""

    off: str
    whole: bool
    seed: int
    record: int = 84

    def arguments(self, steps: int) -> list[str]:
        """Of small.py. Squeezed, the last steps are the extension: 10, from record 85 on 15."""
        scheduled = steps - (10 if self.record == 84 else 15)
        length = ["--schedule", str(scheduled)] if self.whole else ["--steps", str(steps)]
        off = ["--ablate", self.off] if self.off else []
        of = ["--record", str(self.record)]
        return [*length, *of, *off, "--seed", str(self.seed), "--val-every", "0"]

    def __str__(self) -> str:
        name = f"record {self.record}" if self.record != 84 else self.off or "all on"
        kind = "whole schedule" if self.whole else "first steps"
        return f"{name}, {kind}, seed {self.seed}"


def runs_of(
    names: Sequence[str], seeds: Sequence[int], records: Sequence[int] = (), whole: bool = False
) -> list[Run]:
    """The references of the kinds that occur, then names and records, seed by seed."""
    kinds = sorted({whole or name in LATE for name in names} | ({True} if records else set()))
    off = [("", kind) for kind in kinds] + [(name, whole or name in LATE) for name in names]
    return [
        run
        for seed in seeds
        for run in (
            *(Run(name, whole, seed) for name, whole in off),
            *(Run("", True, seed, record) for record in records),
        )
    ]


def execute(run: Run, gpus: "Queue[str]", steps: int, command: Sequence[str]) -> float | None:
    """Final validation loss in nats, or None; waits for a free GPU."""
    gpu = gpus.get()
    try:
        done = subprocess.run(
            [*command, *run.arguments(steps)], capture_output=True, text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu},
        )  # fmt: skip
    finally:
        gpus.put(gpu)
    found = VAL_LOSS.findall(done.stdout)
    if done.returncode or not found or int(found[-1][0]) != steps:
        print(f"{run}: failed\n{done.stdout[-500:]}{done.stderr[-1500:]}")
        return None
    print(f"{run}: {found[-1][1]}", flush=True)
    return float(found[-1][1])


def difference(pairs: Iterable[tuple[float | None, float | None]]) -> str:
    """Mean of (worse - better) over the pairs of which both ran, and how many these are."""
    found = [worse - better for worse, better in pairs if worse is not None and better is not None]
    return f"{sum(found) / len(found):+.4f} | {len(found)}" if found else "not measured | 0"


def table(
    losses: dict[Run, float], names: Sequence[str], seeds: Sequence[int],
    records: Sequence[int] = (), whole: bool = False,
) -> Iterator[str]:  # fmt: skip
    """Markdown rows: the mean over seeds of loss without the technique minus loss with it."""
    yield "| technique | compared in | loss without − loss with | runs |"
    yield "|---|---|---|---|"
    for name in names:
        kind = whole or name in LATE
        pairs = ((losses.get(Run(name, kind, s)), losses.get(Run("", kind, s))) for s in seeds)
        yield f"| `{name}` | {'whole schedule' if kind else 'first steps'} | {difference(pairs)} |"
    for record in records:
        pairs = (
            (losses.get(Run("", True, s)), losses.get(Run("", True, s, record))) for s in seeds
        )
        yield f"| record {record} over 84 | whole schedule | {difference(pairs)} |"


def gpu_names() -> list[str]:
    """Every GPU this process may use; one nameless place where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        return visible.split(",")
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        listed = ""
    return [str(i) for i in range(listed.count("GPU "))] or [""]


def main(argv: Sequence[str] | None = None, command: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(EARLY + LATE), metavar="A,B")
    parser.add_argument("--seeds", default="1", metavar="1,2", help="one run a seed (default 1)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--gpus", type=int, help="use so many of them (default: all)")
    parser.add_argument("--per-gpu", type=int, default=1, help="runs at a time on each (1)")
    parser.add_argument("--whole", action="store_true", help="compare all in the whole schedule")
    parser.add_argument("--records", default="", metavar="85,89", help="programs to compare too")
    given = parser.parse_args(argv)
    names, seeds = given.only.split(","), [int(seed) for seed in given.seeds.split(",")]
    records = [int(record) for record in given.records.split(",") if record]
    if unknown := [name for name in names if name not in EARLY + LATE]:
        parser.error(f"{', '.join(unknown)}: not among {', '.join(EARLY + LATE)}")
    if given.steps < 21:
        parser.error("--steps must be at least 21: six of the squeezed schedule, 15 after it")
    gpus: Queue[str] = Queue()
    for name in gpu_names()[: given.gpus] * given.per_gpu:
        gpus.put(name)
    runs = runs_of(names, seeds, records, given.whole)
    with ThreadPoolExecutor(gpus.qsize()) as pool:
        results = pool.map(
            lambda run: execute(run, gpus, given.steps, command or [sys.executable, str(SCRIPT)]),
            runs,
        )
        losses = {run: loss for run, loss in zip(runs, results, strict=True) if loss is not None}
    print("\n".join(["", *table(losses, names, seeds, records, given.whole)]))
    return 0 if len(losses) == len(runs) else 5


if __name__ == "__main__":
    sys.exit(main())
