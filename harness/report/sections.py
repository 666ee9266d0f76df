"""The tables and sentences of a report, section by section, as plain text.

Times are shown in seconds (the field's unit in a PR), losses in nats. Every function takes a
verdict in any state: no finished run, one run, no baseline.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from harness.report import formats as f
from harness.verdict_schema import ArmSummary, RunRow, Verdict

_NUMERIC = frozenset(f"0123456789+.{f.DASH}{f.MINUS}")


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


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure and one sentence on what it stands for."""

    term: str
    value: str
    meaning: str


def _difference(candidate: float | None, baseline: float | None) -> float | None:
    return None if candidate is None or baseline is None else candidate - baseline


def reached(verdict: Verdict) -> str:
    """What the candidate took: `4.21 s`, or `3250 steps` where steps are compared."""
    arm = verdict.candidate
    if verdict.compared_on == "steps":
        return "" if arm.steps is None else f.many(arm.steps, "step")
    return f"{f.seconds(arm.time_mean_ms, 2)} s" if f.known(arm.time_mean_ms) else ""


def change(verdict: Verdict) -> str:
    """`−1.90 s, −31.0 %` from the pairs, or the steps saved; empty when there is no comparison."""
    if verdict.compared_on == "steps":
        steps, before = verdict.candidate.steps, verdict.baseline.steps
        if steps is None or not before:
            return ""
        unit = "step" if abs(steps - before) == 1 else "steps"
        return f"{f.signed(steps - before, 0)} {unit}, {f.percent(steps / before - 1)}"
    saved, ratio = verdict.timing.saved_ms, verdict.timing.ratio
    if saved is None or ratio is None or not (f.known(saved) and f.known(ratio)):
        return ""
    return f"{f.headline_seconds(-saved)} s, {f.percent(ratio - 1)}"


def result_table(verdict: Verdict) -> Table:
    """The field's one table: baseline row, candidate row; differences against the first row."""
    times = ("time μ [s]", "time σ", "time Δ", "time p")
    losses = ("loss μ", "loss σ", "loss Δ", "loss p")
    head = ("arm", "runs", "steps", *times, *losses)
    base = verdict.baseline

    def row(arm: ArmSummary) -> tuple[str, ...]:
        first = arm.arm == "baseline"
        time = _difference(arm.time_mean_ms, base.time_mean_ms)
        loss = _difference(arm.loss_mean, base.loss_mean)
        return (
            arm.arm,
            str(arm.n),
            f.count(arm.steps),
            f.seconds(arm.time_mean_ms),
            f.seconds(arm.time_sd_ms),
            f.DASH if first else f.signed_seconds(time),
            f.DASH if first else f.p_value(verdict.timing.welch_p, verdict.alpha),
            f.nats(arm.loss_mean, bound=verdict.loss.target_loss_nats),
            f.nats(arm.loss_sd),
            f.DASH if first else f.signed(loss, f.LOSS_DECIMALS),
            f.p_value(arm.loss_p, verdict.alpha),
        )

    return Table(head, (row(verdict.baseline), row(verdict.candidate)))


def metrics_table(verdict: Verdict) -> Table:
    """The same figures with arms as columns, which fits a narrow page."""
    base, cand = verdict.baseline, verdict.candidate
    table = result_table(verdict)
    _, first, second = table.head, table.rows[0], table.rows[1]
    steps = _difference(cand.steps, base.steps)
    rows = (
        ("runs n", first[1], second[1], ""),
        ("steps", first[2], second[2], f.signed(steps, 0) if steps else ""),
        ("time μ [s]", first[3], second[3], second[5]),
        ("time σ [s]", first[4], second[4], ""),
        ("time p, Welch", "", second[6], ""),
        ("loss μ [nats]", first[7], second[7], second[9]),
        ("loss σ [nats]", first[8], second[8], ""),
        ("loss p, t-test", first[10], second[10], ""),
    )
    return Table(("", "baseline", "candidate", "Δ"), rows)


def result_notes(verdict: Verdict) -> tuple[str, ...]:
    """What the columns of the result table mean."""
    target = f.plain(verdict.loss.target_loss_nats)
    first = (
        f"Loss p: one-sided t-test of each row against {target}. "
        "Δ and time p (Welch, as the field prints it) compare with the baseline row; "
    )
    if verdict.compared_on == "steps":
        return (first + "this track compares steps, so time is for information only.",)
    return (first + "the time claim itself rests on the pairs below.",)


def value_lists(verdict: Verdict) -> str:
    """Python that a reviewer can paste: the values and the tests, with what they print."""
    cand, base = verdict.candidate, verdict.baseline
    lines = ["import scipy.stats", ""]
    for arm in (cand, base):
        if not arm.n:
            lines.append(f"# no finished {arm.arm} run")
            continue
        lines += _python_list(f"{arm.arm}_losses", [f.plain(x) for x in arm.losses_nats])
        times = [f.plain(round(ms / 1000, 6)) for ms in arm.train_ms]
        lines += _python_list(f"{arm.arm}_times", times)
    if len(cand.losses_nats) >= 2:
        target = f.plain(verdict.loss.target_loss_nats)
        lines += [
            "",
            f'print(scipy.stats.ttest_1samp(candidate_losses, {target}, alternative="less"))',
            f"# p={f.p_value(cand.loss_p, verdict.alpha)}  "
            f"std={f.nats(cand.loss_sd)}  mean={f.nats(cand.loss_mean)}",
        ]
    if len(cand.train_ms) >= 2 and len(base.train_ms) >= 2 and f.known(verdict.timing.welch_p):
        test = "scipy.stats.ttest_ind(candidate_times, baseline_times, equal_var=False, "
        lines += [
            "",
            f"print({test}",
            '                            alternative="less"))',
            f"# p={f.p_value(verdict.timing.welch_p, verdict.alpha)}  "
            f"candidate std={f.seconds(cand.time_sd_ms)}  mean={f.seconds(cand.time_mean_ms)}  "
            f"baseline std={f.seconds(base.time_sd_ms)}  mean={f.seconds(base.time_mean_ms)}",
        ]
    return "\n".join(lines)


def _python_list(name: str, values: list[str]) -> list[str]:
    text = f"{name} = [{', '.join(values)}]"
    return textwrap.wrap(text, 92, subsequent_indent="    ", break_long_words=False)


def loss_facts(verdict: Verdict) -> tuple[Fact, ...]:
    """Rule p, design p, bound, margin, floor; each with what it stands for."""
    loss, alpha = verdict.loss, verdict.alpha
    target = f.plain(loss.target_loss_nats)
    test = f"t = {f.fixed(loss.t, 3)}, {f.fixed(loss.df, 0)} degrees of freedom; "
    facts = [
        Fact(
            "Rule p",
            f.p_value(loss.rule_p, alpha),
            (test if f.known(loss.t) else "")
            + f"the track's own test of “mean loss ≤ {target}” over all {loss.n} counted runs, as "
            f"reviewers recompute it; below {f.plain(alpha)} passes. It does not know how often "
            "was looked.",
        ),
        Fact(
            "Design p",
            f.p_value(loss.design_p, loss.design_p_bound),
            f"the same test {_look(loss.decided_at)}; at most {f.plain(loss.design_p_bound)} "
            "passes. The plan fixed this bound before run 1 so that all looks together pass a "
            f"candidate at the target with chance {f.plain(alpha)} at most. "
            + _settled(loss.decided_at),
        ),
        Fact(
            f"{f.level(alpha)} upper bound",
            f.nats(loss.upper_bound, bound=loss.target_loss_nats),
            f"of the candidate's mean loss, one-sided; the claim needs it below {target}.",
        ),
        Fact(
            "Buffer",
            f"{f.signed(loss.margin, f.LOSS_DECIMALS)} nats",
            f"target minus mean loss ({target} − {f.nats(loss.mean, bound=loss.target_loss_nats)})",
        ),
    ]
    if verdict.compared_on == "steps" and loss.margin is not None and loss.n:
        facts.append(
            Fact(
                "Margin × √n",
                f.signed(loss.margin * loss.n**0.5, 5),
                "the figure that a track compared on steps is judged by.",
            )
        )
    if loss.floor_nats is not None:
        facts.append(_floor(loss.mean, loss.floor_nats))
    if loss.worst_case_p is not None:
        facts.append(
            Fact(
                "Worst case p",
                f.p_value(loss.worst_case_p, alpha),
                "rule p with every unfinished run counted at the worst finished loss: stopping a "
                "bad run must not help.",
            )
        )
    return tuple(facts)


def _look(decided_at: int | None) -> str:
    return "at the last look taken" if decided_at is None else f"at the look after {decided_at}"


def _settled(decided_at: int | None) -> str:
    if decided_at is None:
        return "The bound was not beaten at any look."
    return f"The claim was settled with {f.many(decided_at, 'candidate run')}."


def _floor(mean: float | None, floor: float) -> Fact:
    above = _difference(mean, floor)
    stands = (
        f"The source's entropy rate is {f.nats(floor)} nats a token; no honest model goes below."
    )
    if above is None or not f.known(above):
        return Fact("Above the floor", f.DASH, stands)
    if above < 0:
        return Fact("BELOW the floor", f"{f.fixed(-above, 3)} nats", stands + " Suspect a leak.")
    return Fact("Above the floor", f"{f.fixed(above, 3)} nats above the floor", stands)


def timing_facts(verdict: Verdict) -> tuple[Fact, ...]:
    """Paired ratio with its interval, robust and unpaired companions, what could have been seen."""
    t, alpha = verdict.timing, verdict.alpha
    two_sided = f"{100 * (1 - 2 * alpha):.6g} %"
    facts = [
        Fact(
            "Paired ratio",
            f.ratio(t.ratio),
            f"candidate / baseline, geometric mean over {f.many(t.pairs, 'pair')}; "
            f"{two_sided} interval {f.ratio(t.low)} to {f.ratio(t.high)}.",
        ),
        Fact(
            f"{f.level(alpha)} upper bound",
            f.ratio(t.upper_bound),
            "of the ratio, one-sided; the claim “faster on the same hardware” needs it below 1.",
        ),
        Fact(
            "Paired p",
            f.p_value(t.p, alpha),
            f"t-test on the logarithms of the {f.many(t.pairs, 'ratio')}.",
        ),
        Fact(
            "Design p",
            f.p_value(t.design_p, t.design_p_bound),
            f"the paired test {_look(t.decided_at)}; at most {f.plain(t.design_p_bound)} passes, "
            f"fixed before run 1. {_settled(t.decided_at)}",
        ),
        Fact(
            "Saved",
            f"{f.seconds(t.saved_ms)} s",
            "a run, mean of baseline minus candidate over the pairs.",
        ),
        Fact(
            "Hodges-Lehmann",
            f.ratio(t.hodges_lehmann),
            "median of the pairwise means of the ratios, which one throttled run does not move; "
            + (
                f"{two_sided} interval {f.ratio(t.hodges_lehmann_low)} to "
                f"{f.ratio(t.hodges_lehmann_high)}."
                if f.known(t.hodges_lehmann_low) and f.known(t.hodges_lehmann_high)
                else f"too few pairs for an exact {two_sided} interval."
            ),
        ),
        Fact(
            "Welch p",
            f.p_value(t.welch_p, alpha),
            "unpaired test on the same times, for comparison with older records.",
        ),
    ]
    if t.detectable_ratio is not None:
        facts.append(
            Fact(
                "Detectable",
                f.percent(t.detectable_ratio - 1),
                f"smallest improvement this design could have seen (ratio "
                f"{f.ratio(t.detectable_ratio)}).",
            )
        )
    if t.worst_case_ratio_bound is not None:
        facts.append(
            Fact(
                "Worst case bound",
                f.ratio(t.worst_case_ratio_bound),
                "upper bound of the ratio with every unfinished run at the worst finished time.",
            )
        )
    if t.official_seconds is not None:
        facts.append(
            Fact(
                "Official time",
                f"{f.fixed(t.official_seconds, 3)} s",
                "proposed for the table of records: the standing record's official time × ratio.",
            )
        )
    return tuple(facts)


def looks_table(verdict: Verdict) -> Table:
    """Every look taken, with the bounds it was held against."""
    loss_bound, time_bound = verdict.loss.design_p_bound, verdict.timing.design_p_bound
    head = (
        "candidate runs",
        "pairs",
        f"loss p (≤ {f.plain(loss_bound)})",
        "loss",
        f"timing p (≤ {f.plain(time_bound)})",
        "timing",
    )
    rows = tuple(
        (
            str(look.runs),
            str(look.pairs),
            f.p_value(look.loss_p, loss_bound),
            "settled" if look.loss_holds else "open",
            f.p_value(look.timing_p, time_bound),
            "settled" if look.timing_holds else "open",
        )
        for look in verdict.looks
    )
    return Table(head, rows)


def runs_table(verdict: Verdict) -> Table:
    """Every started run, whatever became of it."""
    head = ("run", "arm", "pair", "state", "steps", "loss [nats]", "time [s]", "wall [s]", "note")
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
        f.count(run.steps),
        f.nats(run.loss_nats),
        f.seconds(run.train_ms),
        f.fixed(run.wall_s, 1),
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
    return f"{f.many(len(verdict.runs), 'run')} started: {', '.join(parts)}{tail}."
