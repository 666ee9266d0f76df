"""What the compiler was told, from the shim's notes and its untouched configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.audit_notes import TEXTS_LIMIT, RankNotes, as_dict, as_text
from harness.audit_report import CompilerFacts


def compiler_facts(
    ranks: Iterable[RankNotes], defaults: Mapping[str, Mapping[str, str]]
) -> CompilerFacts:
    """torch.compile's arguments and every configuration value that is not the untouched one."""
    kwargs: list[dict[str, str]] = []
    values: dict[str, list[str]] = {}
    patches: dict[str, str] = {}
    variables: dict[str, str] = {}
    for rank in ranks:
        for note in rank.of("compile"):
            told = {as_text(n, 60): as_text(v, 200) for n, v in as_dict(note.get("kwargs")).items()}
            if told not in kwargs and len(kwargs) < TEXTS_LIMIT:
                kwargs.append(told)
        for note in rank.of("config"):
            module = as_text(note.get("module"), 60)
            untouched = defaults.get(module)
            for name, value in as_dict(note.get("values")).items():
                key = f"{module}.{as_text(name, 100)}"
                if untouched is None or untouched.get(name, value) == value:
                    continue
                seen = values.setdefault(key, [untouched[name]])
                if as_text(value) not in seen and len(seen) < 10:
                    seen.append(as_text(value))
        for note in rank.of("patches"):
            patches |= {
                as_text(n, 100): as_text(v, 200) for n, v in as_dict(note.get("values")).items()
            }
        for note in rank.of("putenv"):
            name = as_text(note.get("name"), 100)
            # torch itself writes down where its cache is.
            if not name.endswith("_CACHE_DIR"):
                variables[name] = as_text(note.get("value"), 200)
    return CompilerFacts(
        compile_kwargs=tuple(kwargs),
        config={name: tuple(seen) for name, seen in sorted(values.items())},
        patches=patches,
        variables=variables,
    )


def has_config(ranks: Iterable[RankNotes]) -> bool:
    return any(rank.of("config") for rank in ranks)
