"""Where a path lies, told without the machine's layout: zone and the rest of the path.

An audit's report is published; it says `data: fineweb_train_000001.bin`, not whose home it lay in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from harness.audit_report import Zone

SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/opt", "/proc", "/run",
          "/sbin", "/sys", "/usr", "/var")  # fmt: skip
TEMPORARY = ("/tmp", "/var/tmp")
SHARED_MEMORY = ("/dev/shm",)
SHOWN_PARTS = 3


@dataclass(frozen=True, slots=True)
class Zones:
    """Folders of an audit run, most special first where they lie in each other.

    folders   zone -> absolute, resolved folders
    """

    folders: Mapping[Zone, tuple[str, ...]]

    def place(self, path: str) -> tuple[Zone, str]:
        """(zone, what is told of the path)."""
        best: tuple[int, Zone, str] | None = None
        for zone, folders in self.folders.items():
            for folder in folders:
                inside = path == folder or path.startswith(folder.rstrip("/") + "/")
                if inside and (best is None or len(folder) > best[0]):
                    best = len(folder), zone, path[len(folder) :].lstrip("/")
        if best is not None:
            return best[1], best[2] or "."
        return "other", _tail(path)


def make_zones(
    *,
    data: tuple[str, ...],
    contest: tuple[str, ...],
    source: str,
    scratch: str,
    caches: tuple[str, ...],
    python: tuple[str, ...],
    home: str,
) -> Zones:
    """Zones of one audit. `contest` are folders a candidate has no business in: the baseline's
    source, other results, this bundle."""
    return Zones(
        {
            "data": data,
            "contest": contest,
            "source": (source,),
            "scratch": (scratch,),
            "cache": caches,
            "python": tuple(p for p in python if p not in ("/", "/usr")),
            "shm": SHARED_MEMORY,
            "temporary": TEMPORARY,
            "system": SYSTEM,
            "home": (home,) if home and home != "/" else (),
        }
    )


def _tail(path: str) -> str:
    parts = PurePosixPath(path).parts
    return "…/" + "/".join(parts[-SHOWN_PARTS:]) if len(parts) > SHOWN_PARTS else path
