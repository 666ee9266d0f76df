"""Judge every bundle that a pull request adds or changes; nothing of it is executed.

    python base/.github/scripts/verify_pull_request.py pr

`pr` is a checkout of the pull request's merge commit, with its first parent. For each bundle under
results/ that differs from that parent: the rule set must be this project's, `speedrun verify` is
run on the evidence and `speedrun check` on the candidate's script, as text. The verdicts go to the
job's summary, findings become annotations. The exit code is 0 if every bundle is accepted, else the
gravest one's: 3 a rule is broken, 5 runs failed, 4 unfit, 2 no bundle, 1 not proven.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.bundle_files import safe_path, safe_text
from harness.errors import EXIT_RULE_BROKEN, SpeedrunError
from harness.plan import Plan, read_plan
from harness.report.escape import block, code, inline
from harness.tracks.track import load_track, track_names, track_sha256, track_text

BASE = Path(__file__).resolve().parents[2]
# -P: neither the working folder nor anything of the pull request is on Python's path.
SPEEDRUN = (sys.executable, "-P", "-m", "harness.cli.main")
NOT_BUNDLES = ("history", "nightly")
GRAVITY = (3, 5, 4, 2, 1, 0)
TIMEOUT_S = 600
SHOWN = 20_000
ANNOTATION = re.compile(r"::(error|warning|notice) [^\n]*")


@dataclass
class Outcome:
    """What came of one bundle. `text` is for people, `annotations` for the runner."""

    name: str
    exit_code: int
    says: str
    text: str = ""
    annotations: tuple[str, ...] = ()


def changed_paths(pr: Path) -> list[str]:
    """Paths under results/ that the merge changes. Names may hold anything but NUL."""
    command = ["git", "-C", str(pr), "diff", "--name-only", "-z", "--no-renames", "--no-ext-diff"]
    done = subprocess.run(
        [*command, "HEAD^1", "HEAD", "--", "results"], capture_output=True, check=True
    )
    return [os.fsdecode(path) for path in done.stdout.split(b"\0") if path]


def sort_paths(paths: list[str]) -> tuple[list[str], list[str]]:
    """(names of bundles, paths that no bundle holds)."""
    bundles, others = set(), []
    for path in paths:
        parts = path.split("/")
        if len(parts) > 2 and parts[1] not in NOT_BUNDLES:
            bundles.add(parts[1])
        else:
            others.append(path)
    return sorted(bundles), others


def judge(pr: Path, name: str) -> Outcome:
    folder = pr / "results" / name
    if folder.is_symlink() or not folder.is_dir():
        return Outcome(name, EXIT_RULE_BROKEN, "removed, or no folder any more: results are kept")
    verified = speedrun("verify", str(folder), "--json", cwd=BASE)
    says = decision(verified.stdout)
    # Python's own failure is exit code 1 too, which would read as "not proven".
    failed = not says and verified.returncode in (0, 1)
    outcome = Outcome(
        name,
        EXIT_RULE_BROKEN if failed else verified.returncode,
        says or "no verdict",
        verified.stderr,
    )
    try:
        plan = read_plan(safe_text(folder, "plan.json"), "plan.json")
    except SpeedrunError as error:
        outcome.text += f"\nnot checked as a script: {error.what}\n"
        return outcome
    problem = rules_problem(folder, plan)
    if problem:
        outcome.exit_code, outcome.says = EXIT_RULE_BROKEN, problem
        return outcome
    check_script(pr, name, plan, outcome)
    return outcome


def speedrun(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SPEEDRUN, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=TIMEOUT_S,
        check=False,
    )


def decision(stdout: str) -> str:
    """The verdict's own words; empty if there is none."""
    try:
        document = json.loads(stdout)
        verdict = document["verdict"]
        kind = "exhibition, " if verdict["exhibition"] else ""
        words = f"{kind}{verdict['decision'].replace('_', ' ')}: {verdict['headline']}"
        if document["differences"]:
            return f"the claimed verdict does not follow from the evidence, which gives: {words}"
        if any(one["standing"] == "bad" for one in document["vouching"]["signatures"]):
            return f"a signature in it is false; the evidence gives: {words}"
        return words
    except (ValueError, KeyError, TypeError):
        return ""


def rules_problem(folder: Path, plan: Plan) -> str:
    """A bundle is judged under the rules it carries: they must be the project's."""
    if plan.track not in track_names():
        return f"this project has no track {plan.track!r}"
    try:
        own = track_sha256(safe_text(folder, "track.toml"))
    except SpeedrunError as error:
        return error.what
    if own != track_sha256(track_text(plan.track)):
        return f"its track.toml is not this project's rule set of track {plan.track}"
    return ""


def check_script(pr: Path, name: str, plan: Plan, outcome: Outcome) -> None:
    script = f"results/{name}/source/candidate/{plan.candidate.script}"
    try:
        safe_path(pr, script)
    except SpeedrunError as error:
        outcome.exit_code, outcome.says = EXIT_RULE_BROKEN, error.what
        return
    arguments = ["check", script, "--track", plan.track]
    baseline = BASE / load_track(plan.track).baseline
    if baseline.is_file():
        arguments += ["--baseline", str(baseline)]
    # The path is relative to the repository, as annotations want it.
    said = speedrun(*arguments, cwd=pr)
    noted = speedrun(*arguments, "--format", "github", cwd=pr)
    outcome.text += f"\n{said.stderr}"
    outcome.annotations = tuple(
        line for line in noted.stdout.splitlines() if ANNOTATION.fullmatch(line)
    )
    if said.returncode:
        outcome.exit_code = gravest([outcome.exit_code, said.returncode])
        outcome.says += "; speedrun check finds a rule broken"


def gravest(codes: list[int]) -> int:
    known = [exit_code for exit_code in GRAVITY if exit_code in codes]
    return known[0] if known and set(codes) <= set(GRAVITY) else EXIT_RULE_BROKEN


def page(outcomes: list[Outcome], others: list[str]) -> str:
    """The job's summary, Markdown. Everything from the pull request is escaped."""
    lines = ["# speedrun verify", ""]
    if outcomes:
        lines += ["| bundle | exit | verdict |", "|---|---:|---|"]
        lines += [
            f"| {code(outcome.name, table=True)} | {outcome.exit_code} | {inline(outcome.says)} |"
            for outcome in outcomes
        ]
    else:
        lines.append("No bundle is added or changed.")
    if others:
        lines += ["", "Changed and not judged here, to be read by a person:", ""]
        lines += [f"- {code(path)}" for path in others[:50]]
    for outcome in outcomes:
        lines += ["", f"## {inline(outcome.name)}", "", block(outcome.text[:SHOWN])]
    return "\n".join(lines) + "\n"


def main() -> int:
    pr = Path(sys.argv[1]).resolve()
    bundles, others = sort_paths(changed_paths(pr))
    outcomes = [judge(pr, name) for name in bundles]
    text = page(outcomes, others)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as handle:
            handle.write(text)
    for outcome in outcomes:
        for line in outcome.annotations:
            sys.stdout.write(line + "\n")
    # What follows quotes a stranger: the runner is to read no commands in it.
    token = secrets.token_hex(16)
    sys.stdout.write(f"::stop-commands::{token}\n{text}\n::{token}::\n")
    return gravest([outcome.exit_code for outcome in outcomes]) if outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
