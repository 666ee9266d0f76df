"""Fingerprint of node and software: what a time was measured on.

Identical code took 0.07-1.8 % more or less on other nodes of the same kind, on one 8 % more; within
a node the spread is 0.08 %. So times are compared on one node only, and `same_node` says what
forbids it. Nothing in here names a machine or its owner: identities are hashes, the home folder
is `~`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from harness.canonical import dumps, sha256_text
from harness.errors import EvidenceError
from harness.plan import Record

# Packages whose version changes what a run takes; the rest is recorded and compared by nobody.
TIMED_PACKAGES = (
    *("torch", "triton", "pytorch-triton", "numpy", "xformers", "kernels"),
    *("flash-attn", "flash-attn-3", "flash-attn-4", "nvidia-cutlass-dsl"),
)
TIMED_PREFIXES = ("nvidia-cublas", "nvidia-cudnn", "nvidia-nccl", "nvidia-nvshmem", "nvidia-cuda")
_PLAIN_FIELDS = (
    ("kernel", "kernel"),
    ("cpu_model", "processor"),
    ("cores_usable", "usable cores"),
    ("governor", "CPU governor"),
    ("cuda_driver", "CUDA driver"),
    ("arch", "architecture"),
)
_GPU_FIELDS = (
    ("name", "GPU"),
    ("driver", "GPU driver"),
    ("vbios", "GPU firmware"),
    ("power_limit_w", "GPU power limit"),
    ("ecc", "ECC"),
    ("mig", "MIG"),
    ("nvlinks", "NVLink connections"),
)
AttentionSource = Literal["flash_attn_interface", "SPEEDRUN_FA3_PATH", "xformers", "hub", "none"]


class Gpu(Record):
    """One visible GPU; None where card or driver does not say."""

    index: int = Field(description="NVML's number (PCI order)")
    name: str = Field(description="as the driver states it")
    uuid_sha256: str
    driver: str
    vbios: str
    compute_capability: str = Field(description='"9.0" for Hopper; empty if unknown')
    memory_mib: int | None
    power_limit_w: float | None = Field(description="enforced")
    power_limit_default_w: float | None
    sm_clock_max_mhz: int | None
    pcie: str = Field(description='best link card and slot allow, "gen5 x16"')
    nvlinks: int | None = Field(description="active NVLink connections")
    ecc: bool | None
    persistence: bool | None
    mig: bool | None = Field(description="split into MIG instances")


class Interpreter(Record):
    """The candidate's Python. `packages` is everything installed, names normalised (PEP 503)."""

    path: str
    version: str
    packages: dict[str, str]
    torch: str | None
    torch_cuda: str | None = Field(description="CUDA that torch was built for; None on CPU builds")
    torch_git: str | None
    fa3: AttentionSource = Field(description="where FlashAttention-3 would come from")
    fa3_sha256: str | None = Field(description="hash of its file, where there is one")
    cudart12: bool = Field(description="libcudart.so.12 is there for the FA3 binary")
    hub_kernel_cached: bool
    python_h: bool = Field(description="C headers are there; Triton compiles against them")


class Commit(Record):
    """State of the repository that the candidate lies in."""

    commit: str
    dirty: bool | None = Field(description="tracked files differ from the commit; None: unknown")


class Environment(Record):
    """Node and software of one series; environment.json of a bundle."""

    schema_version: Literal[1] = 1
    utc: str
    harness_version: str
    harness_python: str
    node_sha256: str = Field(description="equal on the same node; names nothing")
    os: str
    kernel: str
    arch: str
    virtualisation: str
    cpu_model: str
    cores_logical: int
    cores_physical: int | None
    cores_usable: float = Field(description="after affinity and container quota")
    memory_gib: float
    governor: str | None
    load_1m: float | None
    disk_free_gib: float = Field(description="where the candidate's repository lies")
    compiler: str | None = Field(description="name of the C compiler that Triton would use")
    gpus_on_node: int
    gpus: tuple[Gpu, ...] = Field(description="visible ones (CUDA_VISIBLE_DEVICES)")
    gpu_problem: str = Field(description="why the driver shows no GPUs, in its words")
    cuda_driver: str = Field(description="highest CUDA the driver carries; empty without one")
    interpreter: Interpreter
    repository: Commit | None

    def text(self) -> str:
        """The environment as it stands in environment.json."""
        return dumps(self.model_dump(mode="json"))

    def sha256(self) -> str:
        return sha256_text(self.text())


def take_environment(python: str, repo: Path | None) -> Environment:
    """Fingerprint of this node, of the interpreter `python` and of the repository at `repo`.

    Raises UnfitError if the interpreter cannot be started or has no torch.
    """
    from harness.runner.probe import probe_interpreter

    return describe_machine(probe_interpreter(python), repo)


def describe_machine(answer: dict[str, Any], repo: Path | None) -> Environment:
    """Fingerprint around an interpreter that has been asked already (`probe_interpreter`)."""
    from harness.fingerprint import fingerprint

    return fingerprint(answer, repo)


def read_environment(text: str, where: str) -> Environment:
    """Environment from the text of environment.json; raises EvidenceError naming the field."""
    try:
        return Environment.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise EvidenceError(
            "environment.json breaks its schema",
            where=f"{where}: {'.'.join(str(part) for part in first['loc']) or 'file'}",
            why=str(first["msg"]),
            fix="restore the file as `speedrun submit` wrote it",
        ) from None


def same_node(a: Environment, b: Environment) -> tuple[str, ...]:
    """Differences that forbid mixing times of `a` and `b`, one sentence each; () if none."""
    found: list[tuple[str, object, object]] = []
    if len(a.gpus) != len(b.gpus):
        found.append(("number of GPUs", len(a.gpus), len(b.gpus)))
    for name, label in _GPU_FIELDS:
        found.append((label, _each(a, name), _each(b, name)))
    for name, label in _PLAIN_FIELDS:
        found.append((label, getattr(a, name), getattr(b, name)))
    one, two = a.interpreter, b.interpreter
    found.append(("Python", one.version, two.version))
    found.append(("torch's CUDA", one.torch_cuda, two.torch_cuda))
    found.append(("FlashAttention-3", one.fa3, two.fa3))
    found.append(("FlashAttention-3 binary", one.fa3_sha256, two.fa3_sha256))
    for package in sorted(set(one.packages) | set(two.packages)):
        if package in TIMED_PACKAGES or package.startswith(TIMED_PREFIXES):
            found.append((package, one.packages.get(package), two.packages.get(package)))
    differences = [f"{label}: {x} and {y}" for label, x, y in found if x != y]
    if a.node_sha256 != b.node_sha256:
        differences.insert(0, f"node: {a.node_sha256[:12]} and {b.node_sha256[:12]}")
    return tuple(differences)


def _each(environment: Environment, name: str) -> str:
    """The values of one field over all GPUs, each once."""
    return ", ".join(sorted({str(getattr(gpu, name)) for gpu in environment.gpus})) or "none"


def gpu_line(environment: Environment) -> str:
    """ "8 × NVIDIA H100 80GB HBM3 (700 W, 79.6 GiB)"; "none" without GPUs."""
    counts: dict[str, int] = {}
    for gpu in environment.gpus:
        power = "" if gpu.power_limit_w is None else f"{gpu.power_limit_w:g} W"
        memory = "" if gpu.memory_mib is None else f"{gpu.memory_mib / 1024:.1f} GiB"
        detail = ", ".join(part for part in (power, memory) if part)
        text = f"{gpu.name} ({detail})" if detail else gpu.name
        counts[text] = counts.get(text, 0) + 1
    return ", ".join(f"{count} × {text}" for text, count in counts.items()) or "none"


def environment_lines(environment: Environment) -> dict[str, str]:
    """What a report shows, label -> text, in reading order."""
    e, python = environment, environment.interpreter
    cores = f"{e.cores_usable:g} of {e.cores_logical} logical cores usable"
    lines = {"GPUs": gpu_line(e)}
    if e.gpus:
        lines["Driver"] = f"{e.gpus[0].driver} (CUDA {e.cuda_driver or '?'})"
        links = _each(e, "nvlinks")
        lines["Links"] = f"{_each(e, 'pcie')}; NVLink connections a GPU: {links}"
    lines["CPU"] = f"{e.cpu_model}, {cores}" + (f", governor {e.governor}" if e.governor else "")
    lines["Memory"] = f"{e.memory_gib:g} GiB"
    lines["System"] = f"{e.os}, kernel {e.kernel}, {e.arch}; container or VM: {e.virtualisation}"
    lines["Python"] = f"{python.version}"
    cuda = f"CUDA {python.torch_cuda}" if python.torch_cuda else "no CUDA"
    lines["torch"] = f"{python.torch} ({cuda})" if python.torch else "none"
    extras = [p for p in TIMED_PACKAGES if p in python.packages and p != "torch"]
    if extras:
        lines["Packages"] = ", ".join(f"{p} {python.packages[p]}" for p in extras)
    if python.fa3 != "none":
        digest = f", sha256 {python.fa3_sha256[:12]}" if python.fa3_sha256 else ""
        lines["FlashAttention-3"] = f"{python.fa3}{digest}"
    if e.repository is not None:
        state = {True: " with local changes", False: "", None: " (local changes unknown)"}
        lines["Commit"] = e.repository.commit[:12] + state[e.repository.dirty]
    lines["Harness"] = f"speedrun {e.harness_version} on Python {e.harness_python}"
    lines["Node"] = e.node_sha256[:12]
    return lines
