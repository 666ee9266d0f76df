"""A track: the rule set of one contest, read from TOML.

Rules are data so that they can be versioned, hashed into a plan and shown; what a field means is
said here, once.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.canonical import sha256_text
from harness.errors import UsageError


class _Data(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Contest(_Data):
    """What must be reached, and what is compared."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    title: str
    rules_version: int = Field(ge=1)
    target_loss_nats: float
    alpha: float = Field(gt=0, lt=0.5)
    compared_on: Literal["training time", "steps"]
    loss_rule: Literal["t-test", "z-rule"]
    loss_sd_nats: float = Field(
        gt=0, description="pooled run-to-run sd, for power and luck warnings"
    )
    loss_per_100_steps_nats: float | None = Field(
        default=None, gt=0, description="exchange rate loss for steps at the schedule's end"
    )
    buffer_nats: float = Field(
        default=0.0,
        ge=0,
        description="margin the standing record keeps below the target on purpose",
    )
    loss_floor_nats: float | None = Field(
        default=None, description="entropy rate of the data, where it is known"
    )
    record_seconds: float | None = Field(
        default=None, gt=0, description="official time of the standing record"
    )
    record_name: str | None = None


class DataRule(_Data):
    """The token stream. `synthetic` data are made on the spot; `shards` must be there."""

    kind: Literal["synthetic", "shards"]
    folder: str
    train_glob: str
    validation_file: str
    validation_tokens: int = Field(gt=0)
    minimum_train_shards: int = Field(default=1, ge=1)
    sha256: dict[str, str] = Field(default_factory=dict, description="file name -> sha256")


class HardwareRule(_Data):
    """What may carry an official run. Classes are never mixed on one board."""

    kind: Literal["cpu", "gpu"]
    processes: int = Field(ge=1)
    classes: dict[str, list[str]] = Field(
        default_factory=dict, description="class name -> GPU names as the driver states them"
    )
    official_class: str | None = None
    launcher: Literal["torchrun", "python"] = Field(
        default="torchrun", description="torchrun with `processes` ranks, or one plain process"
    )
    any_count: bool = Field(default=False, description="any number of GPUs up to `processes`")
    reference_price_per_hour: float | None = Field(
        default=None, ge=0, description="dollars a node hour, for cost estimates only"
    )


class CompileRule(_Data):
    """torch.compile arguments and configuration that a script may use."""

    allowed_kwargs: list[str] = Field(default_factory=list)
    allowed_config: list[str] = Field(default_factory=list)
    free: bool = False


class DesignRule(_Data):
    """The default design: looks, thresholds, run limits."""

    looks: list[int] = Field(min_length=1, description="counted candidate runs, rising from 2")
    loss_p: float = Field(
        gt=0, lt=0.5, description="flat p bound at each look for the loss; see stats/sequential"
    )
    timing_p: float = Field(gt=0, lt=0.5)
    timeout_s: float = Field(gt=0)
    stall_s: float = Field(gt=0, description="longest silence on stdout before a run is ended")
    expected_run_s: float = Field(gt=0, description="wall seconds of one warm run, for estimates")
    max_unfinished: int = Field(
        default=2,
        ge=0,
        description="failed or lost runs a series survives; each is judged at its worst",
    )

    @field_validator("looks")
    @classmethod
    def _rising(cls, looks: list[int]) -> list[int]:
        if looks[0] < 2 or any(after <= before for before, after in pairwise(looks)):
            raise ValueError(f"looks must rise strictly and start at 2 or more, got {looks}")
        return looks


class AuditRule(_Data):
    """The extra, untimed run that the strong checks need."""

    required: bool = Field(default=True, description="no verdict is accepted without an audit run")
    scorer: Literal["required", "optional"] = Field(
        default="optional", description="must a candidate offer load_scorer and its weights?"
    )


class Track(_Data):
    """One contest's whole rule set."""

    schema_version: Literal[1]
    contest: Contest
    data: DataRule
    hardware: HardwareRule
    compile: CompileRule
    design: DesignRule
    audit: AuditRule = Field(default_factory=AuditRule)
    baseline: str = Field(description="the standing record's script, relative to the repository")
    candidate: str = Field(description="the script `submit` runs when none is named")

    @property
    def name(self) -> str:
        return self.contest.name


def parse_track(text: str, where: str) -> Track:
    """Track from TOML text; raises UsageError naming the field at fault."""
    try:
        return Track.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError("the track file is not TOML", where=where, why=str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            "the track file breaks its schema",
            where=f"{where}: {field}",
            why=first["msg"],
            fix="see harness/tracks/track.py for the meaning of each field",
        ) from None


@cache
def track_names() -> tuple[str, ...]:
    """Names of the tracks that come with the package."""
    folder = resources.files("harness.tracks")
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml")))


def track_text(name: str) -> str:
    """TOML text of a track, by name or by path of a .toml file."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(
                f"no track file {name}", fix="give a path to a .toml file or a track's name"
            )
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(
                "the track file is not UTF-8 text", where=name, why=str(error)
            ) from None
        except OSError as error:
            raise UsageError(
                "the track file cannot be read", where=name, why=str(error.strerror or error)
            ) from None
    if name not in track_names():
        raise UsageError(
            f"no track named {name!r}",
            why=f"this package has: {', '.join(track_names())}",
            fix="use one of these, or the path of a .toml file",
        )
    return resources.files("harness.tracks").joinpath(f"{name}.toml").read_text(encoding="utf-8")


def load_track(name: str) -> Track:
    """Track by name or path; raises UsageError."""
    return parse_track(track_text(name), f"{name}.toml")


def track_sha256(text: str) -> str:
    """Hash of the rule set as written; the plan carries it."""
    return sha256_text(text.replace("\r\n", "\n"))
