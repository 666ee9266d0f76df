"""`speedrun verify`: everything recomputed from the evidence, no GPU, nothing executed; with
`--rerun`, both scripts of the bundle once more on this node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from harness.terminal import Terminal


def verify(
    folder: Annotated[
        Path, typer.Argument(help="A bundle, or a folder of run logs as the field ships them.")
    ],
    target: Annotated[float, typer.Option(help="Target loss for a folder of logs, nats.")] = 3.28,
    step: Annotated[
        int | None,
        typer.Option(help="Claimed step of a folder of logs; default: each log's last."),
    ] = None,
    allowed_signers: Annotated[
        Path | None,
        typer.Option(
            help="Whose key is whose, for signatures; default: results/allowed_signers here, else "
            "git's gpg.ssh.allowedSignersFile."
        ),
    ] = None,
    rerun: Annotated[
        bool,
        typer.Option(
            "--rerun",
            help="Then run both scripts of the bundle again here: a series of its own, judged "
            "alone and pooled with the first.",
        ),
    ] = False,
    runs: Annotated[
        int | None,
        typer.Option(help="Re-run: counted pairs of a fixed plan (default: the track's looks)."),
    ] = None,
    sandbox: Annotated[
        str,
        typer.Option(
            help="Re-run: what keeps the scripts from this machine. 'auto': bwrap where it works; "
            "'bwrap': that or nothing; 'none'."
        ),
    ] = "auto",
    data: Annotated[
        Path | None, typer.Option(help="Re-run: root of the data; DATA_PATH of the runs.")
    ] = None,
    nproc: Annotated[
        int | None,
        typer.Option("--nproc", "--gpus", help="Re-run: processes a run (default: the bundle's)."),
    ] = None,
    python: Annotated[str, typer.Option(help="Re-run: interpreter that runs the scripts.")] = "",
    out: Annotated[Path, typer.Option(help="Re-run: folder for its bundle.")] = Path("results"),
    seed: Annotated[int | None, typer.Option(help="Re-run: seed of the run order.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Re-run: continue the one in this bundle; of one that is over, pool it."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Recompute a verdict from its evidence.

    A bundle is hashed, parsed and judged again, and compared with what it claims. A folder of logs
    gives n, means, p and Welch's test on the times. Nothing is executed, except with --rerun, which
    executes the bundle's scripts.
    """
    from harness.bundle import is_bundle
    from harness.errors import UsageError
    from harness.terminal import Terminal

    terminal = Terminal()
    asked = [runs, data, nproc, seed, resume, python or None]
    if not rerun and (any(option is not None for option in asked) or sandbox != "auto"):
        raise UsageError(
            "an option of the re-run was given, and no --rerun",
            why="verify by itself executes nothing",
            fix=f"speedrun verify {folder} --rerun …",
        )
    if not folder.exists():
        raise UsageError(f"no folder at {folder}", fix="give a bundle or a folder of logs")
    if is_bundle(folder):
        code, document = _verify_bundle(folder, allowed_signers, terminal)
        if rerun:
            from harness.rerun import RerunRequest, after_verification

            request = RerunRequest(folder, runs, sandbox, data, nproc, python, out, seed, resume)
            code, more = after_verification(request, code, terminal)
            document |= {**more, "exit_code": code}
        if json_:
            terminal.json(document)
        raise typer.Exit(code)
    if rerun:
        raise UsageError(
            "a folder of logs cannot be run again",
            where=str(folder),
            why="it holds no plan and no sources as a bundle does",
            fix="speedrun submit with the scripts",
        )
    raise typer.Exit(_verify_logs(folder, target, step, terminal, json_))


def _verify_bundle(
    folder: Path, allowed_signers: Path | None, terminal: Terminal
) -> tuple[int, dict[str, Any]]:
    """(exit code, what --json prints)."""
    from harness.errors import EXIT_RULE_BROKEN
    from harness.publish import show_verdict
    from harness.verification import verify_bundle
    from harness.vouching import show_vouching, who_vouches

    result = verify_bundle(folder)
    vouching = who_vouches(folder, result.verdict, allowed_signers)
    exit_code = EXIT_RULE_BROKEN if vouching.differences else result.exit_code
    show_verdict(result.verdict, terminal)
    for note in result.notes:
        terminal.warning(f"note: {note}")
    for line in result.differences:
        terminal.failure(f"  ✗ {line}")
    if result.differences:
        terminal.failure("the claimed verdict does not follow from the evidence")
    else:
        terminal.info(f"digest   {vouching.digest}")
        show_vouching(vouching, terminal)
    return exit_code, {
        "verdict": result.verdict.model_dump(mode="json"),
        "differences": list(result.differences),
        "notes": list(result.notes),
        "vouching": vouching.document(),
        "exit_code": exit_code,
    }


def _verify_logs(
    folder: Path, target: float, step: int | None, terminal: Terminal, as_json: bool
) -> int:
    from harness.record_folder import read_record_folder, summarise
    from harness.record_report import folder_document, folder_exit_code, show_folder

    summary = summarise(read_record_folder(folder, at_step=step), target)
    show_folder(summary, terminal)
    if as_json:
        terminal.json(folder_document(summary))
    return folder_exit_code(summary)
