"""Small training scripts for the static checks: an honest one, and what is added to it."""

from __future__ import annotations

import textwrap

from harness.scan.finding import Finding
from harness.scan.scan import scan_flags
from harness.source import Source
from harness.tracks.track import load_track

HONEST = '''
"""A script that keeps the contract; step:1/1 val_loss:3.2 stands here as an example."""

import os
import subprocess
import sys
import time

os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"

import torch
import torch._dynamo as dynamo
import torch.distributed as dist

dynamo.config.recompile_limit = 64

# <added>

STEPS = 100
MASTER = int(os.environ.get("RANK", 0)) == 0


def print0(text):
    if MASTER:
        print(text, flush=True)


def load_tokens(pattern):
    return torch.from_file(os.path.join(os.environ.get("DATA_PATH", "."), pattern))


def validate(model, tokens):
    val_loss = 0
    for batch in tokens:
        val_loss += model(batch)
    val_loss /= len(tokens)
    dist.all_reduce(val_loss, op=dist.ReduceOp.AVG)
    return val_loss


def main():
    print0(subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout)
    model = torch.compile(build(), dynamic=False, fullgraph=True)
    val_loss = float("nan")
    training_time_ms = 0
    torch.cuda.synchronize()
    t0 = time.perf_counter()
    for step in range(STEPS + 1):
        if step == STEPS:
            torch.cuda.synchronize()
            training_time_ms += 1000 * (time.perf_counter() - t0)
            val_loss = validate(model, load_tokens("fineweb_val_*.bin"))
            print0(
                f"step:{step}/{STEPS} val_loss:{val_loss:.6f} "
                f"train_time:{training_time_ms:.0f}ms "
                f"step_avg:{training_time_ms / max(step, 1):.2f}ms"
            )


if __name__ == "__main__":
    main()
'''


def honest_with(added: str) -> str:
    """The honest script with a piece of code added to it."""
    return HONEST.replace("# <added>", textwrap.dedent(added))


def scan(added: str = "", track: str = "small", **siblings: str) -> tuple[Finding, ...]:
    """Findings of the honest script with `added` in it; siblings are files beside it."""
    return scan_text(honest_with(added), track, **siblings)


def scan_text(text: str, track: str = "small", **siblings: str) -> tuple[Finding, ...]:
    files = {"script.py": text}
    files |= {f"{name}.py": textwrap.dedent(code) for name, code in siblings.items()}
    return scan_flags(Source("script.py", files), load_track(track))


def broken(findings: tuple[Finding, ...]) -> list[str]:
    """Rules that are certainly broken."""
    return [finding.rule for finding in findings if finding.severity == "fail"]


def clean(findings: tuple[Finding, ...]) -> bool:
    """Neither broken nor odd; says what stands there when a test fails."""
    alarms = [finding.text() for finding in findings if finding.severity != "note"]
    assert not alarms, alarms
    return True
