"""The pull request of an accepted bundle: its title, text, files, and the branch that carries them.

The branch is made beside the user's work (`scratch.py`): current branch, index and files stay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.publication.proof import Proof
from harness.publication.repository import git_errors, require_contest, root_of
from harness.publication.scratch import AS_IT_WAS, commit_beside
from harness.publish import bundle_digest
from harness.report import render_markdown
from harness.report import story as told
from harness.report.escape import one_line
from harness.request import clean_name

if TYPE_CHECKING:
    from git import Commit, Repo

TEXT_LIMIT = 65_000
"""GitHub takes 65,536 characters."""


@dataclass(frozen=True, slots=True)
class PullRequest:
    """Title and Markdown text; the branch's name, the commit it stands on, and its commit."""

    title: str
    text: str
    branch: str
    base: str
    commit: str
    files: tuple[str, ...]


def make_branch(
    repo: Repo, proof: Proof, branch: str | None = None, base: str | None = None
) -> PullRequest:
    """Commit bundle and script on a new branch on top of `base`. Raises SpeedrunError.

    base    default: the default branch of origin, else main or master, else what is checked out
    """
    require_contest(repo)
    folder = f"results/{bundle_folder(proof)}"
    name = branch or f"record/{bundle_folder(proof)}"
    on = base_commit(repo, base)
    files = {f"{folder}/{path}": (proof.root / path).read_bytes() for path in proof.files}
    files |= script_files(proof, on)
    title = pull_request_title(proof)
    digest = bundle_digest(proof.verdict)
    message = f"{title}\n\nBundle: {folder}\nDigest: {digest}\n"
    _require_branch_name(repo, name)
    commit = commit_beside(repo, on, files, (), message)
    if commit == on.hexsha:
        raise UsageError(
            "there is nothing to open a pull request for",
            where=folder,
            why=f"bundle and script are in {base or 'the base branch'} as they are",
        )
    _point(repo, name, commit)
    return PullRequest(
        title=title,
        text=pull_request_text(proof, folder),
        branch=name,
        base=on.hexsha,
        commit=str(repo.commit(name).hexsha),
        files=tuple(sorted(files)),
    )


def bundle_folder(proof: Proof) -> str:
    """The folder's name as it goes into the repository: letters, digits, dots, dashes."""
    return clean_name(proof.root.resolve().name)


def pull_request_title(proof: Proof) -> str:
    """The report's own title, on one line."""
    story = told.tell(proof.verdict)
    return one_line(story.title)[:200]


def pull_request_text(proof: Proof, folder: str) -> str:
    """README.md as rendered from the recomputed verdict; without its title, which stands above,
    and without plots, whose relative links lead nowhere in a pull request."""
    report = render_markdown(proof.verdict, PurePosixPath(folder).name)
    lines = report.splitlines()[1:]
    body = "\n".join(line for line in lines if not line.startswith("![")).strip()
    body = re.sub(r"\n{3,}", "\n\n", body)
    tail = f"Evidence, plots and every run: `{folder}/`. Digest `{bundle_digest(proof.verdict)}`."
    if len(body) > TEXT_LIMIT:
        cut = body[:TEXT_LIMIT].rsplit("\n## ", 1)[0].rstrip()
        body = f"{cut}\n\nCut here for length; the whole text is `{folder}/README.md`."
    return f"{body}\n\n{tail}\n"


def base_commit(repo: Repo, base: str | None) -> Commit:
    """The commit the branch starts from. Raises UsageError for a name that is none."""
    from git import BadName, GitCommandError

    names = [base] if base else ["refs/remotes/origin/HEAD", "main", "master", "HEAD"]
    for name in names:
        try:
            return repo.commit(name)
        except (BadName, ValueError, GitCommandError):
            continue
    raise UsageError(f"no commit named {base!r}", fix="--base takes a branch, tag or commit")


def script_files(proof: Proof, base: Commit) -> dict[str, bytes]:
    """The candidate's files under `candidates/`, as they ran.

    They go back to where they came from if that was there; else beside the others, in a folder of
    their own where a name is taken by other content.
    """
    plan = proof.bundle.plan.candidate
    texts = {path: text.encode() for path, text in proof.bundle.sources["candidate"].items()}
    origin = PurePosixPath(plan.origin)
    home = origin.parent
    inside = home.parts[:1] == ("candidates",) and ".." not in home.parts
    if not (inside and origin.name == plan.script):
        home = PurePosixPath("candidates")
        if any(_taken(base, str(home / path), text) for path, text in texts.items()):
            home = home / re.sub(r"\W+", "_", clean_name(proof.verdict.name)).strip("_")
    return {str(home / path): text for path, text in texts.items()}


def _taken(base: Commit, path: str, content: bytes) -> bool:
    try:
        return bool((base.tree / path).data_stream.read() != content)
    except KeyError:
        return False


def _require_branch_name(repo: Repo, name: str) -> None:
    from git import GitCommandError

    try:
        repo.git.check_ref_format("--branch", name)
    except GitCommandError:
        raise UsageError(
            f"{name!r} cannot name a branch", fix="choose another with --branch"
        ) from None
    if name == ("" if repo.head.is_detached else repo.active_branch.name):
        raise UsageError(
            f"{name} is checked out, and your work is not touched",
            fix="choose another name with --branch",
        )


def _point(repo: Repo, name: str, commit: str) -> None:
    """Make the branch; one that already carries the same files on the same base is kept."""
    existing = next((head for head in repo.heads if head.name == name), None)
    if existing is None:
        with git_errors("to make the branch", repo, AS_IT_WAS):
            repo.git.branch("--no-track", name, commit)
        return
    made, there = repo.commit(commit), existing.commit
    if made.tree != there.tree or made.parents != there.parents:
        raise UsageError(
            f"there is a branch {name} with other content",
            where=str(root_of(repo)),
            why=f"it stands at {there.hexsha[:10]}",
            fix=f"git branch -D {name}, or choose another name with --branch",
        )


def push_and_open(repo: Repo, request: PullRequest, remote: str) -> str:
    """Push the branch; open the pull request through `gh` where it is installed.

    Returns gh's answer (the address), "" without gh. Raises UnfitError in git's or gh's words; the
    branch stays.
    """
    from harness.runner.program import find_program, run_program

    kept = f"branch {request.branch} stays"
    if remote not in [there.name for there in repo.remotes]:
        raise UsageError(
            f"no remote named {remote!r}; {kept}",
            fix="git remote add, or name one with --remote",
        )
    with git_errors("to push", repo, kept):
        repo.git.push("-q", "-u", remote, f"refs/heads/{request.branch}")
    gh = find_program("gh")
    if gh is None:
        return ""
    done = run_program(
        [gh, "pr", "create", "--head", request.branch, "--title", request.title,
         "--body-file", "-"],
        cwd=Path(str(repo.working_tree_dir)), text=request.text, timeout_s=120,
    )  # fmt: skip
    if done.code:
        from harness.errors import UnfitError

        raise UnfitError(
            f"gh did not open the pull request; {kept}, and is pushed",
            why=done.err.strip()[-600:] or f"exit code {done.code}",
            fix="mend what gh names (gh auth login?), or open it in the browser",
        )
    return done.out.strip()
