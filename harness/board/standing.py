"""Which record stands, by track and hardware class. Pure.

The standing record of a track is what lies in `baseline/`, its time is the last row of the track's
table. A bundle proves it when its candidate is that baseline, file by file. Exhibitions and broken
bundles cannot get in here: only `accepted` entries are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.board.entry import Entry
from harness.history import RecordRow


@dataclass(frozen=True, slots=True)
class Standing:
    """One line of the board.

    hardware   class the time was taken on
    row        the table's last row, None where no table is kept or the class is not the table's
    entry      the bundle that proves it, None where there is none here
    """

    track: str
    hardware: str
    row: RecordRow | None
    entry: Entry | None

    @property
    def seconds(self) -> float | None:
        """The official time: of the table, else what the bundle measured. The official time that
        a verdict states is not used: it hangs on the bundle's own track.toml."""
        if self.row is not None:
            return self.row.minutes * 60
        verdict = self.entry.verdict if self.entry is not None else None
        mean = verdict.candidate.time_mean_ms if verdict is not None else None
        return None if mean is None else mean / 1000


def standing_records(
    track: str,
    official_class: str,
    rows: Sequence[RecordRow],
    entries: Sequence[Entry],
    baseline: str,
) -> tuple[Standing, ...]:
    """The standing record of each class, the official one first.

    entries    of this track; baseline: `files_sha256` of the standing script, "" if there is none
    """
    accepted = [entry for entry in entries if entry.kind == "accepted"]
    classes = sorted({entry.hardware for entry in accepted} - {official_class})
    found = []
    for hardware in (official_class, *classes):
        mine = sorted(
            (entry for entry in accepted if entry.hardware == hardware),
            key=lambda entry: (entry.created_utc, entry.folder),
        )
        proof = next((entry for entry in reversed(mine) if entry.candidate == baseline), None)
        if hardware == official_class:
            if rows or proof is not None:
                found.append(Standing(track, hardware, rows[-1] if rows else None, proof))
        else:
            found.append(Standing(track, hardware, None, proof or mine[-1]))
    return tuple(found)


def place(entry: Entry, baseline: str) -> str:
    """What an entry is to the board, in words: the standing record, beaten, waiting, …"""
    if entry.kind == "accepted":
        if entry.candidate == baseline:
            return "standing record"
        return "accepted, not promoted" if entry.baseline == baseline else "accepted, since beaten"
    return {
        "other_rules": "accepted under other rules",
        "exhibition": "exhibition, no record",
        "not_accepted": "not accepted",
        "broken": "broken",
    }[entry.kind]
