"""What a promotion changes: siblings, other tracks' files, the official time."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.board.entry import files_sha256
from harness.errors import UsageError
from harness.publication.promotion import official_seconds, promoted_files
from harness.publication.proof import prove
from harness.source import Source, read_source
from harness.tracks.track import Track, parse_track
from tests.support.contest import TRACK


def rules(**changes: str) -> Track:
    text = TRACK
    for before, after in changes.items():
        text = text.replace(before, after)
    return parse_track(text, "test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A standing record with a sibling, and another track's with one of its own."""
    for folder in ("harness/tracks", "baseline", "candidates"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "harness/tracks/fake.toml").write_text(TRACK)
    other = TRACK.replace('"fake"', '"other"').replace("baseline/fake.py", "baseline/other.py")
    (tmp_path / "harness/tracks/other.toml").write_text(other)
    texts = {
        "fake.py": "import kernels\nimport shared\n",
        "kernels.py": "OLD = 1\n",
        "shared.py": "BOTH = 1\n",
        "other.py": "import shared\n",
    }
    for name, text in texts.items():
        (tmp_path / "baseline" / name).write_text(text)
    return tmp_path


def change(
    root: Path, files: dict[str, str], script: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    standing = read_source(root / "baseline/fake.py")
    assert set(standing.files) == {"fake.py", "kernels.py", "shared.py"}
    return promoted_files(Source(script, files), standing, rules(), root)


def test_siblings_travel_and_those_nobody_needs_go(root: Path) -> None:
    files = {"mine.py": "import fast\n", "fast.py": "NEW = 1\n"}
    assert change(root, files, "mine.py") == (
        {"baseline/fake.py": "import fast\n", "baseline/fast.py": "NEW = 1\n"},
        ("baseline/kernels.py",),
    )


def test_a_sibling_in_a_package(root: Path) -> None:
    files = {"mine.py": "import pack.fast\n", "pack/__init__.py": "", "pack/fast.py": "NEW = 1\n"}
    written, removed = change(root, files, "mine.py")
    assert set(written) == {
        "baseline/fake.py", "baseline/pack/__init__.py", "baseline/pack/fast.py",
    }  # fmt: skip
    assert removed == ("baseline/kernels.py",)


def test_a_sibling_of_the_old_record_may_change(root: Path) -> None:
    files = {"mine.py": "import kernels\n", "kernels.py": "NEW = 1\n"}
    written, removed = change(root, files, "mine.py")
    assert written["baseline/kernels.py"] == "NEW = 1\n"
    assert removed == ()


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"mine.py": "import shared\n", "shared.py": "ELSE = 1\n"}, "baseline/shared.py"),
        ({"mine.py": "import other\n", "other.py": "MINE = 1\n"}, "baseline/other.py"),
        ({"mine.py": "import fake\n", "fake.py": "X = 1\n"}, "baseline/fake.py"),
    ],
)
def test_no_file_takes_anothers_place(root: Path, files: dict[str, str], where: str) -> None:
    with pytest.raises(UsageError, match="another's place") as caught:
        change(root, files, "mine.py")
    assert caught.value.where == where


def test_a_shared_sibling_that_is_the_same_is_no_clash(root: Path) -> None:
    written, removed = change(
        root, {"fake.py": "import shared\n", "shared.py": "BOTH = 1\n"}, "fake.py"
    )
    assert written["baseline/shared.py"] == "BOTH = 1\n"
    assert removed == ("baseline/kernels.py",)


def test_a_sibling_that_imports_the_script_by_its_name(root: Path) -> None:
    files = {"mine.py": "import helper\n", "helper.py": "def f():\n    from mine import g\n"}
    with pytest.raises(UsageError, match="imports the script by its name") as caught:
        change(root, files, "mine.py")
    assert caught.value.where == "helper.py"
    change(root, {"fake.py": "import helper\n", "helper.py": "import fake\n"}, "fake.py")


def proof(ratio: float | None, mean_ms: float | None) -> Any:
    verdict = SimpleNamespace(
        timing=SimpleNamespace(ratio=ratio),
        candidate=SimpleNamespace(time_mean_ms=mean_ms, n=5),
    )
    return SimpleNamespace(verdict=verdict, root=Path("results/x"))


def test_the_tracks_own_record_time_comes_first(tmp_path: Path) -> None:
    stated = rules(**{"[data]": "record_seconds = 80.0\n\n[data]"})
    table = "record,minutes,date,note,contributors\n1,9,2026-01-01,x,y\n"
    seconds, derived = official_seconds(proof(0.95, 50_000.0), stated, tmp_path, table, "")
    assert seconds == 76.0
    assert derived == "the track's 80.000 s × 0.95000"


def test_the_table_carries_the_chain_on(accepted: Path, tmp_path: Path) -> None:
    shutil.copytree(accepted, tmp_path / "results/first")
    arm = prove(accepted).bundle
    beaten = files_sha256(Source(arm.plan.candidate.script, arm.sources["candidate"]))
    table = "record,minutes,date,note,contributors\n1,2,2026-01-01,first results/first,y\n"
    seconds, derived = official_seconds(proof(0.95, 50_000.0), rules(), tmp_path, table, beaten)
    assert seconds == pytest.approx(114.0)
    assert derived == "record 1's 120.000 s × 0.95000"
    # Another baseline than the table's last record: its time says nothing of this one.
    seconds, derived = official_seconds(proof(0.95, 50_000.0), rules(), tmp_path, table, "else")
    assert (seconds, derived) == (50.0, "measured: mean of 5 runs")


def test_without_a_time_there_is_no_row(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no time"):
        official_seconds(proof(None, None), rules(), tmp_path, None, "")
