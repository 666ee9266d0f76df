"""The command that starts a run: torchrun on this node, as upstream scripts expect it."""

from __future__ import annotations

from typing import Literal


def run_command(
    launcher: Literal["torchrun", "python"], python: str, script: str, processes: int
) -> tuple[str, ...]:
    """`torchrun --standalone --nproc-per-node=N script`, started as a module so that `python`
    decides the interpreter, not whatever `torchrun` stands first on PATH; or `python script`."""
    if launcher == "python":
        return (python, script)
    return (
        python,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        script,
    )
