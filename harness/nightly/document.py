"""An assessment as one JSON document: what `retime --json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.nightly.assess import Assessment, Finding
from harness.nightly.table import NightlyRow
from harness.stats.changepoint import FALSE_ALARMS_PER_NIGHT, THRESHOLD


def document(
    found: Assessment,
    tonight: Sequence[NightlyRow],
    failures: Sequence[str],
    exit_code: int,
    folder: Path | None,
) -> dict[str, Any]:
    """Plain values only. Shifts are logarithms of time ratios: 0.004 is 0.4 %."""
    last = found.nights[-1] if found.nights else None
    return {
        "schema_version": 1,
        "exit_code": exit_code,
        "track": found.track,
        "hardware_class": found.hardware_class,
        "alert": found.alert,
        "folder": None if folder is None else str(folder),
        "failures": list(failures),
        "runs": [row.model_dump(mode="json") for row in tonight],
        "night": None if last is None else asdict(last),
        "nights": len(found.nights),
        "nights_to_learn": found.time.learning,
        "level_ms": found.level_ms(),
        "noise": found.time.noise,
        "threshold_z": THRESHOLD,
        "false_alarms_per_night": FALSE_ALARMS_PER_NIGHT,
        "changes": [_change(finding, finding in found.fresh) for finding in found.findings],
        "loss_changes": [
            {**asdict(move), "fresh": move in found.fresh_loss} for move in found.loss_moves
        ],
        "margin": None if found.margin is None else asdict(found.margin),
        "other_margins": [asdict(margin) for margin in found.other_margins],
        "segments": [
            {
                "begin": found.nights[part.begin].day,
                "nights": part.end - part.begin,
                "level": part.level,
            }
            for part in found.segments
        ],
    }


def _change(finding: Finding, fresh: bool) -> dict[str, Any]:
    return {
        "fresh": fresh,
        "headline": finding.headline(),
        "since": finding.first.day,
        "raised": finding.raised.day,
        "shift": finding.change.shift,
        "low": finding.change.low,
        "high": finding.change.high,
        "z": finding.change.z,
        "suspects": list(finding.suspects),
        "causes": [asdict(cause) for cause in finding.causes],
    }
