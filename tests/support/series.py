"""Plans, runs and samples made of numbers: what `progress`, `results` and the checks are fed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from harness.bundle import Bundle, Run
from harness.environment import Environment, Gpu, Interpreter
from harness.ledger import GENESIS, Closed, Event, Planned, Started
from harness.logs import RunLog, parse_log
from harness.plan import EXCLUSIONS, ArmName, Design, Launch, Plan, draw_pairs
from harness.source import Source
from harness.tracks.track import Track, parse_track, track_sha256
from tests.support.contest import TRACK

SOURCES: dict[ArmName, Source] = {
    "candidate": Source("fake.py", {"fake.py": "RATE = 2\n"}),
    "baseline": Source("fake.py", {"fake.py": "RATE = 1\n"}),
}
DIGEST = "0" * 64


def fake_track(**replaced: str) -> Track:
    """The tests' track; `looks="[2, 4]"` replaces a line of its TOML."""
    return parse_track(track_text(**replaced), "test")


def track_text(**replaced: str) -> str:
    """Its TOML, with values replaced by name."""
    lines = TRACK.splitlines()
    for name, value in replaced.items():
        places = [i for i, line in enumerate(lines) if line.split(" = ")[0] == name]
        assert places, name
        for i in places[:1]:
            lines[i] = f"{name} = {value}"
    return "\n".join(lines) + "\n"


def make_plan(
    looks: Sequence[int] = (5, 10, 15, 20),
    *,
    seed: int = 1,
    loss_p: float = 0.0031,
    timing_p: float = 0.0031,
    **changes: Any,
) -> Plan:
    """The plan that `submit` would make on the tests' track."""
    design = Design(
        kind="fixed" if len(looks) == 1 else "group-sequential",
        alpha=0.01,
        looks=tuple(looks),
        loss_p=loss_p,
        timing_p=timing_p,
        max_unfinished=2,
    )
    fields: dict[str, Any] = {
        "name": "fake",
        "track": "fake",
        "track_sha256": track_sha256(TRACK),
        "target_loss_nats": 3.28,
        "created_utc": "2026-11-20T00:00:00.000Z",
        "seed": seed,
        "harness_version": "1",
        "candidate": SOURCES["candidate"].arm_plan("candidates/fake.py"),
        "baseline": SOURCES["baseline"].arm_plan("baseline/fake.py"),
        "design": design,
        "pairs": draw_pairs(seed, max(looks)),
        "exclusions": EXCLUSIONS,
        "launch": Launch(
            processes=1,
            python="python",
            timeout_s=30.0,
            stall_s=20.0,
            data_root="data",
            data_sha256={"fake_train_000001.bin": DIGEST, "fake_val.bin": DIGEST},
        ),
    }
    return Plan(**{**fields, **changes})


def make_log(loss: float, ms: float, steps: int = 1000, gpu: str = "") -> RunLog:
    """A complete log whose curve ends at `loss` after `ms`; early losses hang on the last one."""
    lines = [f"Running PyTorch 2.10.0 compiled for CUDA 12.8 on {gpu} with world_size 8"] * bool(
        gpu
    )
    lines = ["=" * 100, *lines, "=" * 100] if gpu else []
    for quarter in range(5):
        step = steps * quarter // 4
        at = 10.8 if quarter == 0 else loss + (10.8 - loss) * (1 - quarter / 4) ** 3
        lines.append(
            f"step:{step}/{steps} val_loss:{at:.9f} train_time:{ms * quarter / 4:.3f}ms "
            f"step_avg:{ms / steps:.2f}ms"
        )
    lines += ["peak memory allocated: 100 MiB reserved: 200 MiB"] if gpu else []
    (log,) = parse_log(lines)
    return log


def make_run(
    arm: ArmName,
    pair: int,
    loss: float = 3.27,
    ms: float = 80_000.0,
    *,
    state: str = "finished",
    attempt: int = 1,
    log: RunLog | None = None,
    **fields: Any,
) -> Run:
    """One run as `read_bundle` would give it."""
    run_id = f"{arm}-{pair:02d}" + (f"-attempt{attempt}" if attempt > 1 else "")
    started = Started(
        seq=1,
        utc="2026-11-20T00:00:00.000Z",
        previous_sha256=DIGEST,
        run_id=run_id,
        arm=arm,
        pair=pair,
        attempt=attempt,
        source_sha256=SOURCES[arm].sha256(),
        command=("python", "fake.py"),
        environment={},
    )
    has_log = state in ("finished", "excluded")
    return Run(
        started=started,
        state=state,  # type: ignore[arg-type]
        counts=pair > 0,
        wall_s=None if state == "lost" else 90.0,
        log=log if log is not None else make_log(loss, ms) if has_log else None,
        **fields,
    )


def make_series(
    plan: Plan, losses: Sequence[float], candidate_ms: Sequence[float], baseline_ms: Sequence[float]
) -> list[Run]:
    """A warm-up pair and complete counted pairs in the plan's order, one a loss."""
    runs = []
    for pair in plan.pairs[: len(losses) + 1]:
        for arm in pair.order:
            i = pair.index - 1
            if not pair.counts:
                runs.append(make_run(arm, 0, 3.3, 90_000.0 + (arm == "candidate")))
            elif arm == "candidate":
                runs.append(make_run(arm, pair.index, losses[i], candidate_ms[i]))
            elif i < len(baseline_ms):
                runs.append(make_run(arm, pair.index, losses[i] + 0.001, baseline_ms[i]))
    return runs


def make_environment(gpus: Sequence[str] = (), **changes: Any) -> Environment:
    """A node with these GPUs."""
    cards = tuple(
        Gpu(
            index=i, name=name, uuid_sha256=DIGEST, driver="570.1", vbios="96", memory_mib=81_559,
            compute_capability="9.0", power_limit_w=700.0, power_limit_default_w=700.0,
            sm_clock_max_mhz=1980, pcie="gen5 x16", nvlinks=18, ecc=True, persistence=True,
            mig=False,
        )
        for i, name in enumerate(gpus)
    )  # fmt: skip
    python = Interpreter(
        path="python", version="3.11.7", packages={}, torch=None, torch_cuda=None, torch_git=None,
        fa3="none", fa3_sha256=None, cudart12=False, hub_kernel_cached=False, python_h=False,
    )  # fmt: skip
    fields: dict[str, Any] = {
        "utc": "2026-11-20T00:00:00Z", "harness_version": "1", "harness_python": "3.11.7",
        "node_sha256": DIGEST, "os": "Linux", "kernel": "6", "arch": "x86_64",
        "virtualisation": "none", "cpu_model": "a processor", "cores_logical": 4,
        "cores_physical": 2, "cores_usable": 4.0, "memory_gib": 16.0, "governor": None,
        "load_1m": None, "disk_free_gib": 100.0, "compiler": None, "gpus_on_node": len(cards),
        "gpus": cards, "gpu_problem": "", "cuda_driver": "12.8" if cards else "",
        "interpreter": python, "repository": None,
    }  # fmt: skip
    return Environment(**{**fields, **changes})


def make_bundle(
    plan: Plan,
    runs: Iterable[Run],
    *,
    track: Track | None = None,
    environment: Environment | None = None,
    closed: bool = True,
    events: Iterable[Event] = (),
    **fields: Any,
) -> Bundle:
    """A bundle as `read_bundle` would give it, nothing of it on disk."""
    chain: list[Event] = [
        Planned(
            seq=0,
            utc=plan.created_utc,
            previous_sha256=GENESIS,
            plan_sha256=plan.sha256(),
            environment_sha256=DIGEST,
        ),
        *events,
    ]
    if closed:
        chain.append(
            Closed(seq=len(chain), utc=plan.created_utc, previous_sha256=DIGEST, why="over")
        )
    return Bundle(
        name=plan.name,
        plan=plan,
        track=track or fake_track(),
        events=tuple(chain),
        ledger_sha256=DIGEST,
        runs=tuple(runs),
        environment=environment or make_environment(),
        sources={arm: dict(source.files) for arm, source in SOURCES.items()},
        **fields,
    )
