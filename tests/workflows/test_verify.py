"""verify.yml executed on pull requests of all kinds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.tracks.track import track_sha256
from tests.support.keys import NEEDS_SSH_KEYGEN, allowed_line, make_key, write_signature
from tests.support.tamper import Copy
from tests.workflows.repositories import ANNOTATION_OF_X, TRACE, Project, add_bundle, rejudge
from tests.workflows.runner import (
    git,
)

pytest.importorskip("yaml", reason="PyYAML reads the workflows; it is in the extra `test`")


def test_an_honest_bundle_is_accepted(project: Project, honest: Path) -> None:
    runner, code, log = project.verify(add_bundle(honest))
    assert code == 0, log
    assert "| `2026-11-20_fake` | 0 | accepted:" in runner.summary
    assert "ACCEPTED" in runner.summary
    assert runner.summary in log


def test_a_doctored_bundle_is_refused_and_the_file_named(
    project: Project, honest: Path, tmp_path: Path
) -> None:
    copy = Copy(honest, tmp_path / "doctored")
    log = sorted(copy.path("runs").glob("candidate-01.log"))[0]
    copy.edit(f"runs/{log.name}", "val_loss:3.2", "val_loss:3.1")
    runner, code, _ = project.verify(add_bundle(copy.root))
    assert code == 3
    assert "| 3 | the claimed verdict does not follow from the evidence" in runner.summary
    assert "candidate-01.log" in runner.summary


@NEEDS_SSH_KEYGEN
def test_signers_are_the_base_branchs_and_a_false_signature_is_refused(
    project: Project, honest: Path, tmp_path: Path
) -> None:
    """A pull request that brings its own allowed signers is not vouched for by them."""
    key, other = make_key(tmp_path, "key"), make_key(tmp_path, "other")
    (project.origin / "results").mkdir(exist_ok=True)
    signers = project.origin / "results" / "allowed_signers"
    signers.write_text(allowed_line("maintainer@example.org", key))
    git(project.origin, "checkout", "--quiet", "main")
    git(project.origin, "add", "--all", "--force")
    git(project.origin, "commit", "--quiet", "-m", "signers")
    copy = Copy(honest, tmp_path / "signed")
    write_signature(copy, key, "maintainer@example.org")
    runner, code, _ = project.verify(add_bundle(copy.root))
    assert code == 0
    assert "vouched  maintainer@example.org" in runner.summary.replace("\\", "")

    def forge(repo: Path) -> None:
        signers.write_text(allowed_line("maintainer@example.org", other))
        add_bundle(copy.root, "2026-11-21_forged")(repo)

    write_signature(copy, other, "maintainer@example.org")
    project = Project(project.root / "second", project.trace)
    shutil.copytree(signers.parents[1], project.origin)
    git(project.origin, "checkout", "--quiet", "main")
    signers = project.origin / "results" / "allowed_signers"
    runner, code, _ = project.verify(forge)
    assert code == 3
    assert "a signature in it is false" in runner.summary
    assert "results/allowed_signers" in runner.summary.replace("\\", ""), "for a person to read"


def test_a_bundle_under_rules_of_its_own_is_refused(
    project: Project, honest: Path, tmp_path: Path
) -> None:
    """Its verdict follows from its evidence; its rule set is not the project's."""
    copy = Copy(honest, tmp_path / "rules")
    copy.edit("track.toml", "buffer_nats = 0.001", "buffer_nats = 0.0")
    rules = track_sha256(copy.text("track.toml"))
    copy.replan(lambda plan: plan.update(track_sha256=rules))
    rejudge(project.origin, copy.root)
    runner, code, _ = project.verify(add_bundle(copy.root))
    assert code == 3
    assert "not this project's rule set of track fake" in runner.summary.replace("\\", "")


def test_a_candidate_that_would_leave_a_trace_is_never_executed(
    project: Project, honest: Path
) -> None:
    """Code in every place that something might import, run, build or source."""
    trace = TRACE.format(path=str(project.trace))
    shell = f"touch {project.trace}\n"

    def change(repo: Path) -> None:
        bundle = repo / "results" / "2026-11-20_fake"
        shutil.copytree(honest, bundle)
        script = bundle / "source" / "candidate" / "fake.py"
        script.write_text(f"import helper\n{trace}{script.read_text()}")
        (script.parent / "helper.py").write_text(trace)
        for name in ("harness/__init__.py", "harness/cli/main.py", "harness/plan.py"):
            path = repo / name
            path.write_text(trace + path.read_text())
        for folder in (repo, repo / "results", bundle, bundle / "runs"):
            for name in ("sitecustomize.py", "usercustomize.py", "conftest.py", "json.py"):
                (folder / name).write_text(trace)
        (bundle / "harness").mkdir()
        (bundle / "harness" / "__init__.py").write_text(trace)
        (repo / "setup.py").write_text(trace)
        (repo / ".github" / "scripts" / "verify_pull_request.py").write_text(trace)
        (repo / ".ci" / "run").write_text(shell)
        (repo / "candidates" / "new.py").write_text(trace)
        (repo / "results" / ".gitattributes").write_text("* filter=x diff=x\n")

    runner, code, log = project.verify(change)
    assert code == 3, log
    # Read, hashed and compared, therefore seen; only not executed.
    assert "source/candidate/fake.py: not the source that the plan names" in runner.summary
    assert not project.trace.exists()
    assert not (runner.workspace / "pr" / "harness").exists()
    # The trap works: what the pull request carries would have left its trace.
    done = subprocess.run(
        [sys.executable, "-c", "import runpy; runpy.run_path('results/json.py')"],
        cwd=runner.workspace / "pr", check=False, capture_output=True,
    )  # fmt: skip
    assert project.trace.exists(), done.stderr


def test_findings_of_check_become_annotations(
    project: Project, honest: Path, tmp_path: Path
) -> None:
    copy = Copy(honest, tmp_path / "flags")
    flag = '    import torch\n    torch.compile(val, mode="max-autotune")\n'
    copy.edit("source/candidate/fake.py", "def main():\n", f"def main():\n{flag}")
    runner, code, log = project.verify(add_bundle(copy.root))
    assert code == 3
    errors = [line for line in log.splitlines() if line.startswith("::error file=")]
    assert errors
    assert "file=results/2026-11-20_fake/source/candidate/fake.py,line=" in errors[0]
    assert "max-autotune" in "".join(errors)
    assert "speedrun check finds a rule broken" in runner.summary


def test_hostile_names_and_text_reach_neither_the_runner_nor_the_page(
    project: Project, honest: Path
) -> None:
    name = "x`|<b>::error::y\n::set-env name=A::b"

    def change(repo: Path) -> None:
        shutil.copytree(honest, repo / "results" / name)
        (repo / "results" / name / "verdict.json").write_text('"::error::\\u001b[2J```\\n# no"')

    runner, code, log = project.verify(change)
    assert code == 3
    stop = re.search(r"^::stop-commands::([0-9a-f]{32})$", log, re.MULTILINE)
    assert stop is not None
    outside = log[: stop.start()] + log.split(f"\n::{stop[1]}::\n")[1]
    for line in outside.splitlines():
        # An annotation of `check`, and nothing that the name would have made of it.
        assert re.fullmatch(ANNOTATION_OF_X, line), line
    assert "\x1b" not in log
    table = [line for line in runner.summary.splitlines() if line.startswith("| `")]
    # One row, its name in a code span whose fence is longer than the name's own backtick.
    assert len(table) == 1
    assert table[0].startswith("| ``x`\\|<b>::error::y ::set-env name=A::b`` | 3 |")
    assert "does not follow from the evidence" in table[0]


def test_removed_bundles_and_other_files_are_named(project: Project, honest: Path) -> None:
    shutil.copytree(honest, project.origin / "results" / "old")
    git(project.origin, "add", "--all", "--force")
    git(project.origin, "commit", "--quiet", "-m", "an old bundle")

    def change(repo: Path) -> None:
        shutil.rmtree(repo / "results" / "old")
        (repo / "results" / "history" / "fake.csv").write_text("record\n1\n")
        (repo / "results" / "notes.txt").write_text("hello\n")

    runner, code, _ = project.verify(change)
    assert code == 3
    assert "results are kept" in runner.summary
    for path in ("results/history/fake.csv", "results/notes.txt"):
        assert f"- `{path}`" in runner.summary


def test_links_and_scripts_outside_the_bundle_are_not_followed(
    project: Project, honest: Path
) -> None:
    def change(repo: Path) -> None:
        (repo / "results" / "link").symlink_to("/etc")
        shutil.copytree(honest, repo / "results" / "b")
        plan = repo / "results" / "b" / "plan.json"
        plan.write_text(
            plan.read_text().replace('"script": "fake.py"', '"script": "../../../x.py"')
        )

    runner, code, _ = project.verify(change)
    assert code == 3
    assert "root:" not in runner.summary


def test_a_pull_request_without_bundles_passes(project: Project) -> None:
    def change(repo: Path) -> None:
        (repo / "results" / "history" / "fake.csv").write_text("record\n1\n")

    runner, code, _ = project.verify(change)
    assert code == 0
    assert "No bundle is added or changed." in runner.summary
