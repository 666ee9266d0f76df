"""Files that an audited run opened, wrote or kept mapped: from notes and sightings to facts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.audit_notes import RankNotes, as_count, as_dict, as_moment, as_text
from harness.audit_phases import Timeline
from harness.audit_report import FileUse
from harness.audit_zones import Zones

FILES_LIMIT = 1500
QUIET_ZONES = frozenset({"python", "system"})
OWN_ZONES = frozenset({"source", "scratch", "cache", "temporary"})
DATA_LIKE_BYTES = 1 << 20
"""Files of the run's own and of the home folder are listed when at least this large."""


@dataclass(slots=True)
class _Use:
    written: bool
    size: int | None = None
    moments: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    read: int | None = None
    trained_after: list[float] = field(default_factory=list)
    existed: bool = False

    @property
    def first(self) -> float:
        return min([*self.moments, *self.outside], default=0.0)


def file_uses(
    ranks: Iterable[RankNotes],
    sightings: Mapping[str, list[float]],
    zones: Zones,
    when: Timeline,
    start_s: float,
    before: frozenset[str],
    wall_s: float,
) -> tuple[FileUse, ...]:
    """Every file worth naming, in the order of its first use.

    before   paths that were there before the run (shared memory)
    wall_s   start of the run, seconds since 1970
    """
    uses: dict[tuple[str, bool], _Use] = {}
    for rank in ranks:
        training = sorted(at - start_s for at in rank.moments("backward"))
        opens = rank.of("open")
        for i, note in enumerate(opens):
            path, written = as_text(note.get("path", ""), 1000), bool(note.get("w"))
            use = uses.setdefault((path, written), _Use(written))
            at = float(note["t"]) - start_s
            use.moments.append(at)
            size, changed = as_count(note.get("size")), as_moment(note.get("mtime"))
            use.size = use.size if size is None else size
            use.existed |= not written and changed is not None and changed < wall_s
            if not written and when.phase(at) == "reset":
                use.read = max(use.read or 0, _read_until_clock(opens, i, rank))
            later = bisect_right(training, at)
            if later < len(training) and training[later] < when.next_validation(at) - rank.slack_s:
                use.trained_after.append(at)
        for note in rank.of("clock"):
            for path, touched in as_dict(note.get("mapped")).items():
                use_ = uses.get((path, False))
                # Mapped pages count only for files that were not touched by the warm-up before.
                if use_ is not None and use_.first > when.reset_s:
                    use_.read = max(use_.read or 0, as_count(touched) or 0)
    for path, moments in sightings.items():
        use = uses.setdefault((path, False), _Use(False))
        use.outside += [at - start_s for at in moments]
    named: list[FileUse] = []
    for (path, written), use in sorted(uses.items(), key=lambda item: (item[1].first, item[0])):
        zone, told = zones.place(path)
        if zone in QUIET_ZONES and (not written or path.startswith("/dev/")):
            continue
        small = (use.size or 0) < DATA_LIKE_BYTES
        if small and (zone in OWN_ZONES or (zone in ("home", "temporary") and not written)):
            continue
        named.append(
            FileUse(
                path=told[:300],
                zone=zone,
                written=written,
                size_bytes=use.size,
                opens=when.count(use.moments),
                seen_outside=when.count(use.outside),
                order=len(named),
                read_reset_bytes=use.read,
                trained_after=when.count(use.trained_after),
                existed=use.existed or path in before,
            )
        )
    return tuple(named[:FILES_LIMIT])


def _read_until_clock(opens: list[dict[str, Any]], i: int, rank: RankNotes) -> int:
    """Bytes the process read from this open to the next file's, or to the first result line."""
    start = as_count(opens[i].get("rchar"))
    if start is None:
        return 0
    path = opens[i].get("path")
    ends = [note.get("rchar") for note in opens[i + 1 :] if note.get("path") != path]
    ends += [note.get("rchar") for note in rank.of("clock") if note["t"] >= opens[i]["t"]]
    numbers = [end for raw in ends if (end := as_count(raw)) is not None and end >= start]
    return min(numbers) - start if numbers else 0
