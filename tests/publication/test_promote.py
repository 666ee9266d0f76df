"""promote: what it does when all is well, and everything it refuses; nothing is left half-way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from git import Repo

from harness.board.collect import collect
from harness.cli.main import main
from harness.errors import EvidenceError, SpeedrunError, UnfitError, UsageError
from harness.history import read_table
from harness.publication.promote import promote
from harness.publication.proof import NotAcceptedError
from tests.support import bundles
from tests.support.bundles import snapshot


def hook(root: Path, name: str, text: str) -> None:
    path = root / ".git" / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def committed(root: Path, path: str) -> str:
    return str(Repo(root).git.show(f"HEAD:{path}"))


def test_the_candidate_becomes_the_standing_record(place: Path) -> None:
    root = place.parents[1]
    before = Repo(root).head.commit
    done = promote(place, by="@me, @you", note="twice the speed")
    repo = Repo(root)
    candidate = (place / "source/candidate/fake.py").read_text(encoding="utf-8")
    assert (root / "baseline/fake.py").read_text(encoding="utf-8") == candidate
    assert repo.head.commit.parents == (before,)
    assert repo.head.commit.hexsha == done.commit
    assert not repo.is_dirty()
    assert repo.git.status("--porcelain", "--untracked-files=all") == ""
    first, last = read_table(root / "results/history/fake.csv")
    assert (first.record, first.note) == (1, "the first baseline")
    assert last.note == f"twice the speed results/{place.name}"
    assert last.contributors == "@me, @you"
    assert last.minutes * 60 == pytest.approx(done.promotion.seconds, abs=1e-4)
    measured = json.loads((place / "verdict.json").read_text())["candidate"]["time_mean_ms"]
    assert done.promotion.seconds == pytest.approx(measured / 1000)
    # *.log is ignored in this repository; evidence goes in all the same.
    assert committed(root, f"results/{place.name}/runs/candidate-01.log")


def test_the_board_then_shows_the_bundle_as_the_proof(place: Path) -> None:
    root = place.parents[1]
    promote(place)
    (track,) = [t for t in collect(root / "results", root).tracks if t.name == "fake"]
    (standing,) = track.standing
    assert standing.entry is not None
    assert standing.entry.folder == place.name
    assert standing.row is not None
    assert standing.row.contributors == "A Maintainer"


def test_a_dry_run_says_it_and_changes_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(place.parents[1])
    with pytest.raises(SystemExit) as caught:
        main(["promote", str(place), "--dry-run", "--json"])
    assert not caught.value.code
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["written"] == ["baseline/fake.py", "results/history/fake.csv"]
    assert told["commit"] is None
    assert "would be committed on main" in err
    assert snapshot(place.parents[1]) == before


def test_other_work_of_the_user_stays(place: Path) -> None:
    root = place.parents[1]
    (root / "candidates/README.md").write_text("being edited\n", encoding="utf-8")
    (root / "staged.txt").write_text("staged\n", encoding="utf-8")
    (root / "new.txt").write_text("untracked\n", encoding="utf-8")
    Repo(root).git.add("staged.txt")
    promote(place)
    status = Repo(root).git.status("--porcelain").splitlines()
    assert sorted(status) == [" M candidates/README.md", "?? new.txt", "A  staged.txt"]


def test_a_bundle_that_is_committed_already_is_not_committed_again(place: Path) -> None:
    root = place.parents[1]
    repo = Repo(root)
    repo.git.add("-f", "results")
    repo.git.commit("-q", "-m", "the bundle", "--author", "The Author <author@example.org>")
    done = promote(place)
    assert done.adopted == ()
    changed = repo.git.diff("--name-only", "HEAD~1").splitlines()
    assert changed == ["baseline/fake.py", "results/history/fake.csv"]
    assert read_table(root / "results/history/fake.csv")[-1].contributors == "The Author"


def test_the_record_fields_of_the_rules_follow(place: Path) -> None:
    root = place.parents[1]
    toml = root / "harness/tracks/fake.toml"
    stated = 'record_seconds = 100.0  # official\nrecord_name = "old"\n'
    toml.write_text(toml.read_text().replace("[data]", f"{stated}\n[data]"), encoding="utf-8")
    Repo(root).git.commit("-q", "-a", "-m", "record fields")
    done = promote(place)
    ratio = json.loads((place / "verdict.json").read_text())["timing"]["ratio"]
    assert done.promotion.seconds == pytest.approx(100.0 * ratio)
    assert f"record_seconds = {100 * ratio:.3f}  # official" in toml.read_text()
    assert 'record_name = "fake"' in toml.read_text()


def stage_exhibition(place: Path) -> Path:
    return bundles.exhibition(place, place.parent, "2026-11-20_show")


def stage_other_rules(place: Path) -> Path:
    return bundles.other_rules(place, place.parent, "2026-11-20_easier")


def stage_extra_source(place: Path) -> Path:
    return bundles.with_extra_source(place, place.parent, "2026-11-20_extra")


def stage_rule_broken(place: Path) -> Path:
    return bundles.rule_broken(place, place.parent, "2026-11-20_edited-log")


def stage_edited_verdict(place: Path) -> Path:
    return bundles.edited_verdict(place, place.parent, "2026-11-20_better")


def stage_no_verdict(place: Path) -> Path:
    (place / "verdict.json").unlink()
    return place


def stage_running(place: Path) -> Path:
    (place / ".lock").write_text("", encoding="utf-8")
    return place


def stage_faster(place: Path) -> Path:
    root = place.parents[1]
    (root / "baseline/fake.py").write_text("RATE = 3\n", encoding="utf-8")
    Repo(root).git.commit("-q", "-a", "-m", "somebody was faster")
    return place


def stage_identical(place: Path) -> Path:
    root = place.parents[1]
    text = (place / "source/candidate/fake.py").read_text(encoding="utf-8")
    (root / "baseline/fake.py").write_text(f"# a comment more\n{text}", encoding="utf-8")
    Repo(root).git.commit("-q", "-a", "-m", "the same code")
    return place


def stage_dirty(place: Path) -> Path:
    with (place.parents[1] / "baseline/fake.py").open("a", encoding="utf-8") as file:
        file.write("# mine\n")
    return place


def stage_dirty_staged(place: Path) -> Path:
    # Staged and undone again in the file: `git diff` is silent, the index is not.
    script = place.parents[1] / "baseline/fake.py"
    text = script.read_text(encoding="utf-8")
    script.write_text(f"{text}# mine\n", encoding="utf-8")
    Repo(place.parents[1]).git.add("baseline/fake.py")
    script.write_text(text, encoding="utf-8")
    return place


def stage_table_in_the_way(place: Path) -> Path:
    root = place.parents[1]
    (root / "results/history").mkdir()
    table = root / "results/history/fake.csv"
    head = "record,minutes,date,note,contributors\n"
    table.write_text(f"{head}1,9,2026-01-01,x,y\n", encoding="utf-8")
    (root / ".git/info/exclude").write_text("results/history/\n", encoding="utf-8")
    return place


def stage_detached(place: Path) -> Path:
    Repo(place.parents[1]).git.checkout("-q", "--detach")
    return place


def stage_merging(place: Path) -> Path:
    (place.parents[1] / ".git/MERGE_HEAD").write_text("0" * 40 + "\n", encoding="utf-8")
    return place


def stage_elsewhere(place: Path) -> Path:
    target = place.parents[1] / "elsewhere" / place.name
    target.parent.mkdir()
    return place.rename(target)


def stage_no_table_name(place: Path) -> Path:
    return place.rename(place.with_name("two words"))


def stage_link(place: Path) -> Path:
    (place / "extra").symlink_to("/etc/passwd")
    return place


def stage_slower(place: Path) -> Path:
    root = place.parents[1]
    (root / "results/history").mkdir()
    table = root / "results/history/fake.csv"
    head = "record,minutes,date,note,contributors\n"
    table.write_text(f"{head}1,0.0001,2026-01-01,x,y\n", encoding="utf-8")
    Repo(root).git.add("results/history")
    Repo(root).git.commit("-q", "-m", "a faster table")
    return place


def stage_changed_bundle(place: Path) -> Path:
    root = place.parents[1]
    Repo(root).git.add("-f", "results")
    Repo(root).git.commit("-q", "-m", "the bundle")
    with (place / "README.md").open("a", encoding="utf-8") as file:
        file.write("more\n")
    return place


@pytest.mark.parametrize(
    ("stage", "error", "says"),
    [
        (stage_exhibition, EvidenceError, "exhibition can never be a record"),
        (stage_other_rules, EvidenceError, "other rules than the ones in force"),
        (stage_extra_source, EvidenceError, "its script and what it imports"),
        (stage_rule_broken, NotAcceptedError, "'rule broken', not accepted"),
        (stage_edited_verdict, EvidenceError, "does not follow from the evidence"),
        (stage_no_verdict, UsageError, "claims no verdict"),
        (stage_running, UsageError, "a series is writing"),
        (stage_faster, NotAcceptedError, "another record stands"),
        (stage_identical, UsageError, "the standing record already"),
        (stage_dirty, UsageError, "changes of your own"),
        (stage_dirty_staged, UsageError, "changes of your own"),
        (stage_table_in_the_way, UsageError, "there, and not committed"),
        (stage_detached, UsageError, "detached"),
        (stage_merging, UsageError, "middle of a merge"),
        (stage_elsewhere, UsageError, "does not lie under results/"),
        (stage_no_table_name, UsageError, "no table can hold"),
        (stage_link, EvidenceError, "no regular file"),
        (stage_slower, UsageError, "would not be faster"),
        (stage_changed_bundle, UsageError, "changes of your own"),
    ],
    ids=lambda value: value.__name__.removeprefix("stage_") if callable(value) else None,
)
def test_refused_with_everything_as_it_was(
    place: Path, stage: object, error: type[SpeedrunError], says: str
) -> None:
    root = place.parents[1]
    staged: Path = stage(place)  # type: ignore[operator]
    before = snapshot(root)
    with pytest.raises(error, match=says) as caught:
        promote(staged)
    assert snapshot(root) == before
    assert 1 <= caught.value.exit_code <= 3


def test_a_record_that_changed_tells_how_to_run_again(place: Path) -> None:
    stage_faster(place)
    with pytest.raises(NotAcceptedError) as caught:
        promote(place)
    assert caught.value.exit_code == 1
    assert "speedrun submit" in caught.value.fix
    assert "source/candidate/fake.py" in caught.value.fix


def test_not_a_repository_and_not_of_contests(
    accepted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    alone = tmp_path / "results" / "x"
    bundles.shutil.copytree(accepted, alone)
    with pytest.raises(UsageError, match="not in a git repository"):
        promote(alone)
    repo = Repo.init(tmp_path)
    with pytest.raises(UsageError, match="no commit yet"):
        promote(alone)
    with repo.config_writer() as config:
        config.set_value("user", "name", "x")
        config.set_value("user", "email", "x@example.org")
    repo.git.commit("-q", "--allow-empty", "-m", "x")
    with pytest.raises(UsageError, match="no speedrun repository"):
        promote(alone)


def test_inside_a_git_hook_it_does_not_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_INDEX_FILE", str(place / "index"))
    with pytest.raises(UsageError, match="inside another git command"):
        promote(place)


def test_a_failing_hook_and_one_that_rewrites(place: Path) -> None:
    root = place.parents[1]
    before = snapshot(root)
    hook(root, "pre-commit", "echo 'the linter says no' >&2; exit 1")
    with pytest.raises(UnfitError) as caught:
        promote(place)
    assert "the linter says no" in caught.value.why
    assert "as they were" in caught.value.what
    assert snapshot(root) == before
    hook(root, "pre-commit", "echo '# tidied' >> baseline/fake.py; git add baseline/fake.py")
    with pytest.raises(UnfitError, match="hook changed the files") as caught:
        promote(place)
    assert "baseline/fake.py" in caught.value.why
    assert snapshot(root) == before
    hook(root, "pre-commit", "exit 0")
    promote(place)
    assert snapshot(root)["status"] == ""


def test_no_name_for_the_commit(place: Path) -> None:
    root = place.parents[1]
    with Repo(root).config_writer() as config:
        config.remove_section("user")
        config.set_value("user", "useConfigOnly", "true")
    before = snapshot(root)
    with pytest.raises(UnfitError, match="git refused to commit"):
        promote(place)
    assert snapshot(root) == before
