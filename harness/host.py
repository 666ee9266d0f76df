"""The machine under the harness: processor, memory, container, load. Reads files, starts nothing.

Everything here answers "" or None where the system does not say; nothing raises.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from pathlib import Path

_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_DMI = Path("/sys/class/dmi/id")
# Reading /proc/cpuinfo interrupts every core for its frequency; on large nodes that is left alone.
_CPUINFO_CORES = 16


def read_text(path: Path, limit: int = 65536) -> str:
    """First `limit` characters of a system file, stripped; empty if it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as handle:
            return handle.read(limit).strip()
    except OSError:
        return ""


def cpu_model() -> str:
    """Processor name, as the kernel states it."""
    match = re.search(r"^model name\s*:\s*(.+)$", read_text(Path("/proc/cpuinfo")), re.M)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def usable_cores() -> float:
    """Cores this process may use: affinity and, in a container, the cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = float(len(os.sched_getaffinity(0)))
    else:
        cores = float(os.cpu_count() or 1)
    quota = read_text(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(quota) == 2 and quota[0].isdigit() and int(quota[1]) > 0:
        cores = min(cores, round(int(quota[0]) / int(quota[1]), 2))
    return cores


def governor() -> str | None:
    """Frequency governor of the first core; None where it is not shown (virtual machines)."""
    return read_text(_CPUFREQ / "scaling_governor") or None


def cpu_mhz() -> float | None:
    """Clock of the first core now, MHz; None where it cannot be read cheaply."""
    khz = read_text(_CPUFREQ / "scaling_cur_freq")
    if khz.isdigit():
        return round(int(khz) / 1000, 1)
    if (os.cpu_count() or 1) > _CPUINFO_CORES:
        return None
    match = re.search(r"^cpu MHz\s*:\s*([0-9.]+)", read_text(Path("/proc/cpuinfo")), re.M)
    return round(float(match.group(1)), 1) if match else None


def load_1m() -> float | None:
    """Load average over the last minute; None on systems without one."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def cpu_times_s() -> tuple[float, float, float]:
    """(busy, stolen by the hypervisor, all) seconds of all cores since boot."""
    import psutil

    times = psutil.cpu_times()._asdict()
    times.pop("guest", None)  # already inside user and nice
    times.pop("guest_nice", None)
    total = sum(times.values())
    idle = times.get("idle", 0.0) + times.get("iowait", 0.0)
    steal = times.get("steal", 0.0)
    return round(total - idle - steal, 2), round(steal, 2), round(total, 2)


def virtualisation() -> str:
    """Container and hypervisor, as far as files tell: "docker on kvm", "bare metal?"."""
    container = ""
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        container = "kubernetes"
    elif Path("/.dockerenv").exists():
        container = "docker"
    elif Path("/run/.containerenv").exists():
        container = "podman"
    elif match := re.search(
        r"docker|kubepods|containerd|lxc|libpod", read_text(Path("/proc/1/cgroup"))
    ):
        container = match.group(0)
    hypervisor = ""
    if re.search(r"^flags\s*:.*\bhypervisor\b", read_text(Path("/proc/cpuinfo")), re.M):
        product = f"{read_text(_DMI / 'sys_vendor')} {read_text(_DMI / 'product_name')}".strip()
        hypervisor = f"virtual machine ({product})" if product else "virtual machine"
    return " on ".join(part for part in (container, hypervisor) if part) or "none seen"


def node_sha256(gpu_uuids: list[str], cpu: str, memory_gib: float) -> str:
    """A hash that says "the same node" without naming it.

    With GPUs it is made of their UUIDs alone: a container that is started anew on the same node
    has another host name, and often the machine-id of its image. Without GPUs it is machine-id
    (plus host name inside a container, where many share one image), processor and memory.
    """
    if gpu_uuids:
        parts = ["gpus", *sorted(gpu_uuids)]
    else:
        identity = read_text(Path("/etc/machine-id")) or read_text(Path("/var/lib/dbus/machine-id"))
        in_container = not virtualisation().startswith(("none", "virtual"))
        if in_container or not identity:
            identity += "|" + platform.node()
        parts = ["host", identity, cpu, f"{memory_gib:.1f}"]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
