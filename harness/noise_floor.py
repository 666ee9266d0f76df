"""`doctor --aa`: what this node cannot tell apart.

The standing record against itself, both arms the same file, as a series like any other: its true
ratio is 1, and how far the measured one may lie from it is the node's noise.

A claimed gain belongs beside this figure: one below the floor was not seen, whatever its p.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.bundle import read_bundle
from harness.errors import (
    EXIT_ACCEPTED,
    EXIT_INTERRUPTED,
    EXIT_NOT_PROVEN,
    EXIT_RUNS_FAILED,
    UnfitError,
    UsageError,
)
from harness.places import repository
from harness.recovery import locked
from harness.source import read_source
from harness.stats.moments import sample_sd
from harness.submission import Material, Request, open_bundle, plan_series
from harness.submit import announce, carry_out
from harness.terminal import Terminal
from harness.tracks.track import parse_track, track_text
from harness.verdict import judge

REASON = "an A/A test: the standing record against itself"
DEFAULT_PAIRS = 5


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """Of one A/A series.

    pairs               finished pairs
    ratio, low, high    geometric mean of time ratios and its two-sided 98 % interval
    floor               the end of the interval that lies farther from 1, as a fraction
    detectable          smallest gain that as many pairs show in 80 of 100 series, as a fraction
    time_sd             spread of one arm's times, as a fraction of their mean
    loss_sd_nats        spread of all final losses of both arms
    """

    track: str
    script: str
    pairs: int
    ratio: float
    low: float
    high: float
    floor: float
    detectable: float | None
    time_sd: float | None
    loss_sd_nats: float | None

    @property
    def fair(self) -> bool:
        """Whether 1 lies within the interval, as it does in 98 of 100 A/A tests of a fair node."""
        return self.low <= 1.0 <= self.high

    def lines(self) -> tuple[str, ...]:
        found = [
            f"noise    {self.script} against itself: {self.ratio:.4f}, 98 % interval "
            f"{self.low:.4f} to {self.high:.4f} ({self.pairs} pairs)",
            f"floor    differences below {100 * self.floor:.2f} % mean nothing on this node"
            + (
                f"; {self.pairs} pairs show a gain of {100 * self.detectable:.2f} % or more"
                if self.detectable is not None
                else ""
            ),
        ]
        if self.time_sd is not None and self.loss_sd_nats is not None:
            found.append(
                f"spread   a run's time {100 * self.time_sd:.2f} %, its loss "
                f"{self.loss_sd_nats:.5f} nats (sd)"
            )
        return tuple(found)


def measure_noise_floor(request: Request, terminal: Terminal) -> tuple[int, NoiseFloor | None]:
    """Run the A/A series that `request` asks for; of it, scripts, name and design are not looked
    at. (exit code, floor); the floor is None after Ctrl-C and where too few pairs finished.

    Exit code 0: the same script took the same time; 1: 1 lies outside the interval; 5: runs failed.
    Raises UsageError, UnfitError.
    """
    text = track_text(request.track or "tiny")
    track = parse_track(text, "track")
    script = (repository() or Path.cwd()) / track.baseline
    if not script.is_file():
        raise UsageError(
            "no standing record to run against itself",
            where=str(script),
            why=f"the track names {track.baseline}",
            fix="work in a clone of the speedrun repository",
        )
    source = read_source(script)
    prepared = plan_series(
        replace(request, design="fixed", runs=request.runs or DEFAULT_PAIRS),
        Material(
            name=f"{track.name}-aa",
            track_text=text,
            sources={"candidate": source, "baseline": source},
            origins={"candidate": track.baseline, "baseline": track.baseline},
            exhibition=(REASON,),
        ),
    )
    announce(prepared, terminal)
    paths, ledger = open_bundle(prepared)
    with locked(paths):
        code = carry_out(paths, prepared.plan, prepared.track, ledger, terminal, False)
    if code == EXIT_INTERRUPTED:
        return code, None
    floor = noise_floor(paths.root)
    if floor is None:
        return EXIT_RUNS_FAILED, None
    return EXIT_ACCEPTED if floor.fair else EXIT_NOT_PROVEN, floor


def noise_floor(folder: Path) -> NoiseFloor | None:
    """The floor that a bundle's pairs yield, None for fewer than two. Raises EvidenceError, and
    UnfitError for a bundle whose arms are not the same."""
    verdict = judge(read_bundle(folder))
    if verdict.candidate.source_sha256 != verdict.baseline.source_sha256:
        raise UnfitError("this is no A/A test", where=str(folder), why="the arms differ")
    timing = verdict.timing
    if timing.ratio is None or timing.low is None or timing.high is None:
        return None
    times = verdict.baseline.time_mean_ms, verdict.baseline.time_sd_ms
    losses = [*verdict.candidate.losses_nats, *verdict.baseline.losses_nats]
    spread = sample_sd(losses)
    return NoiseFloor(
        track=verdict.track,
        script=verdict.baseline.script,
        pairs=timing.pairs,
        ratio=timing.ratio,
        low=timing.low,
        high=timing.high,
        floor=max(abs(timing.low - 1), abs(timing.high - 1)),
        detectable=None if timing.detectable_ratio is None else 1 - timing.detectable_ratio,
        time_sd=None if not times[0] or times[1] is None else times[1] / times[0],
        loss_sd_nats=spread if math.isfinite(spread) else None,
    )


def document(code: int, floor: NoiseFloor | None) -> dict[str, Any]:
    """What --json prints."""
    found = None if floor is None else {**asdict(floor), "fair": floor.fair}
    return {"noise_floor": found, "exit_code": code}
