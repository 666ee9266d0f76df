"""The files of a bundle: their names, and the one careful way to open them.

A bundle comes from a stranger. No link is followed, no path leaves the folder, nothing but a
regular file of bounded size is opened (a pipe never answers, a device never ends).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.canonical import sha256_file
from harness.errors import EvidenceError
from harness.plan import ArmName

TEXT_LIMIT_BYTES = 32 << 20
LOG_LIMIT_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class BundlePaths:
    """Every path of a bundle, from its root."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def track(self) -> Path:
        return self.root / "track.toml"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def environment(self) -> Path:
        return self.root / "environment.json"

    @property
    def verdict(self) -> Path:
        return self.root / "verdict.json"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def audit(self) -> Path:
        return self.root / "audit"

    @property
    def lock(self) -> Path:
        """Held by the process that writes; never part of the evidence."""
        return self.root / ".lock"

    def source(self, arm: ArmName) -> Path:
        return self.root / "source" / arm

    def log(self, run_id: str) -> Path:
        return self.runs / f"{run_id}.log"

    def times(self, run_id: str) -> Path:
        return self.runs / f"{run_id}.times"

    def stderr(self, run_id: str) -> Path:
        return self.runs / f"{run_id}.err"

    def telemetry(self, run_id: str) -> Path:
        return self.runs / f"{run_id}.gpu.csv"


def safe_path(root: Path, relative: str, limit: int = LOG_LIMIT_BYTES) -> Path:
    """Path of a regular file of at most `limit` bytes inside `root`, no link on the way.

    Raises EvidenceError for anything else.
    """
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts or "\\" in relative or not pure.parts:
        raise EvidenceError(f"path leaves the bundle: {relative!r}", where=str(root))
    path = root
    for part in pure.parts:
        path = path / part
        try:
            status = os.lstat(path)
        except (OSError, ValueError):
            raise EvidenceError(
                f"{relative} is missing",
                where=str(root),
                fix="restore the bundle as `speedrun submit` wrote it",
            ) from None
        if stat.S_ISLNK(status.st_mode):
            raise EvidenceError(f"{relative} is a symbolic link", where=str(path))
    if not stat.S_ISREG(status.st_mode):
        raise EvidenceError(f"{relative} is not a regular file", where=str(path))
    if status.st_size > limit:
        raise EvidenceError(
            f"{relative} is larger than {limit >> 20} MiB",
            where=str(path),
            why=f"{status.st_size:,} bytes",
            fix="not a file that `speedrun submit` wrote",
        )
    return path


def safe_text(root: Path, relative: str, limit: int = TEXT_LIMIT_BYTES) -> str:
    """Text of a file inside `root`, every byte of it (no newline is translated).

    Raises EvidenceError.
    """
    path = safe_path(root, relative, limit)
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise EvidenceError(f"{relative} is not UTF-8 text", where=str(path)) from None
    except OSError as error:
        raise EvidenceError(
            f"{relative} cannot be read", where=str(path), why=str(error.strerror or error)
        ) from None


def safe_sha256(root: Path, relative: str, limit: int = LOG_LIMIT_BYTES) -> str:
    """Hex sha256 of a file inside `root`; raises EvidenceError."""
    path = safe_path(root, relative, limit)
    try:
        return sha256_file(path)
    except OSError as error:
        raise EvidenceError(
            f"{relative} cannot be read", where=str(path), why=str(error.strerror or error)
        ) from None


def files_below(root: Path, relative: str) -> list[str]:
    """Everything below a folder of the bundle that is no folder, as paths relative to it, sorted.

    Links are listed and not entered. Empty when there is no such folder.
    """
    top = root
    for part in PurePosixPath(relative).parts:
        top = top / part
        if top.is_symlink() or not top.is_dir():
            return []
    return sorted(
        (Path(folder) / name).relative_to(top).as_posix()
        for folder, folders, names in os.walk(top)
        for name in [*names, *(f for f in folders if (Path(folder) / f).is_symlink())]
    )
