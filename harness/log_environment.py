"""The environment block of a log: versions, GPUs, and who else was on them before the start.

Four layouts exist: nvidia-smi's table (two widths of columns), a home-made table ("nvidia-smi not
found. Using library functions instead."), `Running PyTorch … on <GPU> with world_size 8`, and
`Running on device_name=<GPU> with world_size=8`. A captured stdout may list `GPU 0: NVIDIA H200
(UUID: …)` instead: the wrapper's word, not the script's, and kept apart as `listed_gpus`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

BUSY_UTILIZATION_PERCENT = 50
"""Measured in 52 logs: 0-22 % before the start; 100 % where another job ran."""

BUSY_MEMORY_MIB = 32_768
"""Its own contexts and weights take 0.5-21 GiB by then; another job's took 49 GiB."""

LONGEST_LINE = 500
"""Tables are under 120 characters wide; longer lines only cost the patterns time."""


@dataclass(frozen=True, slots=True)
class LogEnvironment:
    """What a log states about node and software; None or () where it states nothing.

    torch, python, triton    versions as printed (`2.10.0.dev20251210+cu126`)
    cuda                     CUDA that torch was compiled for
    driver, driver_cuda      NVIDIA driver, and the CUDA it supports
    gpu                      name of the GPUs; several different names are joined by " + "
    gpu_count                rows of the GPU table
    world_size               processes, where the log says so
    gpu_utilization_percent  one value a GPU, before the start
    gpu_memory_used_mib      one value a GPU, before the start
    gpu_processes            rows of the process table (its own ranks included), None without one
    listed_gpus              GPU names a wrapper listed outside an environment block
    """

    torch: str | None = None
    python: str | None = None
    triton: str | None = None
    cuda: str | None = None
    driver: str | None = None
    driver_cuda: str | None = None
    gpu: str | None = None
    gpu_count: int | None = None
    world_size: int | None = None
    gpu_utilization_percent: tuple[int, ...] = ()
    gpu_memory_used_mib: tuple[int, ...] = ()
    gpu_processes: int | None = None
    listed_gpus: tuple[str, ...] = ()

    @property
    def gpu_busy(self) -> tuple[int, ...]:
        """Indices of GPUs that something else seems to have used before the start."""
        busy = {
            i for i, v in enumerate(self.gpu_utilization_percent) if v >= BUSY_UTILIZATION_PERCENT
        }
        busy |= {i for i, v in enumerate(self.gpu_memory_used_mib) if v >= BUSY_MEMORY_MIB}
        return tuple(sorted(busy))


_PYTHON = re.compile(r"Running [Pp]ython (\S{1,80})")
_TORCH = re.compile(r"Running [Pp]y[Tt]orch (\S{1,80})(?: compiled for CUDA (\S{1,40}))?(.*)")
_TRITON = re.compile(r"Running Triton version (\S{1,80})")
_SUFFIX = re.compile(r" on (.{1,120}) with world_size (\d{1,6})\s*\Z")
_DEVICE = re.compile(r"Running on device_name=(.{1,120}?) with world_size=(\d{1,6})\s*\Z")
_DRIVER = re.compile(r"Driver Version: (\S{1,40})\s+CUDA Version: (\S{1,40})")
_SMI_NAME = re.compile(r"\|\s+\d+\s+(\S.{0,80}?)\s+(?:On|Off|N/A)\s+\|\s+[0-9A-Fa-f]{8}:")
_SMI_USE = re.compile(r"\|.{1,60}\|\s*(\d{1,9})MiB\s*/\s*\d{1,9}MiB\s*\|\s*(\d{1,3})%")
_SMI_PROCESS = re.compile(r"\|\s+\d+\s+\S+\s+\S+\s+\d+\s+(?:C|G|C\+G|M\+C)\s")
_OWN_ROW = re.compile(r"\d+\s{1,8}(\S.{0,80}?)\s{2,}\d+\s+\d+\s+(\d{1,9})\s+\d+\s+(\d{1,3})\s*%")
_LISTED = re.compile(r"GPU \d+: (.{1,120}?) \(UUID: ")


def parse_environment(lines: Iterable[str], *, block: bool = True) -> LogEnvironment:
    """Read the lines between the source and the first result.

    With `block` False the lines are what a wrapper printed before a bare stdout: only
    `listed_gpus` is taken from them.
    """
    stated: dict[str, str] = {}
    names: list[str] = []
    utilization: list[int] = []
    memory: list[int] = []
    listed: list[str] = []
    processes: int | None = None
    world_size: int | None = None
    for line in lines:
        if len(line) > LONGEST_LINE:
            continue
        if line.startswith("GPU "):
            if (row := _LISTED.match(line)) is not None:
                listed.append(row[1])
        elif not block:
            continue
        elif line.startswith("Running "):
            _read_running(line, stated)
            if (suffix := _SUFFIX.search(line) or _DEVICE.match(line)) is not None:
                names = names or [suffix[1]]
                world_size = int(suffix[2])
        elif line.startswith("|"):
            if (driver := _DRIVER.search(line)) is not None:
                stated.setdefault("driver", driver[1])
                stated.setdefault("driver_cuda", driver[2])
            elif (use := _SMI_USE.match(line)) is not None:
                memory.append(int(use[1]))
                utilization.append(int(use[2]))
            elif (name := _SMI_NAME.match(line)) is not None:
                names.append(name[1])
            elif "Processes:" in line:
                processes = 0
            elif processes is not None and _SMI_PROCESS.match(line) is not None:
                processes += 1
        elif line[:1].isdigit() and (own := _OWN_ROW.match(line)) is not None:
            names.append(own[1])
            memory.append(int(own[2]))
            utilization.append(int(own[3]))
    return LogEnvironment(
        torch=stated.get("torch"),
        python=stated.get("python"),
        triton=stated.get("triton"),
        cuda=stated.get("cuda"),
        driver=stated.get("driver"),
        driver_cuda=stated.get("driver_cuda"),
        gpu=" + ".join(dict.fromkeys(names)) or None,
        gpu_count=len(utilization) or None,
        world_size=world_size,
        gpu_utilization_percent=tuple(utilization),
        gpu_memory_used_mib=tuple(memory),
        gpu_processes=processes,
        listed_gpus=tuple(listed),
    )


def _read_running(line: str, stated: dict[str, str]) -> None:
    if (python := _PYTHON.match(line)) is not None:
        stated.setdefault("python", python[1])
    elif (torch := _TORCH.match(line)) is not None:
        stated.setdefault("torch", torch[1])
        if torch[2]:
            stated.setdefault("cuda", torch[2])
    elif (triton := _TRITON.match(line)) is not None:
        stated.setdefault("triton", triton[1])
