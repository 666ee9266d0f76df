"""doctor --aa: the record against itself."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest

from harness.errors import UnfitError
from harness.noise_floor import noise_floor
from tests.support.contest import Contest, write_trainer


def test_the_record_against_itself(contest: Contest) -> None:
    done = contest.run("doctor", "--aa", "--track", "track.toml", "--runs", "6", "--json")
    floor = json.loads(done.stdout)["noise_floor"]
    assert done.returncode == (0 if floor["fair"] else 1), done.stderr
    assert floor["pairs"] == 6
    assert floor["script"] == "fake.py"
    # Six pairs of times with sd 1 %: the ratio's sd is 1.4 % / √6, the interval ± 3.4 of them.
    assert abs(math.log(floor["ratio"])) < 5 * 0.0142 / math.sqrt(6)
    assert 0 < floor["floor"] < 0.1
    assert floor["floor"] == max(abs(floor["low"] - 1), abs(floor["high"] - 1))
    assert "both arms are the same script" in done.stderr
    assert "differences below" in done.stderr
    plan = json.loads((contest.bundle / "plan.json").read_text(encoding="utf-8"))
    assert plan["exhibition"][0] == "an A/A test: the standing record against itself"
    assert plan["candidate"]["source_sha256"] == plan["baseline"]["source_sha256"]


def test_the_floor_is_what_the_pairs_yield(contest: Contest) -> None:
    contest.run("doctor", "--aa", "--track", "track.toml", "--runs", "5", "--seed", "3")
    assert not contest.bundles()  # doctor knows no --seed: nothing was started
    contest.run("doctor", "--aa", "--track", "track.toml", "--runs", "5")
    floor = noise_floor(contest.bundle)
    verdict = contest.verdict()
    ratios = verdict["timing"]["pair_ratios"]  # type: ignore[index]
    assert floor is not None
    assert floor.ratio == pytest.approx(statistics.geometric_mean(ratios), rel=1e-9)
    arms = verdict["candidate"], verdict["baseline"]
    losses = [loss for arm in arms for loss in arm["losses_nats"]]  # type: ignore[index]
    assert floor.loss_sd_nats == pytest.approx(statistics.stdev(losses), rel=1e-6)


def test_a_bundle_with_two_scripts_is_no_aa_test(accepted: Path) -> None:
    with pytest.raises(UnfitError, match="no A/A test"):
        noise_floor(accepted)


def test_runs_that_fail_give_no_floor(contest: Contest) -> None:
    write_trainer(contest.baseline, mode="crash")
    done = contest.run("doctor", "--aa", "--track", "track.toml", "--runs", "2", "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout) == {"noise_floor": None, "exit_code": 5}


def test_no_standing_record(contest: Contest) -> None:
    contest.baseline.unlink()
    done = contest.run("doctor", "--aa", "--track", "track.toml")
    assert done.returncode == 2
    assert "no standing record to run against itself" in done.stderr


def test_its_options_need_it(contest: Contest) -> None:
    done = contest.run("doctor", "--runs", "3")
    assert done.returncode == 2
    assert "--aa" in done.stderr
