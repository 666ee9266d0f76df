"""`speedrun verify`: everything recomputed from the evidence, no GPU, nothing executed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Recompute a verdict from its evidence.

    A bundle is hashed, parsed and judged again, and compared with what it claims. A folder of logs
    gives n, means, p and Welch's test on the times.
    """
    from harness.bundle import is_bundle
    from harness.errors import UsageError
    from harness.terminal import Terminal

    terminal = Terminal()
    if not folder.exists():
        raise UsageError(f"no folder at {folder}", fix="give a bundle or a folder of logs")
    if is_bundle(folder):
        raise typer.Exit(_verify_bundle(folder, terminal, json_))
    raise typer.Exit(_verify_logs(folder, target, step, terminal, json_))


def _verify_bundle(folder: Path, terminal: Terminal, as_json: bool) -> int:
    from harness.publish import bundle_digest, show_verdict
    from harness.verification import verify_bundle

    result = verify_bundle(folder)
    show_verdict(result.verdict, terminal)
    for note in result.notes:
        terminal.warning(f"note: {note}")
    for line in result.differences:
        terminal.failure(f"  ✗ {line}")
    if result.differences:
        terminal.failure("the claimed verdict does not follow from the evidence")
    else:
        terminal.info(f"digest   {bundle_digest(result.verdict)}")
    if as_json:
        terminal.json(
            {
                "verdict": result.verdict.model_dump(mode="json"),
                "differences": list(result.differences),
                "notes": list(result.notes),
                "exit_code": result.exit_code,
            }
        )
    return result.exit_code


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
