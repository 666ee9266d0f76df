"""verify: the verdict recomputed, and in what the claimed one differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import __version__
from harness.canonical import dumps
from harness.errors import EvidenceError, UsageError
from harness.verification import SHOWN_DIFFERENCES, verify_bundle
from tests.support.tamper import Copy


@pytest.fixture
def copy(accepted: Path, tmp_path: Path) -> Copy:
    return Copy(accepted, tmp_path)


def test_an_honest_bundle_agrees_with_itself(accepted: Path) -> None:
    result = verify_bundle(accepted)
    assert result.differences == ()
    assert result.notes == ()
    assert result.exit_code == 0


def test_a_copied_and_renamed_bundle_agrees_too(copy: Copy, tmp_path: Path) -> None:
    result = verify_bundle(copy.root.rename(tmp_path / "my copy, renamed"))
    assert (result.differences, result.notes, result.exit_code) == ((), (), 0)


def test_nothing_claimed_is_a_note(copy: Copy) -> None:
    copy.path("verdict.json").unlink()
    result = copy.verify()
    assert result.exit_code == 0
    assert any("nothing was claimed" in note for note in result.notes)


def claim(copy: Copy, **fields: object) -> tuple[str, ...]:
    verdict = json.loads(copy.text("verdict.json"))
    copy.write("verdict.json", dumps({**verdict, **fields}))
    result = copy.verify()
    assert result.exit_code == (3 if result.differences else 0)
    return result.differences


def test_each_difference_is_named_with_both_values(copy: Copy) -> None:
    (found,) = claim(copy, decision="not_proven")
    assert found == 'verdict.json decision: claimed "not_proven", the evidence gives "accepted"'


def test_deep_and_missing_fields_are_named_by_their_path(copy: Copy) -> None:
    verdict = json.loads(copy.text("verdict.json"))
    verdict["runs"][3]["loss_nats"] = 3.0
    verdict["looks"][0]["loss_holds"] = 1  # equal to True in Python, another value in JSON
    del verdict["timing"]["ratio"]
    verdict["extra"] = {"deep": 1}
    copy.write("verdict.json", dumps(verdict))
    text = "\n".join(copy.verify().differences)
    for place in ("runs[3].loss_nats", "looks[0].loss_holds", "timing.ratio", "extra"):
        assert f"verdict.json {place}:" in text


def test_a_shorter_list_is_one_difference(copy: Copy) -> None:
    runs = json.loads(copy.text("verdict.json"))["runs"]
    (found,) = claim(copy, runs=runs[:-1])
    assert found.startswith("verdict.json runs:")
    assert len(found) < 400


def test_many_differences_are_cut(copy: Copy) -> None:
    verdict = json.loads(copy.text("verdict.json"))
    changed = {name: "x" for name in verdict} | {f"more{i}": i for i in range(30)}
    assert len(claim(copy, **changed)) == SHOWN_DIFFERENCES


def older(copy: Copy, **fields: object) -> None:
    """A bundle claimed by a version that had one check less and said another differently."""
    verdict = json.loads(copy.text("verdict.json"))
    checks = [check for check in verdict["checks"] if check["id"] != "buffer"]
    checks[0]["evidence"] = "said in the words of then"
    claimed = {**verdict, "harness_version": "0.0.1", "checks": checks, **fields}
    copy.write("verdict.json", dumps(claimed))


def test_checks_of_another_version_are_said_and_are_no_difference(copy: Copy) -> None:
    older(copy)
    result = copy.verify()
    assert (result.differences, result.exit_code) == ((), 0)
    assert any(
        note.startswith('checks of the two versions differ: buffer: "absent" then,')
        for note in result.notes
    )


def test_another_version_does_not_excuse_other_figures_or_another_decision(copy: Copy) -> None:
    older(copy, decision="not_proven", alpha=0.02)
    places = [line.split(":")[0] for line in copy.verify().differences]
    assert places == ["verdict.json alpha", "verdict.json decision"]


@pytest.mark.parametrize("checks", [None, 7, [1, {"id": 3}], {"a": 1}])
def test_checks_of_another_version_that_are_none(copy: Copy, checks: object) -> None:
    older(copy, checks=checks)
    assert copy.verify().exit_code == 0


def test_another_harness_version_is_said_and_is_no_difference(copy: Copy) -> None:
    assert claim(copy, harness_version="0.0.1") == ()
    notes = copy.verify().notes
    assert any("0.0.1" in note and __version__ in note for note in notes)
    # The version is no licence to change anything else.
    assert claim(copy, harness_version="0.0.1", decision="not_proven")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"accepted"', "[" * 100_000, "NaN", '{"decision": ' + "9" * 6000 + "}"],
)
def test_a_claim_that_is_no_verdict(copy: Copy, text: str) -> None:
    copy.write("verdict.json", text)
    result = copy.verify()
    assert result.differences
    assert result.exit_code == 3


def test_the_same_content_in_another_spelling(copy: Copy) -> None:
    copy.write("verdict.json", json.dumps(json.loads(copy.text("verdict.json"))))
    assert copy.verify().differences == ("verdict.json: same content, not in canonical form",)


def test_a_claim_behind_a_link_is_not_read(copy: Copy, tmp_path: Path) -> None:
    copy.path("verdict.json").rename(tmp_path / "elsewhere.json")
    copy.path("verdict.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(EvidenceError, match="symbolic link"):
        copy.verify()


def test_the_report_is_compared_and_never_believed(copy: Copy) -> None:
    copy.write("README.md", copy.text("README.md") + "\nfaster than light\n")
    result = copy.verify()
    assert result.exit_code == 0
    assert any("README.md is not what the evidence yields" in note for note in result.notes)
    copy.path("README.md").unlink()
    assert any("README.md is missing" in note for note in copy.verify().notes)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        verify_bundle(tmp_path / "none")
    with pytest.raises(EvidenceError, match=r"plan\.json is missing"):
        verify_bundle(tmp_path)
