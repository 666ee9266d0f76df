"""Is a bundle's rule set the one that is in force? A bundle carries its own, whoever wrote it.

A track.toml with an easier target gives an honest "accepted" under rules that nobody agreed to. So
neither the board nor `promote` takes a record that was judged under others.
"""

from __future__ import annotations

from pathlib import Path

from harness.tracks.track import Track, parse_track, track_names, track_text

TRACK_FILES = "harness/tracks"
# What may differ without changing who wins: names, estimates, limits, the standing record's time.
FREE_FIELDS: dict[str, frozenset[str]] = {
    "contest": frozenset(
        {"title", "record_seconds", "record_name", "buffer_nats", "loss_per_100_steps_nats"}
    ),
    "hardware": frozenset({"reference_price_per_hour"}),
    "design": frozenset({"timeout_s", "stall_s", "expected_run_s"}),
}


def rules_in_force(name: str, repository: Path | None) -> Track | None:
    """The track of that name in the repository, else in this package; None if neither has one.

    Raises UsageError when the file is no track.
    """
    text = rules_text(name, repository)
    return None if text is None else parse_track(text, f"{TRACK_FILES}/{name}.toml")


def rules_text(name: str, repository: Path | None) -> str | None:
    """TOML of that track, as `rules_in_force` finds it."""
    if repository is not None and "/" not in name and "\\" not in name:
        path = repository / TRACK_FILES / f"{name}.toml"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return track_text(name) if name in track_names() else None


def differing_rules(judged_under: Track, in_force: Track | None) -> tuple[str, ...]:
    """Fields that decide and differ, as `contest.target_loss_nats: 3.3, in force 3.28`."""
    if in_force is None:
        return (f"track {judged_under.name}: no such track here",)
    theirs, ours = judged_under.model_dump(), in_force.model_dump()
    found = []
    sections = [name for name, value in ours.items() if isinstance(value, dict)]
    for section in sections:
        for field in sorted(ours[section]):
            if field in FREE_FIELDS.get(section, ()):
                continue
            if theirs[section][field] != ours[section][field]:
                found.append(
                    f"{section}.{field}: {theirs[section][field]}, in force {ours[section][field]}"
                )
    return tuple(found)


def known_tracks(repository: Path | None) -> tuple[str, ...]:
    """Names of all tracks of repository and package, sorted."""
    names = set(track_names())
    if repository is not None:
        names |= {path.stem for path in (repository / TRACK_FILES).glob("*.toml")}
    return tuple(sorted(names))
