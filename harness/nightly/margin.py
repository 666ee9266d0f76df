"""The record's true margin: all its losses of all nights, against the track's target.

Records are picked for a lucky draw, so the margin of a record's own logs is too large. Nightly runs
are not picked: after 30 nights of three runs the mean's standard error is .00015 nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.nightly.table import NightlyRow
from harness.stats.moments import mean, sample_sd, t_quantile
from harness.tracks.track import Contest

CONFIDENCE = 0.95
Standing = Literal["kept", "thin", "eaten", "missed", "unknown"]


@dataclass(frozen=True, slots=True)
class Margin:
    """Target minus mean loss of one source, nats.

    n, nights   losses, and nights they come from
    low, high   two-sided 95 % t-interval; −inf, inf below two losses
    standing    kept: the whole interval lies at or above the buffer; eaten: below it; missed: even
                below zero; thin: the interval holds the buffer; unknown: one loss or none
    repeats     every run gave the same loss, so that they are one piece of evidence
    """

    source: str
    n: int
    nights: int
    mean_nats: float
    sd_nats: float
    margin_nats: float
    low: float
    high: float
    buffer_nats: float
    standing: Standing
    repeats: bool


def margin_of(rows: Sequence[NightlyRow], source: str, contest: Contest) -> Margin:
    """Margin of the record with this source hash.

    Warm-ups and runs on all hardware classes enter: a loss depends neither on cold caches nor,
    within its noise, on the node. Other sources are other records and never pooled.
    """
    losses = record_losses(rows, source)
    values = [loss for _, loss in losses]
    repeats = len(values) > 2 and len(set(values)) == 1
    used = values[:1] if repeats else values
    centre, sd = mean(used), sample_sd(used)
    margin = contest.target_loss_nats - centre
    half = math.inf
    if len(used) > 1:
        half = t_quantile((1 + CONFIDENCE) / 2, len(used) - 1) * sd / math.sqrt(len(used))
    low, high = (margin - half, margin + half) if used else (-math.inf, math.inf)
    return Margin(
        source=source,
        n=len(used),
        nights=len({night for night, _ in losses}),
        mean_nats=centre,
        sd_nats=sd,
        margin_nats=margin,
        low=low,
        high=high,
        buffer_nats=contest.buffer_nats,
        standing=_standing(low, high, contest.buffer_nats) if len(used) > 1 else "unknown",
        repeats=repeats,
    )


def record_losses(rows: Sequence[NightlyRow], source: str) -> list[tuple[str, float]]:
    """(night, loss) of every finished run of this source, in time."""
    return [
        (row.night, row.loss_nats)
        for row in sorted(rows, key=lambda row: row.utc)
        if row.kind != "reference"
        and row.state == "finished"
        and row.source_sha256 == source
        and row.loss_nats is not None
    ]


def _standing(low: float, high: float, buffer: float) -> Standing:
    if high < 0:
        return "missed"
    if low >= buffer:
        return "kept"
    return "eaten" if high < buffer else "thin"
