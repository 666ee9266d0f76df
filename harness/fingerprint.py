"""Takes the fingerprint that environment.py describes: asks system, driver, interpreter and git."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from harness import __version__, host
from harness.canonical import sha256_file
from harness.environment import AttentionSource, Commit, Environment, Gpu, Interpreter
from harness.ledger import utc_now
from harness.nvml import Device, Nvml, open_nvml


def fingerprint(answer: dict[str, Any], repo: Path | None) -> Environment:
    """This machine, its interpreter as it answered (`probe_interpreter`), and the repository."""
    import psutil

    with open_nvml() as nvml:
        gpus = tuple(_gpu(nvml, device) for device in nvml.gpus)
        uuids = [device.uuid for device in nvml.gpus]
        total, problem = nvml.total, nvml.problem
        cuda = nvml.ask("nvmlSystemGetCudaDriverVersion_v2")
    cpu, memory_gib = host.cpu_model(), round(psutil.virtual_memory().total / 2**30, 1)
    here = repo if repo is not None and repo.exists() else Path.cwd()
    return Environment(
        utc=utc_now(),
        harness_version=__version__,
        harness_python=platform.python_version(),
        node_sha256=host.node_sha256(uuids, cpu, memory_gib),
        os=_os_name(),
        kernel=platform.release(),
        arch=platform.machine(),
        virtualisation=host.virtualisation(),
        cpu_model=cpu,
        cores_logical=psutil.cpu_count() or 1,
        cores_physical=psutil.cpu_count(logical=False),
        cores_usable=host.usable_cores(),
        memory_gib=memory_gib,
        governor=host.governor(),
        load_1m=host.load_1m(),
        disk_free_gib=round(shutil.disk_usage(here).free / 2**30, 1),
        compiler=_compiler(),
        gpus_on_node=total,
        gpus=gpus,
        gpu_problem=problem if sys.platform != "darwin" else "",
        cuda_driver=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
        interpreter=_interpreter(answer),
        repository=repository_state(repo) if repo is not None else None,
    )


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.mac_ver()[0]}".strip()


def _compiler() -> str | None:
    wished = os.environ.get("CC")
    names = (wished,) if wished else ("gcc", "clang", "cc")
    return next((Path(name).name for name in names if shutil.which(name)), None)


def _gpu(nvml: Nvml, device: Device) -> Gpu:
    def watts(milliwatts: Any) -> float | None:
        return None if milliwatts is None else round(milliwatts / 1000, 1)

    def switch(answer: Any) -> bool | None:
        value = answer[0] if isinstance(answer, (tuple, list)) else answer
        return None if value is None else bool(value)

    handle = device.handle
    capability = nvml.ask("nvmlDeviceGetCudaComputeCapability", handle)
    generation = nvml.ask("nvmlDeviceGetMaxPcieLinkGeneration", handle)
    width = nvml.ask("nvmlDeviceGetMaxPcieLinkWidth", handle)
    clock = nvml.constant("NVML_CLOCK_SM", 1)
    return Gpu(
        index=device.index,
        name=nvml.text("nvmlDeviceGetName", handle),
        uuid_sha256=hashlib.sha256(device.uuid.encode()).hexdigest(),
        driver=nvml.text("nvmlSystemGetDriverVersion"),
        vbios=nvml.text("nvmlDeviceGetVbiosVersion", handle),
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else "",
        memory_mib=nvml.memory_mib(handle)[0],
        power_limit_w=watts(nvml.ask("nvmlDeviceGetEnforcedPowerLimit", handle)),
        power_limit_default_w=watts(nvml.ask("nvmlDeviceGetPowerManagementDefaultLimit", handle)),
        sm_clock_max_mhz=nvml.ask("nvmlDeviceGetMaxClockInfo", handle, clock),
        pcie=f"gen{generation} x{width}" if generation and width else "",
        nvlinks=nvml.nvlinks(device),
        ecc=switch(nvml.ask("nvmlDeviceGetEccMode", handle)),
        persistence=switch(nvml.ask("nvmlDeviceGetPersistenceMode", handle)),
        mig=switch(nvml.ask("nvmlDeviceGetMigMode", handle)),
    )


def _interpreter(answer: dict[str, Any]) -> Interpreter:
    packages, torch = answer["packages"], answer["torch"]
    source: AttentionSource = "none"
    binary = None
    if answer["flash_attn_interface"]:
        source, binary = "flash_attn_interface", answer["flash_attn_interface"]
    elif answer["fa3_path"]:
        source, binary = "SPEEDRUN_FA3_PATH", answer["fa3_path"]
    elif answer["xformers_fa3"]:
        source, binary = "xformers", answer["xformers_fa3"]
    elif answer["kernels"]:
        source = "hub"
    path = answer["executable"]
    home = str(Path.home())
    return Interpreter(
        path=path.replace(home, "~", 1) if home != "/" and path.startswith(home + "/") else path,
        version=answer["version"],
        packages=dict(sorted(packages.items())),
        torch=packages.get("torch") or torch.get("version"),
        torch_cuda=torch.get("cuda"),
        torch_git=torch.get("git_version"),
        fa3=source,
        fa3_sha256=sha256_file(Path(binary)) if binary and Path(binary).is_file() else None,
        cudart12=bool(answer["cudart12"]),
        hub_kernel_cached=answer["kernels_cached"],
        python_h=answer["python_h"],
    )


def repository_state(folder: Path) -> Commit | None:
    """Commit and dirty flag of the repository around `folder`; None without git or commits."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # no git program is fine
    try:
        from git import Repo
        from git.exc import GitError
    except ImportError:
        return None
    try:
        with Repo(folder, search_parent_directories=True) as repository:
            commit = repository.head.commit.hexsha
            try:
                dirty: bool | None = repository.is_dirty()
            except (GitError, OSError, ValueError):
                dirty = None
            return Commit(commit=commit, dirty=dirty)
    except (GitError, OSError, ValueError):
        return None
