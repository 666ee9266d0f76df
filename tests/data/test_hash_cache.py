"""The hash cache is right when it answers, and silent when it cannot be sure."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from harness.data import hash_cache
from harness.data.hash_cache import cache_file, cached_sha256


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Files that were really read."""
    read: list[Path] = []
    honest = hash_cache.sha256_file

    def counting(path: Path) -> str:
        read.append(path)
        return honest(path)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "sha256_file", counting)
    monkeypatch.setattr(hash_cache, "RACY_NS", 0)
    return read


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_unchanged_files_are_read_once(tmp_path: Path, counted: list[Path]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    assert cached_sha256(path) == cached_sha256(path) == sha(b"one")
    assert len(counted) == 1
    link = tmp_path / "link.bin"
    link.symlink_to(path)
    assert cached_sha256(link) == sha(b"one")
    assert len(counted) == 1


def test_an_edit_with_a_forged_mtime_is_seen(tmp_path: Path, counted: list[Path]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    before = path.stat()
    cached_sha256(path)
    path.write_bytes(b"two")  # same inode, same size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert cached_sha256(path) == sha(b"two")


def test_another_file_under_the_name_is_seen(tmp_path: Path, counted: list[Path]) -> None:
    path, other = tmp_path / "a.bin", tmp_path / "b.bin"
    path.write_bytes(b"one")
    other.write_bytes(b"two")
    stamp = path.stat()
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    cached_sha256(path)
    other.replace(path)
    assert cached_sha256(path) == sha(b"two")


def test_a_file_just_written_is_not_remembered(
    tmp_path: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_cache, "RACY_NS", 2_000_000_000)
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    cached_sha256(path)
    cached_sha256(path)
    assert len(counted) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema_version": 9, "files": {}}',
        '{"schema_version": 1, "files": 3}',
    ],
)
def test_a_broken_cache_costs_time_only(tmp_path: Path, counted: list[Path], text: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(text)
    assert cached_sha256(path) == sha(b"one")
    assert cached_sha256(path) == sha(b"one")
    assert len(counted) == 1


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_sha256(path) == sha(b"one")


def test_entries_of_files_that_are_gone_are_dropped(tmp_path: Path, counted: list[Path]) -> None:
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(b"one")
        cached_sha256(tmp_path / name)
    (tmp_path / "a.bin").unlink()
    (tmp_path / "c.bin").write_bytes(b"one")
    cached_sha256(tmp_path / "c.bin")
    assert "a.bin" not in cache_file().read_text()
    assert "b.bin" in cache_file().read_text()
