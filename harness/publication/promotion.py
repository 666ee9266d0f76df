"""From an accepted bundle to the standing record: what changes, decided before anything does.

The candidate's files become `baseline/<track>.py` and siblings, the table of records gains a row,
the track's TOML gets the new time where it states one, and the bundle is committed with them if it
was not before. Rules travel by hash: a changed TOML changes `track_sha256` of later plans only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from harness.board.entry import files_sha256
from harness.board.rules import TRACK_FILES, differing_rules, known_tracks, rules_in_force
from harness.bundle import read_bundle
from harness.errors import EXIT_NOT_PROVEN, EvidenceError, SpeedrunError, UsageError
from harness.history import RecordRow
from harness.publication.proof import NotAcceptedError, Proof
from harness.publication.record_table import NewRow, last_row, with_record, with_row
from harness.publish import bundle_digest
from harness.report.escape import one_line
from harness.source import Source, read_source
from harness.tracks.track import Track

TABLES = "results/history"


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion does, in paths from the repository's root.

    files      path -> new text; removed: siblings that only the old record used
    bundle     folder of the bundle
    seconds    the official time of the new record; derived: how it came about, in words
    row        the line the table gains
    message    of the commit
    """

    track: str
    name: str
    files: Mapping[str, str]
    removed: tuple[str, ...]
    bundle: str
    seconds: float
    derived: str
    row: str
    message: str = field(repr=False)


def plan_promotion(proof: Proof, root: Path, by: str, note: str = "") -> Promotion:
    """What promoting this bundle in the repository at `root` changes. Reads, writes nothing.

    by, note    the row's contributors, and what changed in their words

    Raises EvidenceError (exhibition, other rules), NotAcceptedError (the record that stands is not
    the one it ran against), UsageError.
    """
    plan = proof.bundle.plan
    if proof.verdict.exhibition:
        raise EvidenceError(
            "an exhibition can never be a record",
            where=str(proof.root),
            why="; ".join(proof.verdict.exhibition),
            fix="run it on the track's own hardware, data and target, without --exhibition",
        )
    rules = _rules(proof, root)
    standing = _standing(rules, root)
    candidate = Source(plan.candidate.script, proof.bundle.sources["candidate"])
    baseline = Source(plan.baseline.script, proof.bundle.sources["baseline"])
    _require_progress(proof, rules, standing, candidate, baseline)
    files, removed = promoted_files(candidate, standing, rules, root)
    bundle = _bundle_path(proof, root)
    table = f"{TABLES}/{rules.name}.csv"
    text = _text(root / table)
    seconds, derived = official_seconds(proof, rules, root, text, files_sha256(baseline))
    _require_faster(seconds, derived, last_row(text, table), rules)
    words = one_line(note) or one_line(proof.verdict.name)
    steps = proof.verdict.candidate.steps
    row = NewRow(
        seconds=seconds,
        day=proof.verdict.created_utc[:10],
        steps="" if steps is None else f"{steps:,}",
        note=f"{words} {bundle}",
        contributors=one_line(by),
    )
    files[table] = with_row(text, row, table, _first_row(proof))
    toml = f"{TRACK_FILES}/{rules.name}.toml"
    rules_text = _text(root / toml)
    if rules_text is not None:
        changed = with_record(rules_text, seconds, one_line(proof.verdict.name))
        if changed != rules_text:
            files[toml] = changed
    return Promotion(
        track=rules.name,
        name=proof.verdict.name,
        files=files,
        removed=removed,
        bundle=bundle,
        seconds=seconds,
        derived=derived,
        row=files[table].splitlines()[-1],
        message=_message(proof, rules, seconds, derived, bundle),
    )


def _rules(proof: Proof, root: Path) -> Track:
    judged_under = proof.bundle.track
    rules = rules_in_force(judged_under.name, root)
    differing = differing_rules(judged_under, rules)
    if rules is None or differing:
        raise EvidenceError(
            "judged under other rules than the ones in force",
            where=f"{proof.root}/track.toml",
            why="; ".join(differing[:3]),
            fix=f"run it again: speedrun submit --track {judged_under.name}",
        )
    return rules


def _standing(rules: Track, root: Path) -> Source:
    path = root / rules.baseline
    if not path.is_file():
        raise UsageError(
            f"track {rules.name} has no standing record here",
            where=str(path),
            why="a record is promoted against the one it beat",
            fix="work in the repository that the bundle's baseline is of",
        )
    return read_source(path)


def _require_progress(
    proof: Proof, rules: Track, standing: Source, candidate: Source, baseline: Source
) -> None:
    if _code(candidate) == _code(standing):
        raise UsageError(
            "the candidate is the standing record already",
            where=rules.baseline,
            why="the same code, comments and formatting aside",
        )
    if files_sha256(baseline) != files_sha256(standing):
        raise NotAcceptedError(
            "another record stands than the one this ran against",
            EXIT_NOT_PROVEN,
            where=rules.baseline,
            why=f"the bundle beat {proof.bundle.plan.baseline.source_sha256[:12]}, "
            f"{standing.sha256()[:12]} stands now",
            fix="somebody was faster: run it again against the new one, "
            f"speedrun submit {proof.root}/source/candidate/{candidate.script} "
            f"--track {rules.name}",
        )


def _code(source: Source) -> str:
    files = {"<script>" if p == source.script else p: text for p, text in source.files.items()}
    return Source("<script>", files).syntax_sha256()


def promoted_files(
    candidate: Source, standing: Source, rules: Track, root: Path
) -> tuple[dict[str, str], tuple[str, ...]]:
    """(path -> text of the new baseline, paths that only the old one used).

    Raises UsageError when a file would take another's place: another track's script, a sibling
    that another track's baseline shares, or the script itself under its new name.
    """
    target = PurePosixPath(rules.baseline)
    folder = target.parent
    files = {
        str(target if path == candidate.script else folder / path): text
        for path, text in candidate.files.items()
    }
    others = _used_by_others(rules, root)
    clash = [
        path
        for path, text in files.items()
        if path != str(target)
        and str(PurePosixPath(path).relative_to(folder)) in others
        and _text(root / path) != text
    ]
    if len(files) != len(candidate.files):
        clash.append(str(target))
    if clash:
        raise UsageError(
            "a file of the candidate would take another's place",
            where=", ".join(sorted(clash)),
            why="its siblings lie beside every track's script once promoted",
            fix="rename the sibling, or put its text into the script, and submit again",
        )
    _require_own_name(candidate, target.stem)
    gone = set(standing.files) - {standing.script} - others
    removed = {str(folder / path) for path in gone} - set(files)
    return files, tuple(sorted(removed))


def _used_by_others(rules: Track, root: Path) -> set[str]:
    """Files, from the baseline's folder, that other tracks' standing records are made of."""
    folder = PurePosixPath(rules.baseline).parent
    used: set[str] = set()
    for name in known_tracks(root):
        other = rules_in_force(name, root)
        if other is None or other.baseline == rules.baseline:
            continue
        path = PurePosixPath(other.baseline)
        if path.parent == folder and (root / path).is_file():
            used |= {path.name, *read_source(root / path).files}
    return used


def _require_own_name(candidate: Source, stem: str) -> None:
    """A sibling that imports the script by its old name would break under the new one."""
    old = PurePosixPath(candidate.script).stem
    if old == stem:
        return
    importing = re.compile(rf"^\s*(?:import|from)\s+{re.escape(old)}\b", re.MULTILINE)
    for path, text in candidate.files.items():
        if importing.search(text):
            raise UsageError(
                f"{path} imports the script by its name, which promotion changes",
                where=path,
                why=f"{candidate.script} becomes {stem}.py",
                fix="move what is shared into the sibling, and submit again",
            )


def official_seconds(
    proof: Proof, rules: Track, root: Path, table: str | None, baseline: str
) -> tuple[float, str]:
    """(official seconds, how they came about).

    The standing record's official time × the measured ratio, where that time is known: the track
    states it, or the table's last row is of the bundle whose candidate this one beat. Else what
    was measured. Raises UsageError when the bundle measured no time.
    """
    ratio, mean = proof.verdict.timing.ratio, proof.verdict.candidate.time_mean_ms
    if mean is None or ratio is None:
        raise UsageError("the bundle has no time to enter", where=str(proof.root))
    if rules.contest.record_seconds is not None:
        before = rules.contest.record_seconds
        return before * ratio, f"the track's {before:.3f} s × {ratio:.5f}"
    last = last_row(table, TABLES)
    if last is not None:
        for word in last.note.split():
            if word.startswith("results/") and _candidate_of(root / word) == baseline:
                before = last.minutes * 60
                return before * ratio, f"record {last.record}'s {before:.3f} s × {ratio:.5f}"
    return mean / 1000, f"measured: mean of {proof.verdict.candidate.n} runs"


def _candidate_of(folder: Path) -> str:
    try:
        bundle = read_bundle(folder)
    except SpeedrunError:
        return ""
    return files_sha256(Source(bundle.plan.candidate.script, bundle.sources["candidate"]))


def _require_faster(seconds: float, derived: str, last: RecordRow | None, rules: Track) -> None:
    if last is None or rules.contest.compared_on == "steps":
        return
    if seconds >= last.minutes * 60:
        raise UsageError(
            "the new row would not be faster than the one above it",
            where=f"{TABLES}/{rules.name}.csv, record {last.record}",
            why=f"{seconds:.3f} s ({derived}) after {last.minutes * 60:.3f} s: other nodes, "
            "or another script than the table's",
            fix=f"state the standing script's official time as record_seconds in "
            f"{TRACK_FILES}/{rules.name}.toml; the row is then that time × the measured ratio",
        )


def _first_row(proof: Proof) -> NewRow | None:
    """A new table begins with what was beaten, as measured beside the new record."""
    base = proof.verdict.baseline
    if base.time_mean_ms is None:
        return None
    return NewRow(
        seconds=base.time_mean_ms / 1000,
        day=proof.verdict.created_utc[:10],
        steps="" if base.steps is None else f"{base.steps:,}",
        note="the first baseline",
        contributors="",
    )


def _bundle_path(proof: Proof, root: Path) -> str:
    folder = proof.root.resolve()
    if not folder.is_relative_to(root / "results"):
        raise UsageError(
            "the bundle does not lie under results/ of the repository",
            where=str(folder),
            fix=f"copy it there: cp -r {proof.root} {root}/results/",
        )
    path = folder.relative_to(root).as_posix()
    if len(path.split()) != 1 or path.count("/") != 1:
        raise UsageError(
            "the bundle's folder has a name that no table can hold",
            where=path,
            fix="give it a name without blanks, directly under results/",
        )
    return path


def _message(proof: Proof, rules: Track, seconds: float, derived: str, bundle: str) -> str:
    verdict = proof.verdict
    lines = [
        f"promote: {one_line(verdict.name)[:40]} is the record of track {rules.name}, "
        f"{seconds:.3f} s",
        "",
        one_line(verdict.headline),
        f"Official time: {one_line(derived)}",
        f"Bundle: {bundle}",
        f"Digest: {bundle_digest(verdict)}",
    ]
    return "\n".join(lines) + "\n"


def _text(path: Path) -> str | None:
    """Text of a file with its own line endings; None where there is none."""
    if not path.is_file():
        return None
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError("not UTF-8 text", where=str(path), why=str(error)) from None
