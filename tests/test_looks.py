"""Looks: what runs next, when a claim is settled, and how often chance would settle it."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bundle import Run
from harness.claims import rule_p, timing_p
from harness.looks import Slot, next_slot, progress
from harness.plan import Plan
from harness.samples import PairSample, Samples, take_samples
from harness.stats.moments import t_quantile
from tests.support.series import fake_track, make_plan, make_run, make_series

TRACK = fake_track()
GOOD, BAD = 3.27, 3.281
FAST, SLOW = 76e3, 80e3


def values(n: int, centre: float, sd: float, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(centre, sd) for _ in range(n)]


def run_to_the_end(
    plan: Plan, losses: list[float], ms: list[float], base: list[float]
) -> list[Run]:
    """Whatever the plan asks for, until it asks for nothing."""
    runs: list[Run] = []
    while (slot := next_slot(plan, TRACK, runs)) is not None:
        i = max(slot.pair - 1, 0)
        loss, time = (losses[i], ms[i]) if slot.arm == "candidate" else (3.278, base[i])
        runs.append(make_run(slot.arm, slot.pair, loss, time))
        assert len(runs) <= 2 * (len(plan.pairs) + 1)
    return runs


def test_warm_up_first_then_pairs_in_the_plans_order() -> None:
    plan = make_plan((2,), loss_p=0.01, timing_p=0.01)
    runs = run_to_the_end(plan, [GOOD, GOOD], [FAST, FAST], [SLOW, SLOW])
    assert [(r.pair, r.arm) for r in runs] == [
        (p.index, arm) for p in plan.pairs for arm in p.order
    ]
    assert [r.counts for r in runs] == [False, False, True, True, True, True]


def test_a_slot_is_wanted_until_it_has_finished() -> None:
    plan = make_plan((2,))
    first, second = plan.pairs[0].order
    runs: list[Run] = []
    assert next_slot(plan, TRACK, runs) == Slot(0, first, False)
    runs.append(make_run(first, 0, state="failed"))
    assert next_slot(plan, TRACK, runs) == Slot(0, first, False)
    runs.append(make_run(first, 0, state="excluded"))  # a warm-up has warmed up, excluded or not
    assert next_slot(plan, TRACK, runs) == Slot(0, second, False)
    runs.append(make_run(second, 0))
    third, fourth = plan.pairs[1].order
    for state in ("lost", "failed", "excluded"):
        assert next_slot(plan, TRACK, runs) == Slot(1, third, True)
        runs.append(make_run(third, 1, state=state))
    runs.append(make_run(third, 1))
    assert next_slot(plan, TRACK, runs) == Slot(1, fourth, True)


def test_both_claims_settled_at_the_first_look() -> None:
    plan = make_plan()
    runs = run_to_the_end(
        plan, values(20, GOOD, 0.0014), values(20, FAST, 60), values(20, SLOW, 60, 2)
    )
    state = progress(plan, TRACK, take_samples(plan, runs))
    assert len(runs) == 12
    assert (state.loss_decided, state.timing_decided) == (5, 5)
    assert state.over == "both claims decided"
    assert [look.runs for look in state.looks] == [5]


def test_the_baseline_rests_once_timing_is_settled() -> None:
    plan = make_plan()
    runs = run_to_the_end(
        plan, values(20, BAD, 0.0014), values(20, FAST, 60), values(20, SLOW, 60, 2)
    )
    state = progress(plan, TRACK, take_samples(plan, runs))
    assert (state.loss_decided, state.timing_decided) == (None, 5)
    assert state.over == "last look taken"
    assert [look.runs for look in state.looks] == [5, 10, 15, 20]
    assert [look.pairs for look in state.looks] == [5, 5, 5, 5]
    assert {r.pair for r in runs if r.arm == "baseline"} == {0, 1, 2, 3, 4, 5}
    assert {r.pair for r in runs if r.arm == "candidate"} == set(range(21))


def test_claims_settled_at_different_looks_stay_settled() -> None:
    plan = make_plan((3, 6, 9), loss_p=0.0037, timing_p=0.0037)
    # Loss clear at once and worse later; time only clear when the noise of three pairs is past.
    losses = [3.2700, 3.2701, 3.2702, 3.29, 3.29, 3.29, 3.29, 3.29, 3.29]
    base = [80e3, 81e3, 79e3, *[80e3 + i for i in range(6)]]
    fast = [80.1e3, 79e3, 79.3e3, *[60e3 + 10 * i for i in range(6)]]
    runs = run_to_the_end(plan, losses, fast, base)
    state = progress(plan, TRACK, take_samples(plan, runs))
    assert state.loss_decided == 3
    assert state.timing_decided == 9
    assert [look.loss_holds for look in state.looks] == [True, True, True]
    assert [look.timing_holds for look in state.looks] == [False, False, True]
    assert state.looks[-1].loss_p is not None
    assert state.looks[-1].loss_p > 0.0037, "shown as it is, and settled all the same"


def test_a_claim_that_a_lost_run_would_undo_is_settled_later() -> None:
    """Three sd of margin pass the first look; with a lost run one sd above the target they do not
    yet. The series goes on instead of ending unproven."""
    plan = make_plan()
    losses = [3.28 - 0.0014 * (3 + z) for z in (-1.2, -0.6, 0.0, 0.6, 1.2) * 4]
    runs = make_series(plan, losses[:5], values(5, FAST, 60), values(5, SLOW, 60, 2))
    whole = progress(plan, TRACK, take_samples(plan, runs))
    assert (whole.loss_decided, whole.timing_decided) == (5, 5)

    lost = make_run("candidate", 3, state="lost")
    state = progress(plan, TRACK, take_samples(plan, [*runs, lost]))
    assert (state.loss_decided, state.timing_decided) == (None, 5)
    assert state.looks[0].loss_p == whole.looks[0].loss_p
    assert state.next is not None
    more = make_series(plan, losses[:10], values(10, FAST, 60), values(5, SLOW, 60, 2))
    state = progress(plan, TRACK, take_samples(plan, [*more, lost]))
    assert (state.loss_decided, state.timing_decided) == (10, 5)
    # What is lost after a look does not change it.
    late = progress(
        plan, TRACK, take_samples(plan, [*more, make_run("candidate", 7, state="lost")])
    )
    assert late.loss_decided == 5


def test_a_fixed_plan_looks_once() -> None:
    plan = make_plan((10,), loss_p=0.01, timing_p=0.01)
    runs = run_to_the_end(
        plan, values(10, GOOD, 0.0014), values(10, FAST, 60), values(10, SLOW, 60, 2)
    )
    assert len(runs) == 22
    assert [look.runs for look in progress(plan, TRACK, take_samples(plan, runs)).looks] == [10]


def test_nothing_is_looked_at_between_looks() -> None:
    plan = make_plan()
    runs = make_series(plan, values(9, GOOD, 0.0014), values(9, SLOW, 60), values(9, SLOW, 60, 2))
    assert [look.runs for look in progress(plan, TRACK, take_samples(plan, runs)).looks] == [5]


series = st.lists(
    st.tuples(
        st.floats(3.26, 3.29), st.floats(70e3, 90e3), st.sampled_from(["", "failed", "lost"])
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(series, st.integers(0, 2**31))
def test_a_resumed_series_walks_the_same_road(rows: list[Any], seed: int) -> None:
    """Asked after every run, or only once at the end, the plan says the same: so a resume, which
    knows nothing but the runs, cannot depart from what an uninterrupted series would do."""
    plan = make_plan((2, 4, 6), seed=seed, loss_p=0.05, timing_p=0.05)
    runs: list[Run] = []
    looks: list[Any] = []
    for loss, ms, trouble in rows:
        slot = next_slot(plan, TRACK, runs)
        if slot is None:
            break
        if trouble:
            runs.append(make_run(slot.arm, slot.pair, state=trouble, attempt=len(runs) + 10))
            assert next_slot(plan, TRACK, runs) == slot
        runs.append(make_run(slot.arm, slot.pair, round(loss, 6), round(ms)))
        state = progress(plan, TRACK, take_samples(plan, runs))
        # A look, once taken, is never taken otherwise.
        assert list(state.looks[: len(looks)]) == looks
        looks = list(state.looks)
    at_once = progress(plan, TRACK, take_samples(plan, list(runs)))
    assert list(at_once.looks) == looks
    shuffled = random.Random(seed).sample(runs, len(runs))
    assert progress(plan, TRACK, take_samples(plan, shuffled)) == at_once


# -- p of each claim -----------------------------------------------------------------------------


def test_rule_p_follows_the_tracks_own_test() -> None:
    losses = [3.2781, 3.2772, 3.2790, 3.2768]
    from scipy import stats

    assert rule_p(TRACK, losses, 3.28) == pytest.approx(
        stats.ttest_1samp(losses, 3.28, alternative="less").pvalue, rel=1e-9
    )
    known = fake_track(loss_rule='"z-rule"', loss_sd_nats="0.0013")
    z = (sum(losses) / 4 - 3.28) * 2 / 0.0013
    assert rule_p(known, losses, 3.28) == pytest.approx(stats.norm.cdf(z), rel=1e-9)
    for track in (TRACK, known):
        assert rule_p(track, [], 3.28) == 1.0
        assert rule_p(track, [3.27, math.inf], 3.28) == 1.0
    assert rule_p(TRACK, [3.27], 3.28) == 1.0
    assert rule_p(TRACK, [3.27, 3.27], 3.28) == 1.0, "one run filed twice proves nothing"


def pairs_of(candidate: list[float], baseline: list[float], steps: int = 1000) -> Samples:
    plan = make_plan()
    runs = make_series(plan, [3.27] * len(candidate), candidate, baseline)
    return take_samples(plan, runs)


def test_timing_p_is_the_paired_test_on_log_ratios() -> None:
    from scipy import stats

    candidate, baseline = values(6, FAST, 500), values(6, FAST + 700, 500, 2)
    p, n = timing_p(TRACK, pairs_of(candidate, baseline))
    logs = [math.log(round(c, 3) / round(b, 3)) for c, b in zip(candidate, baseline, strict=True)]
    assert n == 6
    assert p == pytest.approx(stats.ttest_1samp(logs, 0, alternative="less").pvalue, rel=1e-6)


def test_timing_p_is_1_where_no_test_exists() -> None:
    assert timing_p(TRACK, pairs_of([FAST], [SLOW])) == (1.0, 1)
    assert timing_p(TRACK, pairs_of([], [])) == (1.0, 0)
    assert timing_p(TRACK, pairs_of([FAST, 0.0], [SLOW, SLOW])) == (1.0, 2)


def test_on_a_track_of_steps_every_pair_must_take_fewer() -> None:
    from tests.support.series import make_log

    track = fake_track(compared_on='"steps"')

    def samples(*steps: tuple[int, int]) -> Samples:
        return Samples(
            tuple(
                PairSample(
                    i,
                    make_run("candidate", i, log=make_log(3.27, FAST, c)),
                    make_run("baseline", i, log=make_log(3.27, SLOW, b)),
                )
                for i, (c, b) in enumerate(steps, start=1)
            ),
            (),
        )

    assert timing_p(track, samples((1000, 1200), (1000, 1200))) == (0.0, 2)
    assert timing_p(track, samples((1000, 1200), (1200, 1200))) == (1.0, 2)
    assert timing_p(track, samples()) == (1.0, 0)


# -- how often chance passes ---------------------------------------------------------------------

LOOKS, BOUND, N = (5, 10, 15, 20), 0.0031, 20


def crossed(values: Any) -> Any:
    """Which replicates (rows of N standard normals, no true effect) some look lets through."""
    import numpy as np

    passed = np.zeros(len(values), dtype=bool)
    for n in LOOKS:
        some = values[:, :n]
        t = some.mean(axis=1) / (some.std(axis=1, ddof=1) / math.sqrt(n))
        passed |= t <= t_quantile(BOUND, n - 1)
    return passed


def test_chance_passes_either_claim_in_at_most_one_series_of_a_hundred() -> None:
    """200,000 series at the worst honest point (mean exactly on the target, ratio exactly 1):
    the rate, and that `progress` itself decides the same series the same way."""
    import numpy as np

    rng = np.random.default_rng(20260816)
    replicates = rng.standard_normal((200_000, N))
    passed = crossed(replicates)
    rate = float(passed.mean())
    assert 0.008 < rate <= 0.0105

    # As many series that pass as that do not, each judged by `progress` run by run as printed.
    plan = make_plan(seed=4)
    chosen = [*np.flatnonzero(passed)[:40], *np.flatnonzero(~passed)[:80]]
    for i in chosen:
        normals = replicates[i]
        losses = [3.28 + 0.0014 * z for z in normals]
        samples = take_samples(plan, make_series(plan, losses, [SLOW] * N, [FAST] * N))
        assert (progress(plan, TRACK, samples).loss_decided is not None) == passed[i]
        # The same noise in the log ratio of the times, and a loss that is never settled.
        times = [round(SLOW * math.exp(0.001 * z), 3) for z in normals]
        samples = take_samples(
            plan, make_series(plan, [3.29 + z / 1e3 for z in normals], times, [SLOW] * N)
        )
        assert (progress(plan, TRACK, samples).timing_decided is not None) == passed[i]


def test_stopping_when_both_hold_does_not_raise_either_rate() -> None:
    """Through the whole road, as a series would go: runs are asked for until the plan is over."""
    plan = make_plan((5, 10), loss_p=0.0053, timing_p=0.0053)
    loss_passed = timing_passed = 0
    count = 250
    draw = random.Random(7)
    for _ in range(count):
        losses = [draw.gauss(3.28, 0.0014) for _ in range(10)]
        times = [round(SLOW * math.exp(draw.gauss(0, 0.001)), 3) for _ in range(10)]
        state = None
        for n in (5, 10):
            samples = take_samples(plan, make_series(plan, losses[:n], times[:n], [SLOW] * n))
            state = progress(plan, TRACK, samples)
            if state.next is None:
                break
        assert state is not None
        loss_passed += state.loss_decided is not None
        timing_passed += state.timing_decided is not None
    # Expected 2.5 of 250; 13 or more have a chance of 6e-6 each.
    assert loss_passed <= 12
    assert timing_passed <= 12
