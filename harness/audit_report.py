"""What an audit run found: the schema of audit/audit.json. Facts only; checks judge them.

An audit is one extra, untimed run of the candidate: under a shim in its own process
(runner/audit_shim.py), watched from outside (runner/observer.py), its final weights scored again
(rescoring.py). Paths are told by zone and name, so that no machine's layout is published.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError

from harness.canonical import dumps
from harness.errors import EvidenceError
from harness.plan import Record

Phase = Literal["warmup", "reset", "clock", "validation", "end"]
PHASES: tuple[Phase, ...] = ("warmup", "reset", "clock", "validation", "end")
Zone = Literal[
    "data", "contest", "source", "scratch", "cache", "python", "system", "shm", "temporary",
    "home", "other",
]  # fmt: skip


class PhaseCounts(Record):
    """How often something happened in each phase of the run.

    warmup      before the first result line, up to the last training step that is not timed
    reset       from there to the first result line; all of it where nothing is warmed up
    clock       while the script's clock ran
    validation  while it stood still
    end         after the last result line
    """

    warmup: int = 0
    reset: int = 0
    clock: int = 0
    validation: int = 0
    end: int = 0

    @property
    def total(self) -> int:
        return self.warmup + self.reset + self.clock + self.validation + self.end


class FileUse(Record):
    """One file that the run opened or mapped, all processes together."""

    path: str = Field(description="relative to its zone's folder where that is known")
    zone: Zone
    written: bool
    size_bytes: int | None
    opens: PhaseCounts = Field(description="opens seen by the shim")
    seen_outside: PhaseCounts = Field(
        default_factory=PhaseCounts, description="samples of the outside observer that saw it open"
    )
    order: int = Field(description="rank among all files by first use")
    read_reset_bytes: int | None = Field(
        default=None, description="most that one process read of it between reset and clock"
    )
    trained_after: PhaseCounts = Field(
        default_factory=PhaseCounts,
        description="opens after which a backward pass came in the same process, before the next "
        "validation line; for those before the clock, before the first line",
    )
    existed: bool = Field(default=False, description="read, and last changed before the run began")


class ParameterState(Record):
    """Trainable tensors of rank 0 at the first result line against before any training.

    same   to the bit; fresh: drawn anew; kept: what they were before, with training on top
    """

    tensors: int
    same: int
    fresh: int
    kept: int


class RankFacts(Record):
    """What the shim noted in one rank's process."""

    rank: int
    ended: bool = Field(description="the shim saw the script's end")
    backward: PhaseCounts
    optimizer_steps: PhaseCounts
    late_backward: int = Field(description="backward passes while a validation was being made")
    parameters: ParameterState | None = None
    replaced_clocks: tuple[str, ...] = ()
    left_out: int = Field(default=0, description="notes beyond the shim's limits")


class ProcessFacts(Record):
    """One process of the run that is neither a rank nor its launcher, seen from outside."""

    name: str
    first_phase: Phase
    cpu_s: float
    cpu_validation_s: float = Field(description="while the last validation was made")
    cpu_after_end_s: float = Field(description="after the last result line")
    outlived: bool = Field(description="still there when the run's first process had gone")
    gpu: bool | None = Field(
        default=None, description="held a GPU's device file; null before 0.2.1, which did not look"
    )


class CompilerFacts(Record):
    """What the compiler was told, as in force while the script ran."""

    compile_kwargs: tuple[dict[str, str], ...] = Field(description="of each torch.compile, once")
    config: dict[str, tuple[str, ...]] = Field(
        description="torch._inductor.config.… -> untouched value, then every other one seen"
    )
    patches: dict[str, str] = Field(description="config patches handed to the compiler")
    variables: dict[str, str] = Field(description="compiler variables that the script set")


class Mark(Record):
    """One result line and the moment it arrived, seconds since launch."""

    step: int
    at_s: float
    train_ms: float | None
    loss_nats: float | None
    final: bool = False


class Probe(Record):
    """One probed position p: what is said of the token after tokens[p].

    change      "one": only that token replaced; "suffix": all tokens after p replaced
    """

    position: int
    change: Literal["one", "suffix"]
    place: Literal["start", "document", "border", "random", "last"]
    log_sum: float = Field(description="log of the row's sum; 0 for a distribution")
    disagreement: float = Field(description="|nll[p] + row[target]|, nats")
    row_moved: float = Field(description="most that any log-probability above e^-14 of it moved")
    earlier_moved: float = Field(description="most that any earlier score moved, nats")
    swapped_disagreement: float = Field(
        description="|nll of the replaced target + the row's entry for it|, nats"
    )
    truncated_moved: float | None = Field(
        default=None, description="as row_moved, with the text cut after p: no target is there"
    )


class ScorerFacts(Record):
    """The final weights, scored by the harness's own loop over the official tokens."""

    status: Literal["scored", "absent", "failed"]
    detail: str = ""
    tokens: int = Field(default=0, description="targets scored")
    mean_nats: float | None = None
    printed_nats: float | None = None
    window: int | None = Field(default=None, description="SCORE_WINDOW, where stated")
    seconds: float = 0.0
    checkpoint_bytes: int = 0
    probe_tokens: int = 0
    seed: int = Field(default=0, description="of the probes, drawn after the weights were written")
    repeat_moved: float | None = Field(
        default=None, description="most a score moved when scored again after another text"
    )
    order_moved: float | None = Field(
        default=None, description="most a score moved when other texts had been scored before"
    )
    longer_moved: float | None = Field(
        default=None, description="mean change of scores when the text goes on after them"
    )
    longer_bias: float | None = Field(default=None, description="the same with its sign")
    negative: int = Field(default=0, description="scores below zero: probabilities above one")
    probes: tuple[Probe, ...] = ()
    files_read: tuple[str, ...] = Field(
        default=(), description="data-like files that the scorer opened besides the checkpoint"
    )


class RunEnd(Record):
    reason: str
    exit_code: int | None
    wall_s: float
    leftover: int
    detail: str = ""


class AuditReport(Record):
    """audit/audit.json."""

    schema_version: Literal[1] = 1
    harness_version: str
    utc: str
    script: str
    source_sha256: str
    command: tuple[str, ...]
    environment: dict[str, str]
    dropped: tuple[str, ...] = ()
    end: RunEnd
    attempts: int = Field(default=1, description="audit runs until one came to its end")
    marks: tuple[Mark, ...]
    ranks: tuple[RankFacts, ...]
    files: tuple[FileUse, ...]
    processes: tuple[ProcessFacts, ...]
    observer: str = Field(description='"procfs", or why nothing was seen from outside')
    sockets: tuple[str, ...] = ()
    started_processes: tuple[str, ...] = ()
    binaries: dict[str, str] = Field(
        default_factory=dict,
        description="code loaded from outside interpreter and system -> sha256, or why not",
    )
    compiler: CompilerFacts
    scorer: ScorerFacts

    def text(self) -> str:
        return dumps(self.model_dump(mode="json"))

    @property
    def final(self) -> Mark | None:
        return next((mark for mark in reversed(self.marks) if mark.loss_nats is not None), None)


def read_audit_report(text: str, where: str) -> AuditReport:
    """Report from the text of audit.json; raises EvidenceError naming the field at fault."""
    try:
        return AuditReport.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise EvidenceError(
            "audit.json breaks its schema",
            where=f"{where}: {'.'.join(str(part) for part in first['loc']) or 'file'}",
            why=str(first["msg"]),
            fix="restore the file as `speedrun audit` wrote it",
        ) from None
    except (ValueError, RecursionError) as error:
        raise EvidenceError("audit.json breaks its schema", where=where, why=str(error)) from None
