"""The plan: the whole design, fixed and hashed before run 1.

Everything that could be chosen after seeing results is in here: arms and their sources, the order
of every pair, the looks and their thresholds, what excludes a run, what an unfinished run counts
as. The ledger's first line carries the plan's hash, so a later change shows.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.canonical import dumps, sha256_text
from harness.errors import EvidenceError

ArmName = Literal["candidate", "baseline"]
ARMS: tuple[ArmName, ArmName] = ("candidate", "baseline")


class Record(BaseModel):
    """Base of everything that is written to a bundle: strict, closed, frozen, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class ArmPlan(Record):
    """One version of a script: the file that is started and every file that travels with it."""

    script: str = Field(description="file that torchrun starts, relative to source/<arm>/")
    files: dict[str, str] = Field(description="relative path -> sha256 of the bytes")
    source_sha256: str = Field(description="sha256 over the sorted (path, sha256) list")
    origin: str = Field(default="", description="where it came from, as the submitter named it")


class Pair(Record):
    """One candidate and one baseline run next to each other, order drawn by the plan's seed."""

    index: int = Field(ge=0, description="0 is the warm-up pair")
    order: tuple[ArmName, ArmName]
    counts: bool = Field(description="False for the warm-up pair, which never counts")


class Design(Record):
    """When is tested, and against what."""

    kind: Literal["group-sequential", "fixed"]
    alpha: float = Field(gt=0, lt=0.5, description="one-sided level of the whole procedure")
    looks: tuple[int, ...] = Field(
        min_length=1, description="counted candidate runs at which is tested, rising from 2"
    )
    loss_p: float = Field(gt=0, lt=1, description="p of the loss test to beat at each look")
    timing_p: float = Field(
        gt=0, lt=1, description="p of the paired timing test to beat at each look"
    )
    max_unfinished: int = Field(ge=0, description="failed or lost runs that the series survives")
    unfinished: str = Field(
        default="judged a second time with every unfinished run one standard deviation above both "
        "the bar and the worst finished value",
        description="what a failed or lost run counts as",
    )

    @field_validator("looks")
    @classmethod
    def _rising(cls, looks: tuple[int, ...]) -> tuple[int, ...]:
        if looks[0] < 2 or any(after <= before for before, after in pairwise(looks)):
            raise ValueError("looks must rise strictly and start at 2 or more")
        return looks


class Criterion(Record):
    """A reason to exclude a run that does not look at its result."""

    id: Literal["hw_slowdown", "foreign_process"]
    says: str


class Launch(Record):
    """How each run is started; the same for both arms."""

    processes: int = Field(ge=1)
    python: str
    timeout_s: float
    stall_s: float
    data_root: str
    data_sha256: dict[str, str] = Field(description="file name -> sha256, as found before run 1")
    compile_caches: Literal["cold", "warm", "unused"] = "unused"


class Rerun(Record):
    """A series that runs another bundle's two scripts again, and what kept them from the node."""

    bundle: str = Field(description="name of the folder of the bundle that is run again")
    digest: str = Field(description="its digest, as `speedrun verify` printed it then")
    plan_sha256: str
    ledger_sha256: str = Field(description="hash of its ledger's last line")
    protection: Literal["bwrap", "none"]
    protection_says: str = Field(description="what was in force, in words; why not more")


class Plan(Record):
    """The design of one series. Written once; `sha256` is what the ledger carries."""

    schema_version: Literal[1] = 1
    name: str
    track: str
    track_sha256: str
    target_loss_nats: float
    created_utc: str
    seed: int
    harness_version: str
    exhibition: tuple[str, ...] = Field(
        default=(), description="why this can never be a record; empty for an official attempt"
    )
    candidate: ArmPlan
    baseline: ArmPlan
    design: Design
    pairs: tuple[Pair, ...]
    exclusions: tuple[Criterion, ...]
    launch: Launch
    rerun: Rerun | None = Field(default=None, description="absent in a submitter's own series")

    def arm(self, name: ArmName) -> ArmPlan:
        return self.candidate if name == "candidate" else self.baseline

    @property
    def warm_up_runs(self) -> int:
        """Runs that come first and never count: both arms of the warm-up pair, or none."""
        return sum(len(pair.order) for pair in self.pairs if not pair.counts)

    def text(self) -> str:
        """The plan as it stands in plan.json. A plan that re-runs nothing does not say so: the
        text, and with it the hash, of plans from before there were re-runs stays what it was."""
        return dumps(self.model_dump(mode="json", exclude=None if self.rerun else {"rerun"}))

    def sha256(self) -> str:
        return sha256_text(self.text())


EXCLUSIONS: tuple[Criterion, ...] = (
    Criterion(id="hw_slowdown", says="a GPU reported a hardware slowdown during the run"),
    Criterion(id="foreign_process", says="another process used one of the run's GPUs"),
)


def draw_pairs(seed: int, count: int) -> tuple[Pair, ...]:
    """Warm-up pair plus `count` counted pairs, each order drawn by `seed`.

    Counted pairs come in blocks of two (one AB, one BA, shuffled), so that drift over the series
    cancels: after every even number of counted pairs both arms went first equally often. The
    warm-up pair is drawn by itself, as it enters no comparison.
    """
    draw = random.Random(seed)
    both: tuple[tuple[ArmName, ArmName], ...] = (
        ("candidate", "baseline"),
        ("baseline", "candidate"),
    )

    def block() -> tuple[tuple[ArmName, ArmName], ...]:
        # random() alone is promised to give the same numbers in every version of Python.
        return both if draw.random() < 0.5 else both[::-1]

    orders = [block()[0]]
    while len(orders) < count + 1:
        orders += block()
    return tuple(
        Pair(index=i, order=order, counts=i > 0) for i, order in enumerate(orders[: count + 1])
    )


def read_plan(text: str, where: str) -> Plan:
    """Plan from the text of plan.json; raises EvidenceError naming the field at fault."""
    try:
        plan = Plan.model_validate_json(text)
        plan.text()  # an integer of thousands of digits is valid, and cannot be written again
    except ValidationError as error:
        first = error.errors()[0]
        raise EvidenceError(
            "plan.json breaks its schema",
            where=f"{where}: {'.'.join(str(part) for part in first['loc']) or 'file'}",
            why=str(first["msg"]),
            fix="restore the file as `speedrun submit` wrote it",
        ) from None
    except (ValueError, RecursionError) as error:
        raise EvidenceError("plan.json breaks its schema", where=where, why=str(error)) from None
    return plan
