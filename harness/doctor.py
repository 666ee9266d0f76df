"""What a machine could run, and what it lacks: findings from probed facts. Pure.

Each track gets a standing: `official` (its runs can be records), `exhibition` (same judging, never
a record, with the reason) or `no` (with what to do). Every finding says what, why and how to fix.
"""

from __future__ import annotations

from typing import Literal

from harness.attention import Attention, attention_backend
from harness.checks.hardware import unofficial_hardware
from harness.environment import environment_lines
from harness.errors import EXIT_ACCEPTED, EXIT_UNFIT
from harness.facts import Facts
from harness.plan import Record
from harness.tracks.track import Track

Standing = Literal["official", "exhibition", "no"]
SHARD_HEADER_BYTES = 1024
DISK_GIB_BUNDLE = 1.0  # what `submit` asks for
DISK_GIB_COMPILE = 10.0  # compile caches of both arms and the data of a GPU track
GPU_MEMORY_MIB = 32 * 1024  # the record scripts of 2026 allocate about 31 GB a GPU
DRIVER_FOR_CUDA = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}


class Finding(Record):
    """`missing` keeps a track from running, `warn` may cost time or trust."""

    id: str
    status: Literal["missing", "warn"]
    what: str
    why: str
    fix: str
    tracks: tuple[str, ...]


class TrackStanding(Record):
    """What this machine is for one track."""

    track: str
    title: str
    standing: Standing
    why: str
    command: str


class Diagnosis(Record):
    """The whole answer of `speedrun doctor`."""

    schema_version: Literal[1] = 1
    machine: dict[str, str]
    attention: Attention
    disk_free_gib: float
    tracks: tuple[TrackStanding, ...]
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0 if at least one track can be run, officially or as an exhibition, else 4."""
        usable = any(track.standing != "no" for track in self.tracks)
        return EXIT_ACCEPTED if usable else EXIT_UNFIT


def diagnose(facts: Facts) -> Diagnosis:
    """Findings and standings. The same facts give the same answer."""
    attention = attention_backend(facts.environment)
    findings: dict[tuple[str, ...], Finding] = {}
    for track in facts.tracks:
        for found in _track_findings(facts, track, attention):
            key = (found.id, found.what, found.why, found.fix)
            known = findings.get(key, found)
            findings[key] = known.model_copy(update={"tracks": (*known.tracks, track.name)})
    ordered = sorted(findings.values(), key=lambda f: f.status != "missing")
    return Diagnosis(
        machine=environment_lines(facts.environment),
        attention=attention,
        disk_free_gib=facts.environment.disk_free_gib,
        tracks=tuple(_standing(facts, track, ordered) for track in facts.tracks),
        findings=tuple(ordered),
    )


def _standing(facts: Facts, track: Track, findings: list[Finding]) -> TrackStanding:
    missing = [f for f in findings if f.status == "missing" and track.name in f.tracks]
    command = f"speedrun submit --track {track.name}"
    if facts.missing_scripts.get(track.name):
        command = _own_scripts(track)
    unofficial = unofficial_hardware(track, facts.environment)
    standing: Standing = "official"
    why = "hardware as the rules ask"
    if track.data.kind == "shards":
        why += "; data present (submit hashes them)"
    if missing:
        standing, why, command = "no", "; ".join(f.what for f in missing), ""
    elif unofficial:
        standing, why, command = "exhibition", unofficial, f"{command} --exhibition"
    return TrackStanding(
        track=track.name,
        title=track.contest.title,
        standing=standing,
        why=why,
        command=command,
    )


def _track_findings(facts: Facts, track: Track, attention: Attention) -> list[Finding]:
    found = _common(facts, track)
    if track.data.kind == "shards":
        found += _data(facts, track)
    if track.hardware.kind == "gpu":
        found += _gpus(facts) + _cuda(facts) + _compiling(facts)
        if attention.fix and facts.environment.gpus and facts.environment.interpreter.torch_cuda:
            found.append(_warn("attention", f"attention: {attention.backend}", attention))
    else:
        found += _cpu(facts, track)
    return found


def _missing(id_: str, what: str, why: str, fix: str) -> Finding:
    return Finding(id=id_, status="missing", what=what, why=why, fix=fix, tracks=())


def _warning(id_: str, what: str, why: str, fix: str) -> Finding:
    return Finding(id=id_, status="warn", what=what, why=why, fix=fix, tracks=())


def _warn(id_: str, what: str, attention: Attention) -> Finding:
    return _warning(id_, what, attention.why, attention.fix)


def _own_scripts(track: Track) -> str:
    return f"speedrun submit CANDIDATE --track {track.name} --baseline BASELINE"


def _common(facts: Facts, track: Track) -> list[Finding]:
    """Interpreter, scripts and disk: every track needs them."""
    found: list[Finding] = []
    environment, python = facts.environment, facts.environment.interpreter
    extra = "cpu" if track.hardware.kind == "cpu" else "gpu"
    install = f'pip install -e ".[{extra}]" with it, or name another one with --python'
    if facts.interpreter_error is not None:
        error = facts.interpreter_error
        found.append(_missing("interpreter", error.what, f"{error.where}: {error.why}", error.fix))
    elif python.torch is None and track.hardware.launcher == "torchrun":
        why = f"{python.path} (Python {python.version}) has no torch"
        found.append(_missing("torch", "the interpreter has no torch", why, install))
    scripts = facts.missing_scripts.get(track.name, ())
    if not facts.in_repository:
        found.append(
            _missing(
                "scripts",
                "the tracks' scripts are not here",
                "no folder with candidates/ and baseline/ here or above",
                "change to a clone of the repository",
            )
        )
    elif scripts:
        why = f"track {track.name} names {', '.join(scripts)}; there is no such file here"
        fix = f"name your own: {_own_scripts(track)}"
        found.append(_warning("scripts", "the track's own scripts are not here", why, fix))
    free = environment.disk_free_gib
    if free < DISK_GIB_BUNDLE:
        why = f"{free:.1f} GiB free, {DISK_GIB_BUNDLE:g} GiB wanted for a bundle"
        found.append(_missing("disk", "too little free disk", why, "make room, or use --out"))
    elif free < DISK_GIB_COMPILE and track.hardware.kind == "gpu":
        why = f"{free:.1f} GiB free; compile caches and data take up to {DISK_GIB_COMPILE:g} GiB"
        found.append(_warning("disk", "little free disk", why, "make room before paying a node"))
    return found


def _data(facts: Facts, track: Track) -> list[Finding]:
    state, rule = facts.data[track.name], track.data
    wanted = SHARD_HEADER_BYTES + 2 * rule.validation_tokens
    fix = "speedrun data fetch --track NAME, or name the folder that holds them with --data"
    lacks = []
    if state.train_shards < rule.minimum_train_shards:
        lacks.append(f"{state.train_shards} of {rule.minimum_train_shards} train shards")
    if state.validation_bytes is None:
        lacks.append(f"no {rule.validation_file}")
    elif state.validation_bytes < wanted:
        lacks.append(
            f"{rule.validation_file} has {state.validation_bytes} bytes, "
            f"{rule.validation_tokens} tokens need {wanted}"
        )
    if not lacks:
        return []
    return [_missing("data", "data missing", f"{state.folder}: {', '.join(lacks)}", fix)]


def _gpus(facts: Facts) -> list[Finding]:
    environment = facts.environment
    gpus = environment.gpus
    if not gpus:
        hidden = environment.gpus_on_node > 0
        why = (
            f"{environment.gpus_on_node} on the node, none left by CUDA_VISIBLE_DEVICES"
            if hidden
            else environment.gpu_problem or "the driver lists none"
        )
        fix = "unset CUDA_VISIBLE_DEVICES" if hidden else "use a node with NVIDIA GPUs"
        if "mismatch" in why.lower():
            fix = "the driver was updated while loaded: reboot, or reload its kernel module"
        elif "not loaded" in why.lower():
            fix = "load the driver's kernel module: modprobe nvidia"
        return [_missing("gpu", "no NVIDIA GPU", why, fix)]
    found: list[Finding] = []
    if environment.gpu_problem:
        fix = "reset or change the node"
        found.append(_missing("gpu", "a GPU does not answer", environment.gpu_problem, fix))
    if facts.foreign:
        why = "; ".join(str(process) for process in facts.foreign[:8])
        fix = "end these processes, or take a node of your own"
        found.append(_missing("foreign", "other processes use the GPUs", why, fix))
    names = sorted({gpu.name for gpu in gpus})
    if len(names) > 1:
        why = f"{', '.join(names)}: the slowest decides the time"
        found.append(_warning("mixed", "mixed GPUs", why, "restrict CUDA_VISIBLE_DEVICES"))
    if any(gpu.mig for gpu in gpus):
        fix = "ask the node's owner for whole GPUs"
        found.append(_warning("mig", "MIG is on", "a slice is not the track's GPU", fix))
    small = [gpu for gpu in gpus if gpu.memory_mib and gpu.memory_mib < GPU_MEMORY_MIB]
    if small:
        why = f"{small[0].memory_mib} MiB; the record scripts allocate about 31 GB a GPU"
        found.append(_warning("memory", "small GPU memory", why, "use GPUs of 40 GB or more"))
    for gpu in gpus:
        limit, default = gpu.power_limit_w, gpu.power_limit_default_w
        if limit and default and limit < default - 1:
            why = f"GPU {gpu.index}: {limit:g} W, its default is {default:g} W"
            fix = "ask the node's owner to restore it: times will be slower than the board's"
            found.append(_warning("power", "a lowered power limit", why, fix))
            break
    return found


def _cuda(facts: Facts) -> list[Finding]:
    environment, python = facts.environment, facts.environment.interpreter
    if not environment.gpus or python.torch is None:
        return []
    if python.torch_cuda is None:
        why = f"torch {python.torch} is built without CUDA"
        fix = 'pip install -e ".[gpu]" with that interpreter, or name another one with --python'
        return [_missing("cuda", "torch cannot use the GPUs", why, fix)]
    wanted = python.torch_cuda.split(".")[0]
    given = environment.cuda_driver.split(".")[0]
    if given.isdigit() and wanted.isdigit() and int(given) < int(wanted):
        why = (
            f"driver {environment.gpus[0].driver} carries CUDA {environment.cuda_driver}, "
            f"torch {python.torch} needs CUDA {python.torch_cuda}"
        )
        least = DRIVER_FOR_CUDA.get(wanted)
        fix = f"driver {least} or newer" if least else "a newer driver"
        fix += f", or a torch built for CUDA {given}"
        return [_missing("driver", "the GPU driver is too old for torch", why, fix)]
    return []


def _compiling(facts: Facts) -> list[Finding]:
    """Triton compiles a small C file against Python's headers at its first kernel."""
    environment = facts.environment
    if not environment.gpus:
        return []
    found: list[Finding] = []
    if environment.compiler is None:
        why = "Triton builds its launcher with gcc or clang; neither is on PATH"
        found.append(_missing("compiler", "no C compiler", why, "apt-get install gcc, or set CC"))
    if not environment.interpreter.python_h and environment.interpreter.version:
        version = ".".join(environment.interpreter.version.split(".")[:2])
        why = f"no Python.h for Python {version}, which Triton compiles against"
        fix = f"apt-get install python{version}-dev, or use a Python that brings its headers"
        found.append(_missing("headers", "no Python headers", why, fix))
    return found


def _cpu(facts: Facts, track: Track) -> list[Finding]:
    environment = facts.environment
    found: list[Finding] = []
    processes = track.hardware.processes
    if environment.cores_usable < processes:
        why = f"{environment.cores_usable:g} usable, the track starts {processes} processes"
        fix = "give this container or process more cores"
        found.append(_warning("cores", "fewer cores than processes", why, fix))
    load, cores = environment.load_1m or 0.0, environment.cores_usable
    if load > max(0.5, 0.25 * cores):
        why = f"load average {load:g} on {cores:g} cores: times will scatter, more runs are needed"
        found.append(_warning("load", "the machine is busy", why, "end other work first"))
    if environment.governor not in (None, "performance", "schedutil"):
        why = f"CPU governor {environment.governor}: the clock follows the load with a delay"
        fix = "cpupower frequency-set -g performance, for steadier times"
        found.append(_warning("governor", "the CPU saves power", why, fix))
    if facts.on_battery:
        why = "laptops lower their clocks on battery"
        found.append(_warning("battery", "on battery", why, "plug it in"))
    return found
