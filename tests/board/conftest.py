"""A repository with bundles of every kind, histories and nightly series; and the board of it."""

from __future__ import annotations

import math
import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.board import build_site
from harness.nightly.table import COLUMNS, NightlyRow, format_rows
from tests.support import bundles
from tests.support.contest import TRACK

HOSTILE = "<script>alert(1)<b>& 'q' \"q\" \u202eevil"
ROOT = Path(__file__).resolve().parents[2]


def nightly(count: int = 40, step_at: int = 25, hardware: str = "8 × H100") -> str:
    """Nights of the record, 0.4 % slower from one night on, and of a reference that is not."""
    draw = random.Random(1)
    rows = []
    for night in range(count):
        utc = datetime(2026, 9, 1, 3, tzinfo=UTC) + timedelta(days=night)
        for kind, level in (("record", 79_200.0), ("reference", 1.25)):
            slower = 1.004 if kind == "record" and night >= step_at else 1.0
            for run in (1, 2, 3):
                ms = round(level * slower * math.exp(draw.gauss(0, 0.001)), 5)
                rows.append(night_row(utc, kind, run, ms, hardware))
    return ",".join(COLUMNS) + "\n" + format_rows(rows)


def night_row(utc: datetime, kind: str, run: int, ms: float, hardware: str) -> NightlyRow:
    values: dict[str, object] = {
        name: "" if field.annotation is str else None
        for name, field in NightlyRow.model_fields.items()
    }
    return NightlyRow.model_validate(
        values
        | {
            "utc": f"{utc:%Y-%m-%dT%H:%M:%SZ}", "night": f"{utc:%Y-%m-%d}_small", "kind": kind,
            "run": run, "state": "finished", "counts": True, "train_ms": ms,
            "hardware_class": hardware, "source_sha256": "ab" * 8, "note": "<b>x</b>",
            "loss_nats": 3.278 + ms % 7 / 1000 if kind == "record" else None,
        }
    )  # fmt: skip


@pytest.fixture(scope="session")
def house(accepted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository. Copy it before changing anything in it."""
    root = tmp_path_factory.mktemp("house")
    (root / "harness/tracks").mkdir(parents=True)
    (root / "harness/tracks/fake.toml").write_text(TRACK, encoding="utf-8")
    (root / "candidates").mkdir()
    shutil.copytree(accepted / "source" / "candidate", root / "baseline")
    results = root / "results"
    results.mkdir()
    shutil.copytree(accepted, results / "2026-11-20_fast")
    bundles.exhibition(accepted, results, "2026-11-20_show")
    bundles.other_rules(accepted, results, "2026-11-20_easier")
    bundles.rule_broken(accepted, results, "2026-11-20_edited-log")
    bundles.edited_verdict(accepted, results, "2026-11-20_better")
    bundles.unreadable(accepted, results, HOSTILE)
    shutil.copytree(ROOT / "results" / "history", results / "history")
    (results / "nightly").mkdir()
    (results / "nightly/small.csv").write_text(nightly(), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def site(house: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    build_site(house / "results", out, house)
    return out
