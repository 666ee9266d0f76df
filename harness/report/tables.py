"""The tables of a report and the lists a reviewer pastes, as plain text.

Times are shown in seconds (the field's unit in a PR), losses in nats. Every function takes a
verdict in any state: no finished run, one run, no baseline.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from harness.report import formats as fmt
from harness.report.pairs import pair_times
from harness.verdict_schema import ArmSummary, RunRow, Verdict

_NUMERIC = frozenset(f"0123456789+.{fmt.DASH}{fmt.MINUS}")


@dataclass(frozen=True, slots=True)
class Table:
    """Column heads and rows of cells."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers only (and dashes), so that they stand flush right."""
        return tuple(
            all(set(row[i][:1]) <= _NUMERIC for row in self.rows) for i in range(len(self.head))
        )


def result_table(verdict: Verdict) -> Table:
    """The field's one table: baseline row, candidate row; differences against the first row."""
    times = ("time μ (s)", "time σ", "time Δ", "time p")
    losses = ("loss μ", "loss σ", "loss Δ", "loss p")
    head = ("arm", "runs", "steps", *times, *losses)
    base = verdict.baseline

    def row(arm: ArmSummary) -> tuple[str, ...]:
        first = arm.arm == "baseline"
        time = fmt.difference(arm.time_mean_ms, base.time_mean_ms)
        loss = fmt.difference(arm.loss_mean, base.loss_mean)
        return (
            arm.arm,
            str(arm.n),
            fmt.count(arm.steps),
            fmt.seconds(arm.time_mean_ms),
            fmt.seconds(arm.time_sd_ms),
            fmt.DASH if first else fmt.signed_seconds(time),
            fmt.DASH if first else fmt.p_value(verdict.timing.welch_p, verdict.alpha),
            fmt.nats(arm.loss_mean, bound=verdict.loss.target_loss_nats),
            fmt.nats(arm.loss_sd),
            fmt.DASH if first else fmt.signed(loss, fmt.LOSS_DECIMALS),
            fmt.p_value(arm.loss_p, verdict.alpha),
        )

    return Table(head, (row(verdict.baseline), row(verdict.candidate)))


def metrics_table(verdict: Verdict) -> Table:
    """The same figures with arms as columns, which fits a narrow page."""
    base, cand = verdict.baseline, verdict.candidate
    table = result_table(verdict)
    _, first, second = table.head, table.rows[0], table.rows[1]
    steps = fmt.difference(cand.steps, base.steps)
    rows = (
        ("runs n", first[1], second[1], ""),
        ("steps", first[2], second[2], fmt.signed(steps, 0) if steps else ""),
        ("time μ (s)", first[3], second[3], second[5]),
        ("time σ (s)", first[4], second[4], ""),
        ("time p, Welch", "", second[6], ""),
        ("loss μ (nats)", first[7], second[7], second[9]),
        ("loss σ (nats)", first[8], second[8], ""),
        ("loss p, t-test", first[10], second[10], ""),
    )
    return Table(("", "baseline", "candidate", "Δ"), rows)


def result_notes(verdict: Verdict) -> tuple[str, ...]:
    """What the columns of the result table mean."""
    target = fmt.plain(verdict.loss.target_loss_nats)
    first = (
        f"Loss p: one-sided t-test of each row against {target}. "
        "Δ compares with the baseline row; time p is Welch's over the pairs, as in older records; "
    )
    if verdict.compared_on == "steps":
        return (first + "this track compares steps, so time is for information only.",)
    return (first + "the time claim itself rests on the pairs below.",)


def value_lists(verdict: Verdict) -> str:
    """Python that a reviewer can paste: the values and the tests, with what they print."""
    cand, base = verdict.candidate, verdict.baseline
    lines = ["import numpy", "import scipy.stats", ""]
    for arm in (cand, base):
        if not arm.n:
            lines.append(f"# no finished {arm.arm} run")
            continue
        lines += _python_list(f"{arm.arm}_losses", [fmt.plain(x) for x in arm.losses_nats])
        times = [_seconds(ms) for ms in arm.train_ms]
        lines += _python_list(f"{arm.arm}_times", times)
    if len(cand.losses_nats) >= 2:
        target = fmt.plain(verdict.loss.target_loss_nats)
        lines += [
            "",
            f'print(scipy.stats.ttest_1samp(candidate_losses, {target}, alternative="less"))',
            f"# p={fmt.p_value(cand.loss_p, verdict.alpha)}  "
            f"std={fmt.nats(cand.loss_sd)}  mean={fmt.nats(cand.loss_mean)}",
        ]
    lines += _paired_tests(verdict)
    return "\n".join(lines)


def _paired_tests(verdict: Verdict) -> list[str]:
    """The timing tests, over the pairs alone: the baseline rests once timing is settled, so its
    list may be shorter than the candidate's."""
    timing, pairs = verdict.timing, pair_times(verdict)
    if len(pairs) < 2 or not fmt.known(timing.p):
        return []
    rows = [f"({_seconds(pair.candidate_ms)}, {_seconds(pair.baseline_ms)})" for pair in pairs]
    return [
        "",
        *_python_list("pairs", rows),
        "candidate, baseline = numpy.array(pairs).T",
        "print(scipy.stats.ttest_rel(numpy.log(candidate), numpy.log(baseline), "
        'alternative="less"))',
        f"# p={fmt.p_value(timing.p, verdict.alpha)}  ratio={fmt.ratio(timing.ratio)}",
        'print(scipy.stats.ttest_ind(candidate, baseline, equal_var=False, alternative="less"))',
        f"# p={fmt.p_value(timing.welch_p, verdict.alpha)}  (Welch, unpaired)",
    ]


def _seconds(ms: float) -> str:
    return fmt.plain(round(ms / 1000, 6))


def _python_list(name: str, values: list[str]) -> list[str]:
    text = f"{name} = [{', '.join(values)}]"
    return textwrap.wrap(text, 92, subsequent_indent="    ", break_long_words=False)


def looks_table(verdict: Verdict) -> Table:
    """Every look taken, with the bounds it was held against."""
    loss_bound, time_bound = verdict.loss.design_p_bound, verdict.timing.design_p_bound
    in_steps = verdict.compared_on == "steps"
    compared = "fewer steps" if in_steps else f"timing p (≤ {fmt.plain(time_bound)})"
    head = ("candidate runs", "pairs", f"loss p (≤ {fmt.plain(loss_bound)})", "loss")
    rows = tuple(
        (
            str(look.runs),
            str(look.pairs),
            fmt.p_value(look.loss_p, loss_bound),
            "settled" if look.loss_holds else "open",
            ("yes" if look.timing_holds else "no")
            if in_steps
            else fmt.p_value(look.timing_p, time_bound),
            "settled" if look.timing_holds else "open",
        )
        for look in verdict.looks
    )
    return Table((*head, compared, "steps" if in_steps else "timing"), rows)


def runs_table(verdict: Verdict) -> Table:
    """Every started run, whatever became of it."""
    head = ("run", "arm", "pair", "state", "steps", "loss (nats)", "time (s)", "wall (s)", "note")
    return Table(head, tuple(_run(run) for run in verdict.runs))


def _run(run: RunRow) -> tuple[str, ...]:
    notes = [] if run.counts else ["warm-up, never counts"]
    notes += [f"attempt {run.attempt}"] if run.attempt > 1 else []
    notes += [run.note] if run.note else []
    return (
        run.run_id,
        run.arm,
        str(run.pair),
        run.state if run.state == "finished" else run.state.upper(),
        fmt.count(run.steps),
        fmt.nats(run.loss_nats),
        fmt.seconds(run.train_ms),
        fmt.fixed(run.wall_s, 1),
        "; ".join(notes),
    )


def runs_summary(verdict: Verdict) -> str:
    """`24 runs started: 22 finished, 1 failed, 1 lost; 2 of them warm-up`."""
    if not verdict.runs:
        return "No run was started."
    states = ("finished", "failed", "lost", "excluded")
    counts = {state: sum(run.state == state for run in verdict.runs) for state in states}
    parts = [f"{number} {state}" for state, number in counts.items() if number]
    warm = sum(not run.counts for run in verdict.runs)
    tail = f"; {warm} of them warm-up" if warm else ""
    return f"{fmt.many(len(verdict.runs), 'run')} started: {', '.join(parts)}{tail}."
