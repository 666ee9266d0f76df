"""`speedrun pr`: branch, commit and text of a pull request; the field's own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pr(
    bundle: Annotated[Path, typer.Argument(help="Bundle with an accepted verdict.")],
    upstream: Annotated[
        Path | None,
        typer.Option(help="Lay out records/<track>/<date>_<name>/ below this folder instead."),
    ] = None,
    push: Annotated[
        bool,
        typer.Option("--push", help="Push the branch and open the request through gh."),
    ] = False,
    branch: Annotated[
        str | None, typer.Option(help="Name of the branch. Default: record/<bundle>.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="What it starts from. Default: origin's default branch, else main."),
    ] = None,
    remote: Annotated[str, typer.Option(help="Where --push pushes to.")] = "origin",
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Make a branch with the bundle and its script; print the pull request's title and text.

    The bundle is judged again first. Your current branch, index and files stay as they are. Title
    and text go to stdout. Nothing is sent anywhere without --push.

    With --upstream, the bundle is laid out for the repository of the NanoGPT speedrun: one log a
    run that begins with its own source, and a README.md.
    """
    from harness.errors import UsageError
    from harness.publication.proof import prove
    from harness.publication.pull_request import make_branch, push_and_open
    from harness.publication.repository import open_repository
    from harness.publication.upstream import lay_out
    from harness.terminal import Terminal

    terminal = Terminal()
    if upstream is not None and (push or branch or base):
        raise UsageError(
            "--upstream writes a folder and makes no branch",
            fix="leave out --push, --branch and --base, or --upstream",
        )
    proof = prove(bundle)
    if upstream is not None:
        folder = lay_out(proof, upstream)
        script = f"{bundle}/source/candidate/{proof.bundle.plan.candidate.script}"
        terminal.success(f"record   {folder}")
        terminal.info(f"check    speedrun verify {folder}")
        terminal.info(f"script   {script} goes over the upstream script in the same request")
        if json_:
            terminal.json({"schema_version": 1, "folder": str(folder), "exit_code": 0})
        return
    if proof.verdict.exhibition:
        terminal.warning("warning: an exhibition; it can be shown, and never be a record")
    repo = open_repository(Path.cwd())
    request = make_branch(repo, proof, branch, base)
    terminal.success(
        f"branch   {request.branch}, {len(request.files)} files on {request.base[:10]}"
    )
    address = ""
    if push:
        address = push_and_open(repo, request, remote)
        terminal.success(f"pushed   {remote} {request.branch}")
        terminal.info(f"request  {address}" if address else "no gh here: open it in the browser")
    else:
        terminal.info(f"push     git push -u {remote} {request.branch}")
    if json_:
        terminal.json(
            {
                "schema_version": 1,
                "title": request.title,
                "text": request.text,
                "branch": request.branch,
                "base": request.base,
                "commit": request.commit,
                "files": list(request.files),
                "address": address or None,
                "exit_code": 0,
            }
        )
    else:
        terminal.data(f"{request.title}\n\n{request.text}")
