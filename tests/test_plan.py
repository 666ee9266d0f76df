"""The plan: balanced, drawn by its seed, and unchangeable without notice."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.errors import EvidenceError
from harness.plan import Plan, Rerun, draw_pairs, read_plan
from tests.support.series import make_plan

AB, BA = ("candidate", "baseline"), ("baseline", "candidate")
seeds = st.integers(0, 2**63)


@given(seeds, st.integers(1, 60))
def test_every_block_of_two_counted_pairs_has_both_orders(seed: int, count: int) -> None:
    pairs = draw_pairs(seed, count)
    assert [pair.index for pair in pairs] == list(range(count + 1))
    assert [pair.counts for pair in pairs] == [False] + [True] * count
    counted = [pair.order for pair in pairs if pair.counts]
    for i in range(0, count - 1, 2):
        assert {counted[i], counted[i + 1]} == {AB, BA}
    ahead = 0
    for order in counted:
        ahead += 1 if order == AB else -1
        assert abs(ahead) <= 1, "no arm is ever more than one start ahead"


@given(seeds, st.integers(1, 30), st.integers(1, 30))
def test_the_seed_decides_and_a_longer_plan_begins_alike(seed: int, a: int, b: int) -> None:
    assert draw_pairs(seed, a) == draw_pairs(seed, a)
    short, long = sorted((a, b))
    assert draw_pairs(seed, long)[: short + 1] == draw_pairs(seed, short)


def test_the_order_of_seed_1_stays_what_it_is() -> None:
    # Bundles are judged against the order their seed draws: it must not change between versions.
    draw = random.Random(1)
    first = [draw.random() < 0.5 for _ in range(4)]
    assert first == [True, False, False, True]
    orders = [pair.order for pair in draw_pairs(1, 6)]
    assert orders == [AB, BA, AB, BA, AB, AB, BA]


def test_orders_are_fair_over_seeds() -> None:
    count = 4000
    warm = Counter(draw_pairs(seed, 1)[0].order for seed in range(count))
    first = Counter(draw_pairs(seed, 1)[1].order for seed in range(count))
    both = Counter(tuple(p.order for p in draw_pairs(seed, 1)) for seed in range(count))
    for tally in (warm, first):
        assert abs(tally[AB] - count / 2) < 5 * (count / 4) ** 0.5
    assert all(abs(n - count / 4) < 5 * (count * 3 / 16) ** 0.5 for n in both.values())
    assert len(both) == 4


def test_text_reads_back_and_hashes_alike() -> None:
    plan = make_plan()
    again = read_plan(plan.text(), "plan.json")
    assert again == plan
    assert again.sha256() == plan.sha256()
    assert read_plan(again.text(), "plan.json").text() == plan.text()


RERUN = Rerun(
    bundle="2026-11-20_fake", digest="1" * 64, plan_sha256="2" * 64, ledger_sha256="3" * 64,
    protection="none", protection_says="bwrap is not installed",
)  # fmt: skip


def test_a_plan_that_re_runs_nothing_reads_as_before_there_were_re_runs() -> None:
    plan = make_plan()
    assert "rerun" not in json.loads(plan.text())
    again = plan.model_copy(update={"rerun": RERUN})
    assert json.loads(again.text())["rerun"]["bundle"] == "2026-11-20_fake"
    assert read_plan(again.text(), "plan.json") == again


def test_every_field_moves_the_hash() -> None:
    plan = make_plan()
    changed = {
        "name": "other", "track": "small", "track_sha256": "1" * 64, "target_loss_nats": 3.29,
        "created_utc": "2026-11-21T00:00:00.000Z", "seed": 2, "harness_version": "2",
        "exhibition": ("declared",), "candidate": plan.baseline, "baseline": plan.candidate,
        "design": plan.design.model_copy(update={"loss_p": 0.01}), "pairs": plan.pairs[:-1],
        "exclusions": plan.exclusions[:1],
        "launch": plan.launch.model_copy(update={"timeout_s": 31.0}),
        "rerun": RERUN,
    }  # fmt: skip
    assert set(changed) | {"schema_version"} == set(Plan.model_fields)
    for name, value in changed.items():
        assert plan.model_copy(update={name: value}).sha256() != plan.sha256(), name


def test_a_plan_cannot_be_changed_in_place() -> None:
    plan = make_plan()
    with pytest.raises(ValidationError):
        plan.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: d.pop("seed"), "seed"),
        (lambda d: d.update(seed="1"), "seed"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d.update(schema_version=2), "schema_version"),
        (lambda d: d["design"].update(kind="bayes"), "design.kind"),
        (lambda d: d["design"].update(looks=[5.5]), "design.looks.0"),
        (lambda d: d["pairs"][0].update(order=["candidate"]), "pairs.0.order.1"),
        (lambda d: d["pairs"][0].update(index=-1), "pairs.0.index"),
        (lambda d: d["pairs"][0].update(order=["candidate", "record"]), "pairs.0.order.1"),
        (lambda d: d["launch"].update(processes=0), "launch.processes"),
        (lambda d: d["exclusions"][0].update(id="slow"), "exclusions.0.id"),
        (lambda d: d["candidate"].update(files=[]), "candidate.files"),
    ],
)
def test_a_plan_that_breaks_its_schema_names_the_field(change: object, field: str) -> None:
    data = json.loads(make_plan().text())
    change(data)  # type: ignore[operator]
    with pytest.raises(EvidenceError) as caught:
        read_plan(json.dumps(data), "x/plan.json")
    assert caught.value.where == f"x/plan.json: {field}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        make_plan().text().replace("3.28", "NaN"),
        make_plan().text().replace('"seed": 1', '"seed": 1' + "0" * 6000),
    ],
)
def test_a_file_that_is_no_plan_is_an_evidence_error(text: str) -> None:
    with pytest.raises(EvidenceError):
        read_plan(text, "plan.json")
