"""What `verify` shows of a folder of logs: arms, comparisons of times, what was left out."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from harness.canonical import finite
from harness.errors import EXIT_ACCEPTED, EXIT_NOT_PROVEN, EXIT_USAGE
from harness.record_summary import ArmSummary, FolderSummary
from harness.terminal import Terminal

ALPHA = 0.01
SHOWN_SINGLE = 60
CAVEAT = (
    "nominal p only: nothing in a folder of logs says why its author stopped at this n, nor which "
    "runs are missing"
)


def proven(summary: FolderSummary) -> bool:
    """Every candidate arm passes the loss test, and is faster than its own baseline if it has one.

    Diverged runs leave the mean flattered, so with one among the skipped nothing is proven.
    """
    candidates = [arm for arm in summary.arms if arm.role == "candidate"]
    times = [c.welch.p for c in summary.comparisons if c.primary]
    diverged = any(run.kind == "diverged" for run in summary.skipped)
    return (
        bool(candidates)
        and not diverged
        and all(arm.p < ALPHA for arm in candidates)
        and all(p < ALPHA for p in times)
    )


def folder_exit_code(summary: FolderSummary) -> int:
    """0 when proven at the nominal level, 1 when not, 2 when no run could be counted."""
    if not summary.arms:
        return EXIT_USAGE
    return EXIT_ACCEPTED if proven(summary) else EXIT_NOT_PROVEN


def show_folder(summary: FolderSummary, terminal: Terminal) -> None:
    """Tables and warnings, on stderr."""
    arms = [arm for arm in summary.arms if not arm.single]
    if arms:
        terminal.table(
            f"target {summary.target_loss_nats:g} nats",
            ("~arm", "role", ">n", ">steps", ">loss μ", ">σ", ">p", ">time μ s", ">σ s"),
            [_row(arm) for arm in arms],
        )
    for arm in summary.arms:
        if arm.single:
            shown = arm.single[:SHOWN_SINGLE]
            more = f", the first {len(shown)}" if len(shown) < arm.n else ""
            terminal.table(
                f"{arm.name}: {arm.n} runs of several scripts{more}",
                ("~log", ">steps", ">loss", ">time s"),
                [
                    (run.label, str(run.steps), _fixed(run.loss_nats, 6),
                     "–" if run.time_s is None else _fixed(run.time_s, 3))
                    for run in shown
                ],
            )  # fmt: skip
    if summary.comparisons:
        terminal.table(
            "times, Welch's test, one-sided: is the candidate faster?",
            ("~candidate", "~baseline", ">Δ s", ">98 % low", ">high", ">t", ">df", ">p"),
            [
                (
                    c.candidate,
                    c.baseline + ("" if c.primary else " (2nd)"),
                    _fixed(c.welch.difference, 4, sign=True),
                    _fixed(c.welch.low, 4, sign=True),
                    _fixed(c.welch.high, 4, sign=True),
                    _fixed(c.welch.t, 2),
                    _fixed(c.welch.df, 1),
                    _p(c.welch.p),
                )
                for c in summary.comparisons
            ],
        )
    for warning in summary.warnings:
        terminal.warning(f"warning: {warning}")
    if summary.skipped:
        terminal.warning(f"{len(summary.skipped)} left out:")
        # One file may hold thirty runs, all left out for one reason.
        counts = Counter((run.path, run.reason) for run in summary.skipped)
        for (path, reason), count in list(counts.items())[:20]:
            terminal.info(f"  {path}: {reason}" + (f" ({count} runs)" if count > 1 else ""))
        if len(counts) > 20:
            left = sum(list(counts.values())[20:])
            terminal.info(f"  and {left} more (--json lists all)")
    if not summary.arms:
        terminal.failure("no run in this folder could be counted")
    elif all(arm.single for arm in summary.arms):
        terminal.warning("no record: logs of several scripts, with no arm to test or to compare")
    elif proven(summary):
        terminal.success("proven at the nominal level")
    else:
        terminal.warning("not proven")
    terminal.info(CAVEAT)


def folder_document(summary: FolderSummary) -> dict[str, Any]:
    """The same as one JSON document; null where a figure does not exist."""
    return {
        "schema_version": 1,
        "target_loss_nats": summary.target_loss_nats,
        "proven": proven(summary),
        "exit_code": folder_exit_code(summary),
        "caveat": CAVEAT,
        "arms": [
            {
                "name": arm.name,
                "role": arm.role,
                "n": arm.n,
                "total_steps": arm.total_steps,
                # As it is: rounding once more would tip a tie (3.2793125) the other way.
                "mean_loss_nats": arm.mean_loss_nats,
                "sd_loss_nats": finite(arm.sd_loss_nats),
                "p": finite(arm.p),
                "mean_time_s": finite(arm.mean_time_s),
                "sd_time_s": finite(arm.sd_time_s),
                "mixed": bool(arm.single),
                "losses_nats": [finite(loss) for loss in arm.losses_nats],
                "times_s": [finite(time_s) for time_s in arm.times_s],
            }
            for arm in summary.arms
        ],
        "comparisons": [
            {
                "candidate": c.candidate,
                "baseline": c.baseline,
                "primary": c.primary,
                "difference_s": finite(c.welch.difference),
                "low_s": finite(c.welch.low),
                "high_s": finite(c.welch.high),
                "t": finite(c.welch.t),
                "df": finite(c.welch.df),
                "p": finite(c.welch.p),
            }
            for c in summary.comparisons
        ],
        "skipped": [
            {"path": run.path, "kind": run.kind, "reason": run.reason} for run in summary.skipped
        ],
        "warnings": list(summary.warnings),
    }


def _row(arm: ArmSummary) -> tuple[str, ...]:
    return (
        arm.name,
        arm.role,
        str(arm.n),
        str(arm.total_steps or ""),
        _fixed(arm.mean_loss_nats, 6),
        _fixed(arm.sd_loss_nats, 6),
        _p(arm.p),
        _fixed(arm.mean_time_s, 4),
        _fixed(arm.sd_time_s, 4),
    )


def _fixed(value: float, digits: int, *, sign: bool = False) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _p(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.6f}" if value >= 1e-4 else f"{value:.2e}"
