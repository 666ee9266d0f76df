"""From what a person asked to a track and a design."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.checks.case import Case
from harness.checks.design import check_design
from harness.errors import UsageError
from harness.looks import progress
from harness.plan import Pair
from harness.request import (
    Request,
    check_numbers,
    choose_design,
    choose_track,
    clean_name,
    parse_looks,
)
from harness.results import loss_result, timing_result
from harness.samples import take_samples
from harness.stats.sequential import FLAT_P_BOUNDS
from harness.tracks.track import load_track
from tests.support.series import fake_track, make_bundle, make_plan

TRACK = fake_track()


def test_the_default_is_the_tracks() -> None:
    design = choose_design(Request(), TRACK)
    assert (design.kind, design.looks) == ("group-sequential", (5, 10, 15, 20))
    assert (design.loss_p, design.timing_p, design.alpha) == (0.0031, 0.0031, 0.01)


@pytest.mark.parametrize(
    ("runs", "looks"),
    [(15, (5, 10, 15)), (10, (5, 10)), (20, (5, 10, 15, 20)), (30, (5, 10, 15, 20, 30)), (3, (3,))],
)
def test_another_number_of_runs_gets_its_own_bound(runs: int, looks: tuple[int, ...]) -> None:
    design = choose_design(Request(runs=runs), TRACK)
    assert design.looks == looks
    assert design.loss_p == design.timing_p
    assert design.loss_p == FLAT_P_BOUNDS.get(looks, design.loss_p)
    assert 0.01 / len(looks) <= design.loss_p <= 0.01


def test_looks_of_ones_own_get_their_bound() -> None:
    request = Request(looks=parse_looks("2,3"))
    check_numbers(request)
    design = choose_design(request, TRACK)
    assert (design.kind, design.looks) == ("group-sequential", (2, 3))
    assert design.loss_p == design.timing_p == 0.0053  # true level .0098, 200,000 replicates
    same = choose_design(Request(looks=(5, 10, 15, 20)), TRACK)
    assert same == choose_design(Request(), TRACK)


@pytest.mark.parametrize("text", ["", "5,", "five", "2.5", "5;10"])
def test_looks_that_are_no_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="no list of whole numbers"):
        parse_looks(text)


@pytest.mark.parametrize("looks", [(1, 2), (5, 5), (10, 5), (5, 201), (-3, 4)])
def test_looks_that_cannot_be_planned(looks: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="cannot be planned"):
        check_numbers(Request(looks=looks))


@pytest.mark.parametrize("more", [{"design": "fixed"}, {"runs": 10}])
def test_looks_say_the_number_of_runs(more: dict) -> None:
    with pytest.raises(UsageError, match="goes with a sequential plan"):
        check_numbers(Request(looks=(5, 10), **more))


def test_fixed_is_one_test_at_the_plain_level() -> None:
    assert choose_design(Request(design="fixed"), TRACK).looks == (10,)
    design = choose_design(Request(design="fixed", runs=7), TRACK)
    assert (design.kind, design.looks, design.loss_p, design.timing_p) == (
        "fixed",
        (7,),
        0.01,
        0.01,
    )


@pytest.mark.parametrize("track", ["small", "medium", "optimization"])
@pytest.mark.parametrize(
    "request_",
    [Request(), Request(runs=7), Request(design="fixed", runs=8), Request(looks=(2, 3))],
)
def test_every_design_that_is_offered_is_one_that_the_judge_allows(
    request_: Request, track: str
) -> None:
    rules = load_track(track)
    design = choose_design(request_, rules)
    base = make_plan(design.looks, track=track, target_loss_nats=rules.contest.target_loss_nats)
    launch = base.launch.model_copy(update={"processes": rules.hardware.processes})
    plan = base.model_copy(update={"design": design, "launch": launch})
    samples = take_samples(plan, [])
    state = progress(plan, rules, samples)
    check = check_design(
        Case(
            make_bundle(plan, [], track=rules),
            samples,
            state,
            loss_result(plan, rules, samples, state),
            timing_result(plan, rules, samples, state),
        )
    )
    assert (check.status, check.details) == ("pass", ())


@pytest.mark.parametrize(
    ("caches", "status"), [("warm", "pass"), ("unused", "pass"), ("cold", "fail")]
)
def test_a_plan_without_its_warm_up_pair(caches: str, status: str) -> None:
    """Allowed unless caches are to be filled; in any case no other pair may be missing."""
    plan = make_plan()
    launch = plan.launch.model_copy(update={"compile_caches": caches})

    def judged(pairs: tuple[Pair, ...]) -> tuple[str, tuple[str, ...]]:
        asked = plan.model_copy(update={"pairs": pairs, "launch": launch})
        samples = take_samples(asked, [])
        state = progress(asked, TRACK, samples)
        check = check_design(
            Case(
                make_bundle(asked, []),
                samples,
                state,
                loss_result(asked, TRACK, samples, state),
                timing_result(asked, TRACK, samples, state),
            )
        )
        return check.status, check.details

    order = ("plan.json pairs: not the order that seed 1 draws",)
    assert judged(plan.pairs) == ("pass", ())
    assert judged(plan.pairs[1:]) == (status, () if status == "pass" else order)
    for pairs in (plan.pairs[2:], plan.pairs[1:-1], plan.pairs[:-1], (*plan.pairs[1:],) * 2):
        assert judged(pairs) == ("fail", order)


def test_no_such_plan() -> None:
    with pytest.raises(UsageError, match="no plan named 'bayes'"):
        choose_design(Request(design="bayes"), TRACK)


@pytest.mark.parametrize(
    "request_",
    [
        Request(runs=1), Request(runs=0), Request(runs=-5), Request(runs=201),
        Request(runs=10**9), Request(design="fixed", runs=1001), Request(design="fixed", runs=1),
        Request(timeout_s=0.0), Request(timeout_s=-1.0), Request(timeout_s=math.nan),
        Request(timeout_s=math.inf), Request(target=math.nan), Request(target=math.inf),
        Request(target=0.0), Request(target=-3.0), Request(seed=-1), Request(seed=2**63),
    ],
)  # fmt: skip
def test_numbers_of_which_no_plan_can_be_made(request_: Request) -> None:
    with pytest.raises(UsageError) as caught:
        check_numbers(request_)
    assert caught.value.why


def test_numbers_of_which_one_can() -> None:
    check_numbers(Request())
    check_numbers(Request(runs=2, timeout_s=0.5, target=3.3, seed=0))
    check_numbers(Request(design="fixed", runs=1000, seed=2**63 - 1))


@pytest.mark.parametrize(
    ("asked", "script", "track", "warns"),
    [
        (None, None, "tiny", False),
        (None, "candidates/small.py", "small", False),
        (None, "candidates/small_muon-2.py", "small", False),
        (None, "mine/medium.v2.py", "medium", False),
        (None, "mine.py", "tiny", True),
        ("medium", "small.py", "medium", False),
        ("rules.toml", None, "rules.toml", False),
    ],
)
def test_the_name_of_the_script_names_the_track(
    asked: str | None, script: str | None, track: str, warns: bool
) -> None:
    request = Request(track=asked, candidate=Path(script) if script else None)
    chosen, warnings = choose_track(request)
    assert chosen == track
    assert bool(warnings) == (warns and "tiny" not in (script or ""))


def test_names_become_folders() -> None:
    assert clean_name("muon tiny/2") == "muon-tiny-2"
    assert clean_name("../../etc") == "etc"
    assert clean_name("-x-") == "x"
    assert len(clean_name("x" * 200)) == 60
    for name in ("", "/", "..", "¼"):
        with pytest.raises(UsageError):
            clean_name(name)
