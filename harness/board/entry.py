"""One bundle as the board sees it: judged again from its evidence, or broken with the reason."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.board.rules import differing_rules, rules_in_force
from harness.bundle import Bundle, is_bundle, read_bundle
from harness.checks.hardware import hardware_class
from harness.errors import SpeedrunError
from harness.source import Source
from harness.verdict_schema import Verdict
from harness.verification import verify_bundle

Kind = Literal["accepted", "other_rules", "exhibition", "not_accepted", "broken"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A bundle and what it is worth.

    folder      its name below results/
    kind        accepted: an official attempt, accepted under the rules in force, and claimed so.
                other_rules: accepted, but under other rules. exhibition: never a record, whatever
                the decision. not_accepted: an official attempt that was judged and falls short.
                broken: cannot be read, or claims what its evidence does not yield
    reasons     why it is broken or under other rules; differences or notes of `verify`
    verdict     recomputed; None where nothing could be judged
    hardware    the class it ran on
    candidate, baseline    hashes of the arms' files, the started script under one name
    """

    folder: str
    kind: Kind
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    verdict: Verdict | None = None
    hardware: str = ""
    candidate: str = ""
    baseline: str = ""

    @property
    def track(self) -> str:
        return self.verdict.track if self.verdict is not None else ""

    @property
    def created_utc(self) -> str:
        return self.verdict.created_utc if self.verdict is not None else ""

    @property
    def day(self) -> str:
        return self.created_utc[:10]


def read_entries(results: Path, repository: Path | None) -> tuple[Entry, ...]:
    """Every bundle directly below `results`, by folder name. No bundle can stop the others."""
    if not results.is_dir():
        return ()
    names = sorted(entry.name for entry in os.scandir(results) if entry.is_dir())
    return tuple(read_entry(results / name, repository) for name in names if _looks(results / name))


def _looks(folder: Path) -> bool:
    return not folder.name.startswith(("_", ".")) and (is_bundle(folder) or _claims(folder))


def _claims(folder: Path) -> bool:
    """A folder without plan and ledger that still says it was judged: shown, as broken."""
    return (folder / "verdict.json").is_file()


def read_entry(folder: Path, repository: Path | None) -> Entry:
    """One bundle, verified. What cannot be read becomes a broken entry, never an exception."""
    if folder.is_symlink():
        return Entry(folder.name, "broken", ("the bundle is a symbolic link",))
    try:
        bundle = read_bundle(folder)
        verification = verify_bundle(folder)
        kind, reasons = _worth(bundle, verification.verdict, repository)
    except SpeedrunError as error:
        told = [error.what, *(part for part in (error.where, error.why) if part)]
        return Entry(folder.name, "broken", (_relative(": ".join(told), folder),))
    except (OSError, ValueError, ArithmeticError, RecursionError) as error:
        return Entry(folder.name, "broken", (_relative(f"cannot be judged: {error}", folder),))
    other_version = [note for note in verification.notes if note.startswith("claimed by")]
    if verification.differences:
        kind, reasons = "broken", (*other_version, *verification.differences)
    elif not (folder / "verdict.json").is_file() and kind == "accepted":
        kind, reasons = "not_accepted", ("nothing was claimed: there is no verdict.json",)
    return Entry(
        folder=folder.name,
        kind=kind,
        reasons=reasons,
        notes=tuple(note for note in verification.notes if note not in other_version),
        verdict=verification.verdict,
        hardware=_hardware(bundle),
        candidate=files_sha256(
            Source(bundle.plan.candidate.script, bundle.sources["candidate"])
        ),
        baseline=files_sha256(Source(bundle.plan.baseline.script, bundle.sources["baseline"])),
    )  # fmt: skip


def files_sha256(source: Source) -> str:
    """Hash of an arm's files that does not depend on what the started script is called: the same
    code is submitted as candidates/mine.py and stands as baseline/small.py."""
    files = {
        "<script>" if path == source.script else path: text for path, text in source.files.items()
    }
    return Source("<script>", files).sha256()


def _worth(
    bundle: Bundle, verdict: Verdict, repository: Path | None
) -> tuple[Kind, tuple[str, ...]]:
    if verdict.exhibition:
        return "exhibition", ()
    if verdict.decision != "accepted":
        return "not_accepted", ()
    other = differing_rules(bundle.track, rules_in_force(bundle.track.name, repository))
    return ("other_rules", other) if other else ("accepted", ())


def _hardware(bundle: Bundle) -> str:
    """The class as boards keep them apart: by the track's names, else by what the driver says."""
    environment = bundle.environment
    if bundle.track.hardware.kind == "cpu":
        return "CPU"
    if environment is None or not environment.gpus:
        return "unknown"
    label = hardware_class(bundle.track, environment)
    names = sorted({gpu.name for gpu in environment.gpus})
    return f"{bundle.plan.launch.processes} × {label or ' and '.join(names)}"


def _relative(text: str, folder: Path) -> str:
    """No path of the machine that builds the board gets into a page."""
    for form in (str(folder.resolve()), str(folder)):
        text = text.replace(f"{form}/", "").replace(form, folder.name)
    return text
