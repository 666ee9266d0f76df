"""Implausibly fast curves, and every published one that is not."""

from __future__ import annotations

import csv
import math
from itertools import pairwise

import pytest

from harness.checks.convergence import MOST_TIMES_FASTER, times_faster
from harness.logs import parse_log, read_log
from harness.verdict import judge
from tests.conftest import SHARED
from tests.support.series import fake_track, make_bundle, make_plan, make_run

Curve = list[tuple[int, float]]
BASELINE: Curve = [(0, 10.8), (100, 5.0), (200, 4.0), (400, 3.5), (800, 3.28)]


def status(
    candidate: Curve, baseline: Curve = BASELINE, floor: str = ""
) -> tuple[str, tuple[str, ...]]:
    runs = []
    for arm, curve in (("candidate", candidate), ("baseline", baseline)):
        (log,) = parse_log(
            f"step:{step}/{curve[-1][0]} val_loss:{loss} train_time:{step}ms step_avg:1ms"
            for step, loss in curve
        )
        runs.append(make_run(arm, 1, log=log))  # type: ignore[arg-type]
    track = fake_track(target_loss_nats=f"3.28\n{floor}") if floor else fake_track()
    verdict = judge(make_bundle(make_plan(), runs, track=track))
    check = next(check for check in verdict.checks if check.id == "convergence")
    return check.status, check.details


def test_the_same_curve_passes() -> None:
    assert status(BASELINE) == ("pass", ())


def test_a_better_recipe_passes() -> None:
    assert status([(0, 10.8), (100, 3.9), (300, 3.27)])[0] == "pass"


def test_the_target_within_a_few_steps_is_named() -> None:
    found, details = status([(0, 10.8), (20, 3.27)])
    assert found == "warn"
    assert "loss 3.2700 at step 20" in details[0]
    assert "40.0 times as many steps" in details[0]


def test_a_baseline_printed_once_accuses_nobody() -> None:
    assert status([(0, 10.8), (20, 3.29)], [(800, 3.28)])[0] == "skip"
    assert status([(0, 10.8), (20, 6.0)], [(0, 10.8), (800, 3.28)])[0] == "skip"


def test_below_the_entropy_of_the_data_is_broken() -> None:
    floor = "loss_floor_nats = 3.0"
    assert status(BASELINE, floor=floor)[0] == "pass"
    found, details = status([(0, 10.8), (100, 5.0), (700, 2.99)], floor=floor)
    assert found == "fail"
    assert "below the data's entropy 3" in details[0]


@pytest.mark.parametrize(
    ("own", "baselines", "times"),
    [
        ([(50, 4.5)], [[(0, 9.0), (100, 5.0), (200, 4.0)]], 2.0),
        ([(50, 4.5)], [[(0, 9.0), (100, 5.0)], [(0, 9.0), (60, 5.0), (70, 4.0)]], 1.2),
        ([(0, 4.5)], [[(0, 9.0), (100, 5.0)]], 0.0),
        ([(50, 4.5)], [[]], 0.0),
        ([], [[(100, 5.0)]], 0.0),
    ],
)
def test_by_hand(own: Curve, baselines: list[Curve], times: float) -> None:
    assert times_faster(own, baselines)[0] == pytest.approx(times)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the archive of run logs is not here")
def test_no_record_of_the_archive_is_flagged_against_the_one_before() -> None:
    """38 published logs, by date within their track; the largest jump is 3.0."""
    with (SHARED / "logs" / "archive_expected.csv").open() as file:
        rows = list(csv.DictReader(file))
    curves: dict[str, list[Curve]] = {}
    for name, track in dict.fromkeys((row["file"], row["track"]) for row in rows):
        run = read_log(SHARED / "logs" / "archive" / name)[0]
        points = [(p.step, p.loss_nats) for p in run.validations if math.isfinite(p.loss_nats)]
        curves.setdefault(track, []).append(points)
    jumps = [
        times_faster(after, [before])[0]
        for of_track in curves.values()
        for before, after in pairwise(of_track)
    ]
    assert len(jumps) > 30
    assert max(jumps) == pytest.approx(3.0, abs=0.01)
    assert max(jumps) < MOST_TIMES_FASTER


@pytest.mark.skipif(not SHARED.is_dir(), reason="the archive of run logs is not here")
def test_every_published_run_starts_where_an_untrained_model_does() -> None:
    for path in sorted((SHARED / "logs" / "archive").iterdir()):
        for run in read_log(path):
            first = run.at_step(0)
            assert first is None or first.loss_nats > math.log(50_257), path.name
