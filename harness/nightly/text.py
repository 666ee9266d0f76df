"""The night in words: Markdown for a job summary, and the text of an issue. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from harness.nightly.assess import SUSPECTS, Assessment, Finding
from harness.nightly.causes import percent
from harness.nightly.margin import Margin
from harness.nightly.nights import Night
from harness.report.escape import inline
from harness.report.formats import DASH, fixed, known, many, seconds, signed
from harness.stats.changepoint import FALSE_ALARMS_PER_NIGHT

SHOWN_NIGHTS = 10
MARKS = {True: "yes", False: "no", None: "not known"}


def title(assessment: Assessment, failures: Sequence[str] = ()) -> str:
    """One line for a heading or an issue."""
    if not assessment.hardware_class and not failures:
        return f"Nightly {assessment.track}: no run is recorded yet"
    place = assessment.hardware_class
    name = assessment.track + (f" on {place}" if place else "")
    for finding in assessment.fresh:
        return f"Nightly {name}: {finding.headline()}"
    for move in assessment.fresh_loss:
        return f"Nightly {name}: {move.headline()}"
    if failures:
        return f"Nightly {name}: {many(len(failures), 'run')} failed"
    return f"Nightly {name}: no change"


def summary(assessment: Assessment, failures: Sequence[str] = ()) -> str:
    """The night as Markdown: answer, figures, what changed and why, margin, last nights."""
    a = assessment
    parts = [f"# {inline(title(a, failures))}", _answer(a)]
    if failures:
        parts.append(
            "\n".join(["**Runs that gave no time:**", *(f"- {inline(f)}" for f in failures)])
        )
    parts += [_finding(finding) for finding in a.fresh]
    parts += [f"**{inline(move.headline())}**" for move in a.fresh_loss]
    parts += [_margin(a.margin, a.other_margins)] if a.margin is not None else []
    if a.nights:
        parts.append(_table(a.nights[-SHOWN_NIGHTS:]))
    parts += _earlier(a)
    parts.append(_method(a))
    return "\n\n".join(parts) + "\n"


def issue(assessment: Assessment, failures: Sequence[str], reproduce: str) -> str:
    """An issue: its title on the first line, then an empty one, then its body."""
    body = summary(assessment, failures).split("\n", 1)[1].strip()
    return "\n".join(
        [
            title(assessment, failures),
            "",
            body,
            "",
            "## Measure again",
            "```",
            reproduce,
            "```",
            "",
        ]
    )


def _answer(a: Assessment) -> str:
    if not a.nights:
        return "There is no night with a time yet."
    last, level = a.nights[-1], a.level_ms()
    text = f"The record took **{seconds(last.record_ms, 3)} s** ({many(last.runs, 'run')})"
    if level is not None and len(a.nights) - a.time.begin > 1:
        relative = last.record_ms / level - 1
        text += f", {signed(100 * relative, 2)} % against its level of {seconds(level, 3)} s"
    if last.reference_ms is not None:
        text += f"; the reference {fixed(last.reference_ms, 4)} ms"
    text += "."
    if a.time.learning:
        text += (
            f" The series is still learning its own noise: {many(a.time.learning, 'night')} to go "
            "before the first test."
        )
    elif known(a.time.noise):
        text += f" Night-to-night sd {100 * a.time.noise:.3f} %."
    moved = a.reference is not None and bool(a.reference.changes)
    if moved and not a.findings:
        text += " The reference has changed its level and the record has not."
    return text


def _finding(finding: Finding) -> str:
    rows = [
        f"| {SUSPECTS[cause.suspect]} | {MARKS[cause.found]} "
        f"| {inline('; '.join(cause.evidence))} |"
        for cause in finding.causes
    ]
    return "\n".join(
        [
            f"## {inline(finding.headline())}",
            f"Raised by the night of {finding.raised.day} (z {finding.change.z:.1f}).",
            "",
            "| suspect | evidence against it | what is known |",
            "|---|---|---|",
            *rows,
        ]
    )


STANDINGS = {
    "kept": "the buffer of {buffer} is there",
    "thin": "whether the buffer of {buffer} is there is not settled",
    "eaten": "the buffer of {buffer} is **not** there",
    "missed": "the record **misses its target**",
    "unknown": "too few losses for an interval",
}
NO_BUFFER = {
    "kept": "the target is reached",
    "thin": "whether the target is reached is not settled",
}


def _margin(margin: Margin, others: Sequence[Margin]) -> str:
    words = STANDINGS[margin.standing].format(buffer=fixed(margin.buffer_nats, 4))
    if not margin.buffer_nats:
        words = NO_BUFFER.get(margin.standing, words)
    text = (
        f"**Margin** {signed(margin.margin_nats, 5)} nats below the target "
        f"(95 % interval {signed(margin.low, 5)} to {signed(margin.high, 5)}; mean loss "
        f"{fixed(margin.mean_nats, 5)}, sd {fixed(margin.sd_nats, 5)}, {many(margin.n, 'run')} of "
        f"{many(margin.nights, 'night')}, source {margin.source[:12]}): {words}."
    )
    if margin.repeats:
        text += " Every run gave the same loss: they count as one."
    for other in others:
        text += (
            f"\nEarlier source {other.source[:12]}: {signed(other.margin_nats, 5)} "
            f"({many(other.n, 'run')}); kept apart."
        )
    return text


def _table(nights: Sequence[Night]) -> str:
    lines = [
        "| night | record, s | runs | reference, ms | node | source | torch |",
        "|---|---:|---:|---:|---|---|---|",
    ]
    for night in reversed(nights):
        reference = DASH if night.reference_ms is None else fixed(night.reference_ms, 4)
        torch = inline(night.software.get("torch") or DASH)
        lines.append(
            f"| {night.day} | {seconds(night.record_ms, 3)} | {night.runs} | {reference} "
            f"| {night.node[:8]} | {night.source[:8]} | {torch} |"
        )
    return "\n".join(lines)


def _earlier(a: Assessment) -> list[str]:
    old = [finding for finding in a.findings if finding not in a.fresh]
    lines = [f"- {inline(finding.headline())}" for finding in reversed(old[-5:])]
    lines += [f"- {inline(m.headline())}" for m in a.loss_moves if m not in a.fresh_loss]
    lines += [
        f"- {a.nights[i].day}: a single night {percent(_jump(a, i))} off its neighbours, set aside"
        for i in a.time.spikes[-3:]
    ]
    return ["\n".join(["**Earlier**", *lines])] if lines else []


def _jump(a: Assessment, i: int) -> float:
    from math import log

    around = [a.nights[j].record_ms for j in (i - 1, i + 1)]
    return log(a.nights[i].record_ms) - sum(map(log, around)) / 2


def _method(a: Assessment) -> str:
    where = f" of {inline(a.hardware_class)}" if a.hardware_class else ""
    return (
        f"<sub>{many(len(a.nights), 'night')}{where}; change-point model on "
        "the log of the night's median time, noise from the series itself, one false alarm in "
        f"{1 / FALSE_ALARMS_PER_NIGHT:,.0f} quiet nights at most.</sub>"
    )
