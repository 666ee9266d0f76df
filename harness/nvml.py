"""NVML, asked politely: every question the driver cannot answer is None, and no GPU is no error.

Cards, drivers and containers differ in what they support, so `Nvml.ask` turns "not supported",
"no permission" and "function not in this driver" into None; the caller records what is known.
Source of names and units: NVIDIA, "NVML API Reference" (nvml.h); bindings nvidia-ml-py.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

MIB = 1 << 20
NVLINK_MAX = 18  # links of a Hopper card; Blackwell has 18 too

# Bits of nvmlDeviceGetCurrentClocksEventReasons.
THROTTLE_REASONS: dict[int, str] = {
    0x001: "gpu_idle",
    0x002: "application_clocks",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal",
    0x040: "hw_thermal",
    0x080: "hw_power_brake",
    0x100: "display_clocks",
}
# The board itself cut its clocks: too hot, or its power supply asked for it. A power cap set in
# software (0x4) is normal at full load and no slowdown in this sense.
HW_SLOWDOWN_MASK = 0x008 | 0x040 | 0x080

# Cumulative time below the wished clock, nanoseconds since the driver was loaded.
_COUNTER_FIELDS: dict[str, int] = {
    "sw_power_cap_ns": 74,
    "sw_thermal_ns": 269,
    "hw_thermal_ns": 270,
    "hw_power_brake_ns": 271,
}
_NVLINK_ERROR_FIELDS = (38, 45, 52)  # CRC flit, CRC data, replay: totals over all links
_VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


@dataclass(frozen=True)
class Device:
    """One visible GPU; `index` is NVML's (PCI order), whatever CUDA_VISIBLE_DEVICES calls it."""

    index: int
    handle: Any
    uuid: str


@dataclass(frozen=True)
class GpuSample:
    """State of one GPU at a moment; None where the driver does not say."""

    gpu: int
    sm_clock_mhz: int | None
    mem_clock_mhz: int | None
    temp_c: int | None
    power_w: float | None
    throttle: int | None
    util_pct: int | None
    memory_used_mib: int | None


@dataclass
class Nvml:
    """An open session. `problem` says why there are no GPUs, in the driver's words."""

    lib: Any = None
    gpus: list[Device] = field(default_factory=list)
    total: int = 0
    problem: str = ""

    def ask(self, function: str, *arguments: Any) -> Any:
        """Answer of an NVML function, None if this card, driver or binding has none."""
        if self.lib is None:
            return None
        try:
            return getattr(self.lib, function)(*arguments)
        except (self.lib.NVMLError, AttributeError):
            return None

    def text(self, function: str, *arguments: Any) -> str:
        """Answer as text; old bindings give bytes. Empty if there is none."""
        answer = self.ask(function, *arguments)
        if isinstance(answer, bytes):
            answer = answer.decode(errors="replace")
        return "" if answer is None else str(answer)

    def constant(self, name: str, default: int) -> int:
        return int(getattr(self.lib, name, default))

    def fields(self, handle: Any, ids: Sequence[int]) -> list[int | None]:
        """Field values; None for each one that is not supported."""
        answer = self.ask("nvmlDeviceGetFieldValues", handle, list(ids))
        if answer is None:
            return [None] * len(ids)
        values: list[int | None] = []
        for item in answer:
            known = item.nvmlReturn == 0 and 0 <= item.valueType < len(_VALUE_MEMBERS)
            member = _VALUE_MEMBERS[item.valueType] if known else ""
            values.append(int(getattr(item.value, member)) if known else None)
        return values

    def memory_mib(self, handle: Any) -> tuple[int | None, int | None]:
        """(total, used) MiB. Used is without the driver's own reserve (several hundred MiB on
        Hopper), so it is None for drivers before 510, which add the two."""
        version = getattr(self.lib, "nvmlMemory_v2", None)
        if version and (info := self.ask("nvmlDeviceGetMemoryInfo", handle, version)):
            return int(info.total) // MIB, int(info.used) // MIB
        info = self.ask("nvmlDeviceGetMemoryInfo", handle)
        return (int(info.total) // MIB if info else None), None

    def sample(self, gpu: Device) -> GpuSample:
        """Clocks, temperature, power, throttle reasons of one GPU, now."""
        handle = gpu.handle
        power_mw = self.ask("nvmlDeviceGetPowerUsage", handle)
        utilisation = self.ask("nvmlDeviceGetUtilizationRates", handle)
        throttle = self.ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if throttle is None:  # drivers before 535 know it by its old name
            throttle = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        clock, memory_clock = self.constant("NVML_CLOCK_SM", 1), self.constant("NVML_CLOCK_MEM", 2)
        return GpuSample(
            gpu=gpu.index,
            sm_clock_mhz=self.ask("nvmlDeviceGetClockInfo", handle, clock),
            mem_clock_mhz=self.ask("nvmlDeviceGetClockInfo", handle, memory_clock),
            temp_c=self.ask("nvmlDeviceGetTemperature", handle, 0),
            power_w=None if power_mw is None else round(power_mw / 1000, 1),
            throttle=throttle,
            util_pct=None if utilisation is None else int(utilisation.gpu),
            memory_used_mib=self.memory_mib(handle)[1],
        )

    def counters(self, gpu: Device) -> dict[str, int | None]:
        """Cumulative counters of one GPU. Reading them before and after a run costs it nothing."""
        handle = gpu.handle
        counts: dict[str, int | None] = dict(
            zip(_COUNTER_FIELDS, self.fields(handle, tuple(_COUNTER_FIELDS.values())), strict=True)
        )
        for name, policy in (("violation_power_ns", 0), ("violation_thermal_ns", 1)):
            violation = self.ask("nvmlDeviceGetViolationStatus", handle, policy)
            counts[name] = None if violation is None else int(violation.violationTime)
        counts["energy_mj"] = self.ask("nvmlDeviceGetTotalEnergyConsumption", handle)
        counts["ecc_corrected"] = self.ask("nvmlDeviceGetTotalEccErrors", handle, 0, 0)
        counts["ecc_uncorrected"] = self.ask("nvmlDeviceGetTotalEccErrors", handle, 1, 0)
        counts["pcie_replays"] = self.ask("nvmlDeviceGetPcieReplayCounter", handle)
        links = [n for n in self.fields(handle, _NVLINK_ERROR_FIELDS) if n is not None]
        counts["nvlink_errors"] = sum(links) if links else None
        return {"gpu": gpu.index, **counts}

    def compute_processes(self, gpu: Device) -> list[tuple[int, int | None]]:
        """(pid, MiB used or None) of every process with a compute context on this GPU."""
        answer = self.ask("nvmlDeviceGetComputeRunningProcesses", gpu.handle) or []
        return [
            (int(p.pid), None if p.usedGpuMemory is None else int(p.usedGpuMemory) // MIB)
            for p in answer
        ]

    def nvlinks(self, gpu: Device) -> int | None:
        """Active NVLink connections; None where the card has none."""
        states = [self.ask("nvmlDeviceGetNvLinkState", gpu.handle, i) for i in range(NVLINK_MAX)]
        known = [state for state in states if state is not None]
        return sum(int(state) for state in known) if known else None


def visible_indices(uuids: Sequence[str], environ: Mapping[str, str]) -> list[int]:
    """NVML indices that CUDA_VISIBLE_DEVICES leaves, in its order; all of them if it is unset.

    As CUDA does, the list ends at the first entry that names no device. MIG names cannot be
    mapped to whole cards: then all cards are given.
    """
    wished = environ.get("CUDA_VISIBLE_DEVICES")
    if wished is None:
        return list(range(len(uuids)))
    chosen: list[int] = []
    for entry in (part.strip() for part in wished.split(",")):
        if entry.startswith("MIG-"):
            return list(range(len(uuids)))
        if entry.isdigit():
            matches = [int(entry)] if int(entry) < len(uuids) else []
        else:
            matches = [
                i for i, u in enumerate(uuids) if entry[:4] == "GPU-" and u.startswith(entry)
            ]
        if len(matches) != 1 or matches[0] in chosen:
            break
        chosen.append(matches[0])
    return chosen


@contextmanager
def open_nvml(environ: Mapping[str, str] | None = None) -> Iterator[Nvml]:
    """A session over the visible GPUs; without a driver, one with no GPUs and a `problem`."""
    try:
        lib = importlib.import_module("pynvml")
    except ImportError as error:
        yield Nvml(problem=str(error))
        return
    try:
        lib.nvmlInit()
    except (lib.NVMLError, OSError) as error:
        yield Nvml(problem=str(error))
        return
    try:
        nvml = Nvml(lib=lib)
        devices: list[Device] = []
        for index in range(int(nvml.ask("nvmlDeviceGetCount") or 0)):
            handle = nvml.ask("nvmlDeviceGetHandleByIndex", index)
            if handle is None:
                nvml.problem = f"GPU {index} does not answer (fallen off the bus?)"
                devices.append(Device(index, None, ""))
            else:
                devices.append(Device(index, handle, nvml.text("nvmlDeviceGetUUID", handle)))
        chosen = visible_indices(
            [d.uuid for d in devices], os.environ if environ is None else environ
        )
        nvml.total = len(devices)
        nvml.gpus = [devices[i] for i in chosen if devices[i].handle is not None]
        yield nvml
    finally:
        Nvml(lib=lib).ask("nvmlShutdown")
