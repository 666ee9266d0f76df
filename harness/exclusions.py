"""Outcome-blind reasons to exclude a run: what its telemetry shows, never what its result was."""

from __future__ import annotations

from harness.telemetry import RunTelemetry


def exclusion(summary: RunTelemetry) -> tuple[str, str] | None:
    """(criterion, evidence) when a run meets an exclusion criterion of the plan, else None."""
    if summary.hw_slowdown:
        return "hw_slowdown", "a GPU reported a hardware slowdown"
    if summary.foreign_processes:
        return "foreign_process", f"{summary.foreign_processes} foreign process(es) on its GPUs"
    return None
