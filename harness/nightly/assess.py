"""Did the record get slower or faster, and why? `assess` is a pure function of the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.nightly.causes import Cause, Suspect, blame, find_causes, percent
from harness.nightly.margin import Margin, margin_of, record_losses
from harness.nightly.nights import Night, hardware_classes, take_nights
from harness.nightly.table import NightlyRow
from harness.stats.changepoint import Change, Segment, Watch, segment, watch
from harness.stats.moments import mean
from harness.tracks.track import Track

SUSPECTS = {
    "record": "the record's own code",
    "data": "the data",
    "software": "software",
    "hardware": "hardware",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A change of the record's time.

    first, raised   the nights with which the new level began, and which raised the alarm
    causes          every suspect with its evidence
    """

    change: Change
    first: Night
    raised: Night
    causes: tuple[Cause, ...]

    @property
    def suspects(self) -> tuple[Suspect, ...]:
        return blame(self.causes)

    @property
    def slower(self) -> bool:
        return self.change.shift > 0

    def verdict(self) -> str:
        """The suspects in words: "software", "hardware or software", "unexplained"."""
        return " or ".join(SUSPECTS[name] for name in self.suspects) or "unexplained"

    def headline(self) -> str:
        """One line: what happened, by how much, since when, and whose doing it is."""
        size = percent(self.change.shift).lstrip("+−")
        how = "slower" if self.slower else "faster"
        low, high = percent(self.change.low), percent(self.change.high)
        return (
            f"{size} {how} since {self.first.day} (95 % interval {low} to {high}): {self.verdict()}"
        )


@dataclass(frozen=True, slots=True)
class LossMove:
    """The record's nightly mean loss changed its level while its code did not."""

    change: Change
    first_day: str
    raised_night: str

    def headline(self) -> str:
        c = self.change
        how = "higher" if c.shift > 0 else "lower"
        text = f"loss {abs(c.shift):.5f} nats {how} since {self.first_day} with the same code"
        return f"{text} (95 % interval {c.low:+.5f} to {c.high:+.5f})".replace("-0", "−0")


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the table says of one track on one hardware class.

    nights    those with a figure, oldest first
    time      the record's log time, watched
    reference the same of the reference as it is now; None where it did not run
    segments  levels for the picture
    findings  every change, oldest first; `fresh` those that the newest night raised
    """

    track: str
    hardware_class: str
    nights: tuple[Night, ...]
    time: Watch
    reference: Watch | None
    segments: tuple[Segment, ...]
    findings: tuple[Finding, ...]
    loss_moves: tuple[LossMove, ...]
    margin: Margin | None
    other_margins: tuple[Margin, ...]

    @property
    def fresh(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if self.nights and f.raised == self.nights[-1])

    @property
    def fresh_loss(self) -> tuple[LossMove, ...]:
        newest = self.nights[-1].name if self.nights else ""
        return tuple(move for move in self.loss_moves if move.raised_night == newest)

    @property
    def alert(self) -> bool:
        """The newest night raised an alarm that was not raised before."""
        return bool(self.fresh or self.fresh_loss)

    def level_ms(self) -> float | None:
        """Median training time of the level that stands now; None without a night."""
        standing = [night.record_ms for night in self.nights[self.time.begin :]]
        return median(standing) if standing else None


def assess(
    rows: Sequence[NightlyRow], track: Track, hardware_class: str | None = None
) -> Assessment:
    """Everything the table yields for one hardware class; by default the one that ran last."""
    classes = hardware_classes(rows)
    chosen = hardware_class or (classes[-1] if classes else "")
    nights = take_nights(rows, chosen)
    logs = [math.log(night.record_ms) for night in nights]
    time = watch(logs)
    newest = nights[-1].reference_source if nights else ""
    with_reference = [
        math.log(night.reference_ms)
        for night in nights
        if night.reference_ms is not None and night.reference_source == newest
    ]
    source = nights[-1].source if nights else ""
    others = {night.source for night in nights} - {source}
    return Assessment(
        track=track.name,
        hardware_class=chosen,
        nights=nights,
        time=time,
        reference=watch(with_reference) if with_reference else None,
        segments=segment(logs),
        findings=_findings(nights, time),
        loss_moves=_loss_moves(rows, nights, source),
        margin=margin_of(rows, source, track.contest) if source else None,
        other_margins=tuple(margin_of(rows, other, track.contest) for other in sorted(others)),
    )


def _findings(nights: Sequence[Night], time: Watch) -> tuple[Finding, ...]:
    borders = [0, *(change.first for change in time.changes), len(nights)]
    return tuple(
        Finding(
            change=change,
            first=nights[change.first],
            raised=nights[change.raised],
            causes=find_causes(
                nights[borders[i] : change.first],
                nights[change.first : borders[i + 2]],
                change.shift,
            ),
        )
        for i, change in enumerate(time.changes)
    )


def _loss_moves(
    rows: Sequence[NightlyRow], nights: Sequence[Night], source: str
) -> tuple[LossMove, ...]:
    """Changes of the nightly mean loss, within the record's present code."""
    names = {night.name: night.day for night in nights}
    losses: dict[str, list[float]] = {}
    for name, loss in record_losses(rows, source):
        if name in names:
            losses.setdefault(name, []).append(loss)
    series = list(losses)
    return tuple(
        LossMove(change, names[series[change.first]], series[change.raised])
        for change in watch([mean(losses[name]) for name in series]).changes
    )
