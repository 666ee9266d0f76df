"""pr: a branch beside the user's work, a text for GitHub, and no network unless asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from git import Repo

from harness.cli.main import main
from harness.errors import EvidenceError, SpeedrunError, UnfitError, UsageError
from harness.publication.proof import NotAcceptedError, prove
from harness.publication.pull_request import make_branch, push_and_open
from tests.support import bundles
from tests.support.bundles import snapshot


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert not caught.value.code, err
    return out, err


def without_branch(state: dict[str, object], name: str) -> dict[str, object]:
    refs = [line for line in str(state["refs"]).splitlines() if name not in line]
    return {**state, "refs": "\n".join(refs)}


def test_a_branch_a_commit_and_a_text(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = place.parents[1]
    # The user is in the middle of something else, on another branch.
    repo = Repo(root)
    repo.git.checkout("-q", "-b", "feature")
    (root / "candidates/README.md").write_text("being edited\n", encoding="utf-8")
    (root / "staged.txt").write_text("staged\n", encoding="utf-8")
    repo.git.add("staged.txt")
    before = snapshot(root)
    out, err = run(capsys, "pr", place)
    name = f"record/{place.name}"
    assert without_branch(snapshot(root), name) == before
    branch = repo.heads[name]
    assert branch.commit.parents == (repo.heads["main"].commit,)
    made = set(repo.git.diff("--name-only", "main", name).splitlines())
    bundle_files = {
        path.relative_to(root).as_posix() for path in place.rglob("*") if path.is_file()
    }
    assert made == bundle_files | {"candidates/fake.py"}
    for path in made:
        expected = root / path
        if path == "candidates/fake.py":
            expected = place / "source/candidate/fake.py"
        assert (branch.commit.tree / path).data_stream.read() == expected.read_bytes()
        assert (branch.commit.tree / path).mode == 0o100644
    title, blank, *text = out.splitlines()
    assert branch.commit.message.startswith(f"{title}\n\nBundle: ")
    assert title.startswith("New record ")
    assert blank == ""
    assert not any(line.startswith("![") for line in text)
    assert not text[0].startswith("# ")
    assert f"results/{place.name}/" in text[-1]
    assert "git push -u origin" in err


def test_a_second_time_is_the_same_branch(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = place.parents[1]
    first = json.loads(run(capsys, "pr", place, "--json")[0])
    state = snapshot(root)
    second = json.loads(run(capsys, "pr", place, "--json")[0])
    assert (first["commit"], first["text"]) == (second["commit"], second["text"])
    assert snapshot(root) == state


def test_a_branch_with_other_content_is_left_alone(place: Path) -> None:
    root = place.parents[1]
    Repo(root).git.branch(f"record/{place.name}")
    before = snapshot(root)
    with pytest.raises(UsageError, match="other content"):
        make_branch(Repo(root), prove(place))
    assert snapshot(root) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"branch": "main"}, "checked out"),
        ({"branch": "a..b"}, "cannot name a branch"),
        ({"branch": "-x"}, "cannot name a branch"),
        ({"base": "nowhere"}, "no commit named"),
    ],
)
def test_names_that_do_not_do(place: Path, options: dict[str, str], says: str) -> None:
    before = snapshot(place.parents[1])
    with pytest.raises(UsageError, match=says):
        make_branch(Repo(place.parents[1]), prove(place), **options)
    assert snapshot(place.parents[1]) == before


def test_what_is_merged_already_needs_no_request(place: Path) -> None:
    root = place.parents[1]
    repo = Repo(root)
    made = make_branch(repo, prove(place))
    repo.git.clean("-fdq", "results")
    repo.git.merge("-q", "--ff-only", made.branch)
    with pytest.raises(UsageError, match="nothing to open"):
        make_branch(repo, prove(place), "again")


def test_a_failing_hook_leaves_no_branch(place: Path) -> None:
    root = place.parents[1]
    path = root / ".git/hooks/commit-msg"
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\necho 'no ticket number' >&2; exit 1\n", encoding="utf-8")
    path.chmod(0o755)
    before = snapshot(root)
    with pytest.raises(UnfitError) as caught:
        make_branch(Repo(root), prove(place))
    assert "no ticket number" in caught.value.why
    assert snapshot(root) == before


def test_only_an_accepted_verdict_makes_a_request(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = bundles.edited_verdict(place, place.parent, "2026-11-20_better")
    broken = bundles.rule_broken(place, place.parent, "2026-11-20_edited")
    with pytest.raises(EvidenceError, match="does not follow"):
        prove(edited)
    with pytest.raises(NotAcceptedError, match="rule broken") as caught:
        prove(broken)
    assert caught.value.exit_code == 3
    for error in (UsageError, SpeedrunError):
        with pytest.raises(error, match="no bundle"):
            prove(place.parent)


def test_an_exhibition_is_shown_as_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show = bundles.exhibition(place, place.parent, "2026-11-20_show")
    out, err = run(capsys, "pr", show)
    assert out.startswith("Exhibition ")
    assert "never be a record" in err


def test_a_taken_name_gets_a_folder_of_its_own(place: Path) -> None:
    from harness.publication.pull_request import script_files

    root = place.parents[1]
    proof = prove(place)
    text = (place / "source/candidate/fake.py").read_bytes()
    base = Repo(root).head.commit
    assert script_files(proof, base) == {"candidates/fake.py": text}
    # From somewhere else, and candidates/fake.py is another script.
    (root / "candidates/fake.py").write_text("OTHER = 1\n", encoding="utf-8")
    Repo(root).git.add("candidates")
    Repo(root).git.commit("-q", "-m", "another fake.py")
    base = Repo(root).head.commit
    plan = proof.bundle.plan
    moved = plan.model_copy(
        update={"candidate": plan.candidate.model_copy(update={"origin": "fake.py"})}
    )
    elsewhere = type(proof)(
        proof.root, type(proof.bundle)(**{**fields(proof.bundle), "plan": moved}),
        proof.verdict, proof.notes, proof.files,
    )  # fmt: skip
    assert script_files(elsewhere, base) == {"candidates/fake/fake.py": text}
    assert script_files(proof, base) == {"candidates/fake.py": text}


def fields(bundle: object) -> dict[str, object]:
    import dataclasses

    return {f.name: getattr(bundle, f.name) for f in dataclasses.fields(bundle)}  # type: ignore[arg-type]


GH = """#!/bin/sh
printf '%s\\n' "$@" > "{seen}"
cat > "{seen}.body"
echo https://example.org/pull/1
"""


@pytest.fixture
def fake_gh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `gh` that writes down what it is asked."""
    seen = tmp_path / "gh-seen"
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(GH.format(seen=seen), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return seen


def test_nothing_leaves_the_machine_by_default(
    place: Path, fake_gh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Repo.init(tmp_path / "far.git", bare=True)
    Repo(place.parents[1]).create_remote("origin", str(tmp_path / "far.git"))
    run(capsys, "pr", place)
    assert not fake_gh.exists()
    assert Repo(tmp_path / "far.git").heads == []


def test_push_pushes_the_branch_and_asks_gh(
    place: Path, fake_gh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = Repo.init(tmp_path / "far.git", bare=True)
    Repo(place.parents[1]).create_remote("origin", str(tmp_path / "far.git"))
    told = json.loads(run(capsys, "pr", place, "--push", "--json")[0])
    assert told["address"] == "https://example.org/pull/1"
    assert [head.name for head in far.heads] == [told["branch"]]
    asked = fake_gh.read_text(encoding="utf-8").splitlines()
    assert asked[:4] == ["pr", "create", "--head", told["branch"]]
    assert asked[asked.index("--title") + 1] == told["title"]
    assert Path(f"{fake_gh}.body").read_text(encoding="utf-8") == told["text"]


def test_push_without_a_remote_keeps_the_branch(place: Path) -> None:
    repo = Repo(place.parents[1])
    request = make_branch(repo, prove(place))
    with pytest.raises(UsageError, match="no remote named"):
        push_and_open(repo, request, "origin")
    repo.create_remote("origin", str(place / "nowhere"))
    with pytest.raises(UnfitError, match="git refused to push"):
        push_and_open(repo, request, "origin")
    assert request.branch in [head.name for head in repo.heads]
