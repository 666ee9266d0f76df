"""Is what lies here what a run must read? Every byte is read; each fault is named with its remedy.

wrong      contradicts the format, the rules or the manifest          exit code 3
missing    a shard that is not here, or cannot be read                exit code 4
unproven   well formed, and nothing here says whose tokens they are   exit code 0
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from harness.data.manifest import Manifest, ShardEntry, read_manifest
from harness.data.progress import ByteBar
from harness.data.shard import ShardFacts, inspect_shard
from harness.data.stream import (
    data_folder,
    is_shard,
    is_train_shard,
    shards_here,
    stated_hashes,
    token_rule,
)
from harness.errors import EXIT_ACCEPTED, EXIT_RULE_BROKEN, EXIT_UNFIT, EvidenceError
from harness.host import usable_cores
from harness.tracks.track import Track

Kind = Literal["wrong", "missing", "unproven"]
READERS = 4  # hashing takes 0.5 s a GB and core; more readers than this outrun most disks
Facts = Mapping[str, ShardFacts | str]


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement about one file, and what to do about it."""

    name: str
    kind: Kind
    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`facts` holds what was read, or why a file could not be."""

    folder: Path
    facts: Facts
    findings: tuple[Finding, ...]
    read_bytes: int
    seconds: float

    @property
    def exit_code(self) -> int:
        kinds = {finding.kind for finding in self.findings}
        if "wrong" in kinds:
            return EXIT_RULE_BROKEN
        return EXIT_UNFIT if "missing" in kinds else EXIT_ACCEPTED

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        shards = {
            name: asdict(facts) if isinstance(facts, ShardFacts) else {"error": facts}
            for name, facts in self.facts.items()
        }
        return {
            "folder": str(self.folder),
            "shards": shards,
            "findings": [asdict(finding) for finding in self.findings],
            "exit_code": self.exit_code,
        }


def check_data(track: Track, root: Path, command: str, bar: ByteBar) -> CheckResult:
    """Read every shard that a run could read and hold it against format, rules and manifest.

    command   the fetch that would have brought these shards; the remedies name it
    Memory: 4 MiB a reader. Raises nothing about the data: faults are findings.
    """
    import numpy as np  # noqa: F401 - loaded before the readers start, 0.1 s

    folder = data_folder(track, root)
    findings = []
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(folder)
    except EvidenceError as error:
        findings.append(Finding("manifest.json", "wrong", f"{error.what}: {error.why}", error.fix))
    names = shards_here(track, folder)
    paths = {name: folder / name for name in names}
    total = sum(path.stat().st_size for path in paths.values() if path.is_file())
    started_s = time.monotonic()

    def read(name: str) -> ShardFacts | str:
        try:
            return inspect_shard(paths[name], token_rule(track), bar.advance)
        except OSError as error:
            return error.strerror or str(error)

    with bar.over(total, f"{len(names)} shards"):
        workers = max(1, min(READERS, int(usable_cores()), len(names)))
        with ThreadPoolExecutor(workers) as pool:
            try:
                facts = dict(zip(names, pool.map(read, names), strict=True))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    findings += judge(track, facts, manifest, command)
    return CheckResult(folder, facts, tuple(findings), total, time.monotonic() - started_s)


class _Remedies:
    """What to do about a file: the fetch, with as many shards and from the mirror it came from."""

    def __init__(
        self, track: Track, facts: Facts, entries: Mapping[str, ShardEntry], command: str
    ) -> None:
        self._entries = entries
        self.command = command
        train = {name for name in (*facts, *entries) if is_train_shard(track, name)}
        if len(train) > track.data.minimum_train_shards and track.data.kind == "shards":
            self.command += f" --shards {len(train)}"

    def missing(self, name: str) -> str:
        entry = self._entries.get(name)
        if entry is None or entry.vouched_by == "hub":
            return self.command
        if entry.source.startswith("packed"):
            return "pack the same texts again (speedrun data pack), or restore it"
        return f"{self.command} --from {quote(entry.source)}"

    def wrong(self, name: str) -> str:
        fetch = self.missing(name)
        return f"{fetch} (keeps the old file aside)" if fetch.startswith(self.command) else fetch


def judge(track: Track, facts: Facts, manifest: Manifest | None, command: str) -> list[Finding]:
    """All findings, from what was read. Pure."""
    entries = {s.name: s for s in manifest.shards if is_shard(track, s.name)} if manifest else {}
    stated = stated_hashes(track)
    read = {name: f for name, f in facts.items() if isinstance(f, ShardFacts)}
    again = _Remedies(track, facts, entries, command)
    found = [
        Finding(name, "missing", f"cannot be read: {why}", "check its permissions and the disk")
        for name, why in facts.items()
        if isinstance(why, str)
    ]
    for name, shard in read.items():
        what = _wrong(name, shard, read, entries, stated, track)
        if what:
            found.append(Finding(name, "wrong", what, again.wrong(name)))
    blamed = {finding.name for finding in found}
    found += _duplicates(track, read, blamed, again)
    found += _unlisted(track, read, entries, stated, {finding.name for finding in found})
    found += _missing(track, facts, entries, again)
    return found


def _wrong(
    name: str,
    shard: ShardFacts,
    read: Mapping[str, ShardFacts],
    entries: Mapping[str, ShardEntry],
    stated: Mapping[str, str],
    track: Track,
) -> str:
    """What contradicts format, rules or manifest; the most telling reason first."""
    entry = entries.get(name)
    expected = stated.get(name) or (entry.sha256 if entry else None)
    owner = next((e.name for e in entries.values() if e.sha256 == shard.sha256), None)
    if owner is not None and owner != name and expected != shard.sha256:
        other = read.get(owner)
        if other is not None and entry is not None and other.sha256 == entry.sha256:
            return f"swapped with {owner}: each holds the other's tokens"
        return f"holds the tokens of {owner}, by the manifest's sha256: renamed or copied"
    if shard.faults:
        return "; ".join(shard.faults)
    if expected is not None and shard.sha256 != expected:
        says = "the track's rules state" if name in stated else "the manifest states"
        if entry is not None and entry.bytes != shard.bytes:
            return f"{shard.bytes:,} bytes, the manifest states {entry.bytes:,}"
        return f"edited or another file: sha256 {shard.sha256[:16]}…, {says} {expected[:16]}…"
    if name == track.data.validation_file and shard.tokens < track.data.validation_tokens:
        return (
            f"{shard.tokens:,} tokens, the track validates on the first "
            f"{track.data.validation_tokens:,}"
        )
    return ""


def _duplicates(
    track: Track, read: Mapping[str, ShardFacts], blamed: set[str], again: _Remedies
) -> list[Finding]:
    """Files with the same bytes: the run would read the same tokens twice, or its validation."""
    first: dict[str, str] = {}
    found = []
    for name, shard in read.items():  # validation comes first, then reading order
        other = first.setdefault(shard.sha256, name)
        if other == name or name in blamed:
            continue
        harm = (
            "the run would train on its validation tokens"
            if other == track.data.validation_file
            else "the run would read them twice"
        )
        found.append(
            Finding(name, "wrong", f"the same bytes as {other}: {harm}", again.wrong(name))
        )
    return found


def _unlisted(
    track: Track,
    read: Mapping[str, ShardFacts],
    entries: Mapping[str, ShardEntry],
    stated: Mapping[str, str],
    blamed: set[str],
) -> list[Finding]:
    """Well-formed shards that no manifest and no rule vouches for."""
    names = [n for n in read if n not in blamed and n not in entries and n not in stated]
    listed = [name for name in entries if is_train_shard(track, name)]
    needed = listed[: track.data.minimum_train_shards]
    found = []
    for name in names:
        if needed and is_train_shard(track, name) and name < needed[-1]:
            what = f"not in the manifest, and would be read before {needed[-1]}"
            found.append(Finding(name, "wrong", what, "move it out of the folder"))
            names = [other for other in names if other != name]
    if names and entries:
        fix = "fetch it (speedrun data fetch --shards N), or move it out of the folder"
        found += [Finding(n, "unproven", "well formed, not in the manifest", fix) for n in names]
    elif names:
        what = (
            "well formed; no manifest.json and the rules state no hashes, so nothing here can "
            "tell them from other tokens"
        )
        label = names[0] if len(names) == 1 else f"{len(names)} shards"
        found.append(Finding(label, "unproven", what, _VOUCH))
    return found


_VOUCH = "speedrun data fetch holds them against the hub's sha256 and writes the manifest"


def _missing(
    track: Track, facts: Facts, entries: Mapping[str, ShardEntry], again: _Remedies
) -> list[Finding]:
    """Files that the track, the manifest or the numbering expects."""
    rule = track.data
    train = [name for name in facts if is_train_shard(track, name)]
    absent = {name: "in the manifest, not in the folder" for name in entries if name not in facts}
    if rule.validation_file not in facts:
        absent[rule.validation_file] = "the validation shard is not here"
    for name in _gaps(track, train):
        absent.setdefault(
            name, "not here: the numbers jump, a run would read the next in its place"
        )
    found = [Finding(name, "missing", what, again.missing(name)) for name, what in absent.items()]
    if len(train) < rule.minimum_train_shards:
        what = f"{len(train)} train shards, a run reads {rule.minimum_train_shards}"
        found.append(Finding(rule.train_glob, "missing", what, again.command))
    return found


def _gaps(track: Track, train: list[str]) -> list[str]:
    """Names left out in a run of numbers that begins at 000001 (synthetic data: where it does)."""
    before, _, after = track.data.train_glob.partition("*")
    pattern = re.compile(re.escape(before) + r"(\d{6})" + re.escape(after))
    numbers = [int(match[1]) for name in train if (match := pattern.fullmatch(name))]
    if not numbers or len(numbers) < len(train):
        return []
    start = 1 if track.data.kind == "shards" else min(numbers)
    # A shard whose number is far away must not list a million names.
    absent = [n for n in range(start, min(max(numbers), start + 999)) if n not in numbers]
    return [f"{before}{number:06d}{after}" for number in absent[:20]]
