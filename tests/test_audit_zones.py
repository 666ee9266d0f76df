"""Paths are told without the machine's layout."""

from __future__ import annotations

import pytest

from tests.test_audit_notes import ZONES


@pytest.mark.parametrize(
    ("path", "zone", "told"),
    [
        ("/d/data/mini/a.bin", "data", "a.bin"),
        ("/d/data/minimal/a.bin", "other", "…/data/minimal/a.bin"),
        ("/repo/results/x/log", "contest", "x/log"),
        ("/tmp/x/run/logs/1.txt", "source", "logs/1.txt"),
        ("/tmp/x/notes", "scratch", "notes"),
        ("/tmp/other", "temporary", "other"),
        ("/dev/shm/table", "shm", "table"),
        ("/dev/null", "system", "null"),
        ("/py/lib/a.py", "python", "lib/a.py"),
        ("/home/me/.cache/x", "home", ".cache/x"),
        ("/srv/some/where/deep/file", "other", "…/where/deep/file"),
        ("/srv/f", "other", "/srv/f"),
    ],
)
def test_zones(path: str, zone: str, told: str) -> None:
    assert ZONES.place(path) == (zone, told)
