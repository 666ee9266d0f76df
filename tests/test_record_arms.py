"""Names of folders and files to arms and roles."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from harness.record_arms import arm_name, assign_roles, name_role, split_by_steps


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("baseline/x.txt", "baseline"),
        ("runs/x.txt", "(top)"),
        ("logs/baseline0-1490.txt", "baseline"),
        ("logs/split_qk0-1480.txt", "(top)"),
        ("comparison_1.txt", "baseline"),
        ("single_gpu_baseline.txt", "baseline"),
        ("this_pr_v3/runs/x.txt", "this_pr_v3"),
        ("a/b/x.txt", "a/b"),
        ("01db7a67-f715-4114-a7b5-6bfe23bac1b1.txt", "(top)"),
    ],
)
def test_arm_of_a_path(path: str, name: str) -> None:
    assert arm_name(PurePosixPath(path)) == name


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("baseline_pr299", "baseline"),
        ("xsa-baseline-s1385", "baseline"),
        ("master-s1480", "baseline"),
        ("prior", "baseline"),
        ("pr233", "candidate"),
        ("this_pr", "candidate"),
        ("record", "candidate"),
        ("ablation", "other"),
        ("prefix-1375-8x", None),
        ("12-31-something-20stps", None),
    ],
)
def test_role_of_a_name(name: str, role: str | None) -> None:
    assert name_role(name) == role


def test_only_the_last_revision_is_the_submission() -> None:
    found, guesses = assign_roles(["baseline", "this_pr_v1", "this_pr_v2", "this_pr_v10"])
    assert found == {
        "baseline": "baseline",
        "this_pr_v1": "other",
        "this_pr_v2": "other",
        "this_pr_v10": "candidate",
    }
    assert len(guesses) == 2


def test_unnamed_arms_are_ablations_beside_a_named_candidate() -> None:
    found, guesses = assign_roles(["baseline", "combined", "max_num_docs"])
    assert found["max_num_docs"] == "other"
    assert found["combined"] == "candidate"
    assert "max_num_docs" in guesses[0]


def test_unnamed_arms_are_candidates_without_one() -> None:
    assert assign_roles(["baseline", "prefix-1375-8x"])[0]["prefix-1375-8x"] == "candidate"
    assert assign_roles(["one", "two"]) == (
        {"one": "candidate", "two": "candidate"},
        ["no name tells which is the candidate: one, two all count"],
    )


def test_split_by_steps() -> None:
    assert split_by_steps([1600, 1575, 1575]) == {1575: "candidate", 1600: "baseline"}
    assert split_by_steps([1600]) is None
    assert split_by_steps([1, 2, 3]) is None
    assert split_by_steps([1, None]) is None
