"""A bundle laid out as the field's own repository expects a record.

    records/track_1_short/2026-11-20_MuonTiny/
        README.md              the report, and which log is which run
        candidate-01.txt …     one counted run each: source, 100 `=`, environment, 100 `=`, lines
        baseline/baseline-01.txt …
        failed_or_warmup/…     warm-up, excluded and unfinished runs: nothing is hidden

Text only, nothing executable. `speedrun verify` on the folder gives the bundle's n, means and p.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from harness.bundle import Run
from harness.bundle_files import safe_path
from harness.errors import EvidenceError, UnfitError, UsageError
from harness.publication.proof import Proof
from harness.publish import bundle_digest
from harness.report import render_markdown
from harness.report.write import replace_file

FOLDERS = {
    "small": "track_1_short",
    "medium": "track_2_medium",
    "optimization": "track_3_optimization",
}
RULER = "=" * 100
NOT_COUNTED = "failed_or_warmup"
"""`speedrun verify` takes an arm whose name says "failed" for no submission."""


def lay_out(proof: Proof, target: Path) -> Path:
    """Write the record's folder below `target`; its path. Whole or not at all.

    Raises EvidenceError for an exhibition, UsageError when the track has no place there or the
    folder exists, UnfitError when it cannot be written.
    """
    track = proof.verdict.track
    if track not in FOLDERS:
        raise UsageError(
            f"track {track} has no place in the upstream repository",
            why=f"its records are of {', '.join(sorted(FOLDERS))}",
            fix="leave out --upstream",
        )
    if proof.verdict.exhibition:
        raise EvidenceError(
            "an exhibition is no record, and is not laid out as one",
            where=str(proof.root),
            why="; ".join(proof.verdict.exhibition),
            fix="run it on the track's own hardware, data and target, without --exhibition",
        )
    folder = target / "records" / FOLDERS[track] / folder_name(proof)
    if os.path.lexists(folder):
        raise UsageError(
            "the record's folder is there already",
            where=str(folder),
            fix="remove it, or name another place with --upstream",
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".speedrun-", dir=folder.parent))
        try:
            for name, text in record_texts(proof).items():
                replace_file(scratch / name, text)
            scratch.chmod(0o755)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UnfitError(
            "the record's folder cannot be written",
            where=str(folder),
            why=str(error.strerror or error),
            fix="make room or choose another place",
        ) from None
    return folder


def folder_name(proof: Proof) -> str:
    """`2026-11-20_MuonTiny`: the day of the plan and the name in the field's spelling."""
    words = re.split(r"[^A-Za-z0-9]+", proof.verdict.name)
    short = "".join(word[:1].upper() + word[1:] for word in words)[:60]
    return f"{proof.verdict.created_utc[:10]}_{short or 'Record'}"


def record_texts(proof: Proof) -> dict[str, str]:
    """Path below the record's folder -> text: README.md and one log a run that has one."""
    texts: dict[str, str] = {}
    listed: list[str] = []
    for run in proof.bundle.runs:
        text = log_text(proof, run)
        if text is None:
            listed.append(f"- no log: {run.run_id}, {run.state}")
            continue
        name = _place(run)
        texts[name] = text
        listed.append(f"- `{name}`: {run.state}{'' if run.counts else ', warm-up'}")
    report = render_markdown(proof.verdict)
    report = "\n".join(line for line in report.splitlines() if not line.startswith("![")).rstrip()
    texts["README.md"] = (
        f"{report}\n\n## Logs\n\nEvery started run, in the order of its start. Bundle digest "
        f"`{bundle_digest(proof.verdict)}`.\n\n" + "\n".join(listed) + "\n"
    )
    return texts


def _place(run: Run) -> str:
    if not (run.counts and run.state == "finished"):
        return f"{NOT_COUNTED}/{run.run_id}.txt"
    return f"{run.run_id}.txt" if run.arm == "candidate" else f"baseline/{run.run_id}.txt"


def log_text(proof: Proof, run: Run) -> str | None:
    """One run's log in the field's form; None where the run left none."""
    path = f"runs/{run.run_id}.log"
    if run.log is None:
        return None
    printed = safe_path(proof.root, path).read_bytes().decode("utf-8", errors="replace")
    files = proof.bundle.sources[run.arm]
    script = proof.bundle.plan.arm(run.arm).script
    order = [script, *sorted(set(files) - {script})]
    source = "\n".join(files[name].rstrip("\n") for name in order)
    environment = _environment(proof)
    if run.log.source is not None:  # the script embeds its own source: leave its log as it is
        return printed
    return f"{source}\n{RULER}\n{environment}\n{RULER}\n{printed}"


def _environment(proof: Proof) -> str:
    """The lines a log of the field opens with, then what the bundle knows besides."""
    environment = proof.bundle.environment
    if environment is None:
        return "Running Python (unknown)"
    interpreter = environment.interpreter
    lines = [f"Running Python {interpreter.version}"]
    if interpreter.torch:
        cuda = f" compiled for CUDA {interpreter.torch_cuda}" if interpreter.torch_cuda else ""
        lines.append(f"Running PyTorch {interpreter.torch}{cuda}")
    lines += [f"{what}: {value}" for what, value in proof.verdict.environment.items()]
    return "\n".join(lines)
