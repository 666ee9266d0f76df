"""Whose processes are on the GPUs: ours, or somebody else's.

NVML reports process ids as the host numbers them. Inside a container they may not exist here, or
name an unrelated process by chance; so an id counts as known only if that process holds an NVIDIA
device open (where its files may be read at all).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.nvml import Device, Nvml, open_nvml

# A CUDA context takes 400-500 MiB on Hopper; an idle card holds a few MiB beside the reserve.
UNEXPLAINED_MIB = 256


@dataclass(frozen=True, slots=True)
class ForeignProcess:
    """A process, or memory that nobody visible holds, on a GPU the runs would use."""

    gpu: int
    pid: int | None
    name: str
    memory_mib: int | None

    def __str__(self) -> str:
        size = "" if self.memory_mib is None else f", {self.memory_mib} MiB"
        number = "" if self.pid is None else f" (pid {self.pid}{size})"
        return f"GPU {self.gpu}: {self.name}{number}"


class Ownership:
    """Tells the process tree under `root_pid` from all others.

    An answer, once given, stays while the id is listed: workers whose launcher has died are
    still ours. Ids that cannot be resolved here are foreign only if they were there before the
    run began (`before`), as none of ours existed then.
    """

    def __init__(self, root_pid: int, before: frozenset[int] = frozenset()) -> None:
        self.root_pid = root_pid
        self.before = before
        self._known: dict[int, bool] = {}

    def foreign(self, pids: list[int]) -> list[int]:
        """Those of `pids` that are not ours."""
        self._known = {pid: own for pid, own in self._known.items() if pid in pids}
        for pid in pids:
            if pid not in self._known:
                self._known[pid] = self._is_ours(pid)
        return [pid for pid in pids if not self._known[pid]]

    def _is_ours(self, pid: int) -> bool:
        import psutil

        if not holds_nvidia_device(pid):
            return pid not in self.before
        try:
            process = psutil.Process(pid)
            return any(p.pid == self.root_pid for p in (process, *process.parents()))
        except psutil.Error:
            return pid not in self.before


def holds_nvidia_device(pid: int) -> bool:
    """Does this process exist here and hold /dev/nvidia* open? True if its files are private."""
    try:
        for link in os.scandir(f"/proc/{pid}/fd"):
            try:
                if str(Path(link.path).readlink()).startswith("/dev/nvidia"):
                    return True
            except OSError:
                continue
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def foreign_processes(environ: Mapping[str, str] | None = None) -> tuple[ForeignProcess, ...]:
    """What is on the visible GPUs and does not belong to this process tree; () without GPUs."""
    with open_nvml(environ) as nvml:
        owner = Ownership(os.getpid(), before=frozenset(listed_pids(nvml)))
        return tuple(item for gpu in nvml.gpus for item in _on_gpu(nvml, gpu, owner))


def listed_pids(nvml: Nvml) -> list[int]:
    """Process ids on any visible GPU, as NVML numbers them."""
    return sorted({pid for gpu in nvml.gpus for pid, _ in nvml.compute_processes(gpu)})


def _on_gpu(nvml: Nvml, gpu: Device, owner: Ownership) -> list[ForeignProcess]:
    listed = dict(nvml.compute_processes(gpu))
    found = [
        ForeignProcess(gpu=gpu.index, pid=pid, name=_name(pid), memory_mib=listed[pid])
        for pid in owner.foreign(list(listed))
    ]
    used = nvml.memory_mib(gpu.handle)[1]
    if not listed and used is not None and used > UNEXPLAINED_MIB:
        name = f"{used} MiB in use by a process that cannot be seen from here"
        found.append(ForeignProcess(gpu=gpu.index, pid=None, name=name, memory_mib=used))
    return found


def _name(pid: int) -> str:
    import psutil

    if holds_nvidia_device(pid):
        try:
            return psutil.Process(pid).name()
        except psutil.Error:
            pass
    return "a process outside this container"
