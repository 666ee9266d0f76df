"""A pretended NVML: eight H100s by default, everything settable through STATE or $FAKE_NVML (JSON).

Every function that this file does not have raises NVMLError, as an old driver does.
"""

import json
import os
from types import SimpleNamespace

NVML_CLOCK_SM = 1
NVML_CLOCK_MEM = 2
nvmlMemory_v2 = 2
MIB = 1 << 20

DEFAULT = {
    "name": "NVIDIA H100 80GB HBM3",
    "count": 8,
    "driver": "580.82.07",
    "cuda": 13000,
    "capability": [9, 0],
    "memory_mib": 81559,
    "used_mib": 4,
    "power_limit_mw": 700000,
    "throttle": {},  # GPU -> bitmask; 0x4 (software power cap) elsewhere
    "hw_thermal_ns": 0,  # growth of the counter between two readings
    "pids": {},  # GPU -> list of pids
    "pids_reads": 10**9,  # how often each GPU lists them before they are gone
    "unsupported": [],
    "init_error": "",
}
STATE = {**DEFAULT, **json.loads(os.environ.get("FAKE_NVML", "{}"))}
_reads = {}
_listed = {}


class NVMLError(Exception):
    pass


def _of(name, gpu, default):
    return STATE[name].get(str(gpu), STATE[name].get(gpu, default))


def nvmlInit():
    if STATE["init_error"]:
        raise NVMLError(STATE["init_error"])


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return STATE["count"]


def nvmlDeviceGetHandleByIndex(index):
    return index


def nvmlDeviceGetUUID(gpu):
    return f"GPU-{gpu}a6f0e64-0000-4000-8000-00000000000{gpu}"


def nvmlDeviceGetName(gpu):
    return STATE["name"].encode()  # as old bindings give it


def nvmlSystemGetDriverVersion():
    return STATE["driver"]


def nvmlSystemGetCudaDriverVersion_v2():
    return STATE["cuda"]


def nvmlDeviceGetVbiosVersion(gpu):
    return "96.00.89.00.01"


def nvmlDeviceGetCudaComputeCapability(gpu):
    return tuple(STATE["capability"])


def nvmlDeviceGetMemoryInfo(gpu, version=None):
    return SimpleNamespace(total=STATE["memory_mib"] * MIB, used=STATE["used_mib"] * MIB)


def nvmlDeviceGetEnforcedPowerLimit(gpu):
    return STATE["power_limit_mw"]


def nvmlDeviceGetPowerManagementDefaultLimit(gpu):
    return 700000


def nvmlDeviceGetMaxClockInfo(gpu, kind):
    return 1980


def nvmlDeviceGetMaxPcieLinkGeneration(gpu):
    return 5


def nvmlDeviceGetMaxPcieLinkWidth(gpu):
    return 16


def nvmlDeviceGetNvLinkState(gpu, link):
    if link >= 18:
        raise NVMLError("no such link")
    return 1


def nvmlDeviceGetEccMode(gpu):
    return (1, 1)


def nvmlDeviceGetPersistenceMode(gpu):
    return 1


def nvmlDeviceGetClockInfo(gpu, kind):
    return {NVML_CLOCK_SM: 1755 - 15 * gpu, NVML_CLOCK_MEM: 2619}[kind]


def nvmlDeviceGetTemperature(gpu, sensor):
    return 60 + gpu


def nvmlDeviceGetPowerUsage(gpu):
    return 690500


def nvmlDeviceGetUtilizationRates(gpu):
    return SimpleNamespace(gpu=99, memory=40)


def nvmlDeviceGetCurrentClocksEventReasons(gpu):
    return _of("throttle", gpu, 0x4)


def nvmlDeviceGetTotalEnergyConsumption(gpu):
    _reads[gpu] = _reads.get(gpu, 0) + 1
    return 5_000_000 + 700_000 * _reads[gpu]


def nvmlDeviceGetPcieReplayCounter(gpu):
    return 3


def nvmlDeviceGetTotalEccErrors(gpu, kind, counter):
    return 0


def nvmlDeviceGetFieldValues(gpu, ids):
    growth = STATE["hw_thermal_ns"] * _reads.get(gpu, 0)
    values = {74: 2_000_000_000, 269: 0, 270: growth, 271: 0}
    return [
        SimpleNamespace(
            nvmlReturn=0 if field in values else 3,
            valueType=3,
            value=SimpleNamespace(ullVal=values.get(field)),
        )
        for field in ids
    ]


def nvmlDeviceGetComputeRunningProcesses(gpu):
    _listed[gpu] = _listed.get(gpu, 0) + 1
    if _listed[gpu] > STATE["pids_reads"]:
        return []
    return [SimpleNamespace(pid=pid, usedGpuMemory=512 * MIB) for pid in _of("pids", gpu, [])]


def _unsupported(*_):
    raise NVMLError("Not Supported")


for _name in STATE["unsupported"]:
    globals()[_name] = _unsupported


def __getattr__(name):
    if name.startswith("nvml"):
        return _unsupported
    raise AttributeError(name)
