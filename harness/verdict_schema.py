"""What a verdict says: the schema of verdict.json.

All derived figures carry ten significant digits (`canonical.finite`), so that the same bundle
gives the same bytes on every platform. Times are milliseconds of the training clock, losses nats.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.checks.check import Check
from harness.errors import (
    EXIT_ACCEPTED,
    EXIT_NOT_PROVEN,
    EXIT_RULE_BROKEN,
    EXIT_RUNS_FAILED,
    EXIT_UNFIT,
)
from harness.plan import ArmName, Record

Decision = Literal["accepted", "not_proven", "rule_broken", "unfit", "runs_failed"]
RunState = Literal["finished", "failed", "lost", "excluded"]
EXIT_CODES: dict[Decision, int] = {
    "accepted": EXIT_ACCEPTED,
    "not_proven": EXIT_NOT_PROVEN,
    "rule_broken": EXIT_RULE_BROKEN,
    "unfit": EXIT_UNFIT,
    "runs_failed": EXIT_RUNS_FAILED,
}


class Curve(Record):
    """Validation losses of one run."""

    steps: tuple[int, ...]
    losses_nats: tuple[float | None, ...]
    train_ms: tuple[float | None, ...]


class RunRow(Record):
    """One started run. Every one is listed, whatever became of it."""

    run_id: str
    arm: ArmName
    pair: int
    attempt: int
    counts: bool = Field(description="False for warm-up runs")
    state: RunState
    note: str = ""
    steps: int | None = None
    loss_nats: float | None = None
    train_ms: float | None = None
    wall_s: float | None = None
    curve: Curve | None = None


class ArmSummary(Record):
    """All counted, finished runs of one arm."""

    arm: ArmName
    script: str
    source_sha256: str
    n: int
    steps: int | None
    losses_nats: tuple[float, ...]
    train_ms: tuple[float, ...]
    loss_mean: float | None
    loss_sd: float | None
    loss_p: float | None = Field(description="one-sided t-test against the target; baseline too")
    time_mean_ms: float | None
    time_sd_ms: float | None


class Look(Record):
    """One planned moment of testing, recomputed from the evidence."""

    runs: int
    pairs: int
    loss_p: float | None
    loss_holds: bool
    timing_p: float | None
    timing_holds: bool


class LossResult(Record):
    """Is the candidate's mean loss below the target?"""

    target_loss_nats: float
    n: int
    mean: float | None
    sd: float | None
    margin: float | None
    t: float | None
    df: float | None
    rule_p: float | None = Field(description="the track's own test over all counted runs")
    upper_bound: float | None = Field(description="one-sided bound on the mean at level alpha")
    decided_at: int | None = Field(description="look at which the design's bound was beaten")
    look_p: float | None = Field(description="p at that look, or at the last look taken")
    design_p: float | None = Field(
        description="p of the whole sequential procedure (an upper bound, by Bonferroni)"
    )
    design_p_bound: float
    worst_case_p: float | None = Field(
        description="rule p with every unfinished run one sd above target and worst finished loss"
    )
    floor_nats: float | None = Field(default=None, description="entropy rate, where known")


class TimingResult(Record):
    """Is the candidate faster on the same hardware? Paired ratios candidate/baseline."""

    pairs: int
    ratio: float | None
    low: float | None = Field(description="two-sided 98 % interval of the ratio, lower end")
    high: float | None
    upper_bound: float | None = Field(description="one-sided 99 % bound; below 1 proves it")
    p: float | None
    decided_at: int | None
    look_p: float | None
    design_p: float | None
    design_p_bound: float
    saved_ms: float | None = Field(description="mean of baseline minus candidate over pairs")
    hodges_lehmann: float | None
    hodges_lehmann_low: float | None
    hodges_lehmann_high: float | None
    detectable_ratio: float | None = Field(
        description="smallest improvement this design could have seen"
    )
    welch_p: float | None = Field(description="unpaired test on the same runs, for comparison")
    worst_case_ratio_bound: float | None = Field(
        description="bound with every unfinished run one sd above 1 and the worst ratio"
    )
    pair_ratios: tuple[float, ...]
    official_seconds: float | None = Field(
        default=None, description="standing record's official time x ratio"
    )


class Advice(Record):
    """What more evidence would cost; printed when something is not proven."""

    text: tuple[str, ...]


class Verdict(Record):
    """All checks and the decision. Same bundle, same bytes."""

    schema_version: Literal[1] = 1
    harness_version: str
    name: str
    track: str
    track_title: str
    rules_version: int
    created_utc: str = Field(description="when the plan was fixed")
    decision: Decision
    headline: str
    exhibition: tuple[str, ...]
    plan_sha256: str
    ledger_sha256: str = Field(description="hash of the ledger's last line: the head of its chain")
    compared_on: Literal["training time", "steps"]
    alpha: float
    candidate: ArmSummary
    baseline: ArmSummary
    loss: LossResult
    timing: TimingResult
    looks: tuple[Look, ...]
    checks: tuple[Check, ...]
    runs: tuple[RunRow, ...]
    advice: Advice
    environment: dict[str, str] = Field(description="the lines of environment a reader needs")

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.decision]
