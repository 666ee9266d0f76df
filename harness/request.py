"""What a person asked `submit` for, and the design that follows from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from harness.checks.design import LONGEST_FIXED, LONGEST_SEQUENTIAL
from harness.errors import UsageError
from harness.plan import Design
from harness.stats.sequential import flat_p_bound
from harness.tracks.track import Track, track_names


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked `submit` for; None means the default."""

    candidate: Path | None = None
    baseline: Path | None = None
    track: str | None = None
    design: str = "group-sequential"
    runs: int | None = None
    looks: tuple[int, ...] | None = None
    processes: int | None = None
    python: str = ""
    data: Path | None = None
    out: Path = Path("results")
    name: str | None = None
    seed: int | None = None
    target: float | None = None
    timeout_s: float | None = None
    exhibition: bool = False
    data_set: str | None = None
    warm_up: bool = True


def check_numbers(request: Request) -> None:
    """Raises UsageError for numbers that no plan can be made of."""
    for option, value, most in (
        ("--timeout", request.timeout_s, 30 * 86_400),
        ("--target", request.target, 1e6),
    ):
        if value is not None and not 0 < value < most:
            raise UsageError(
                f"{option} must be a positive number below {most:g}", why=f"it is {value:g}"
            )
    if request.seed is not None and not 0 <= request.seed < 2**63:
        raise UsageError("--seed must be between 0 and 2^63", why=f"it is {request.seed}")
    if request.looks is not None:
        _check_looks(request)
    most_runs = LONGEST_FIXED if request.design == "fixed" else LONGEST_SEQUENTIAL
    if request.runs is not None and not 2 <= request.runs <= most_runs:
        raise UsageError(
            f"{request.runs} run(s) prove nothing"
            if request.runs < 2
            else f"{request.runs} runs are more than a series may have",
            why="the t-test needs at least two losses"
            if request.runs < 2
            else f"a {request.design} plan has at most {most_runs} counted runs",
            fix="--runs 5 or more, up to " + str(most_runs),
        )


def parse_looks(text: str) -> tuple[int, ...]:
    """`5,10,15` as numbers; raises UsageError."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--looks {text!r} is no list of whole numbers", fix="such as --looks 5,10,15"
        ) from None


def _check_looks(request: Request) -> None:
    looks = request.looks or ()
    if request.design == "fixed" or request.runs is not None:
        raise UsageError(
            "--looks goes with a sequential plan, and its last number is the number of runs",
            why="--plan fixed or --runs was given beside it",
            fix="leave one of them away",
        )
    rising = all(a < b for a, b in pairwise(looks))
    if not rising or not 2 <= looks[0] <= looks[-1] <= LONGEST_SEQUENTIAL:
        raise UsageError(
            f"--looks {','.join(map(str, looks))} cannot be planned",
            why=f"looks rise, the first after 2 runs or more, the last after at most "
            f"{LONGEST_SEQUENTIAL}",
            fix="such as --looks 5,10,15",
        )


def choose_track(request: Request) -> tuple[str, list[str]]:
    """(track name or file, warnings): as asked, else by the first word of the script's name."""
    if request.track is not None:
        return request.track, []
    if request.candidate is not None:
        first = re.split(r"[_\-.]", request.candidate.stem)[0]
        if first in track_names():
            return first, []
        return "tiny", [
            f"no --track given and the name {request.candidate.name} names none: track tiny"
        ]
    return "tiny", []


def clean_name(name: str) -> str:
    """A name that can be a folder and stand in a command; raises UsageError if nothing is left."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:60]
    if not clean:
        raise UsageError(
            f"{name!r} cannot name a bundle", fix="use letters, digits, dots and dashes"
        )
    return clean


def choose_design(request: Request, track: Track) -> Design:
    """The track's looks and bounds, or those that the asked number of runs calls for."""
    rule, alpha = track.design, track.contest.alpha
    if request.design == "fixed":
        looks: tuple[int, ...] = (10 if request.runs is None else request.runs,)
        loss_p = timing_p = alpha
    elif request.design == "group-sequential":
        looks = tuple(rule.looks)
        loss_p, timing_p = rule.loss_p, rule.timing_p
        asked = request.looks or looks
        if request.runs is not None and request.runs != looks[-1]:
            asked = (*(look for look in looks if look < request.runs), request.runs)
        if asked != looks:
            looks, loss_p = asked, flat_p_bound(asked, alpha)
            timing_p = loss_p
    else:
        raise UsageError(
            f"no plan named {request.design!r}", fix="--plan sequential, or --plan fixed --runs N"
        )
    kind = "fixed" if request.design == "fixed" else "group-sequential"
    return Design(
        kind=kind,  # type: ignore[arg-type]
        alpha=alpha,
        looks=looks,
        loss_p=loss_p,
        timing_p=timing_p,
        max_unfinished=rule.max_unfinished,
    )
