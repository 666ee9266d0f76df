"""Which of the field's log formats a file is in.

The formats grew with the scripts; nothing in a file names its own. `classify` decides from what was
seen. The family only matters for three things: the unit of time, whether the clock was reset after
ten steps (times before and after February 2025 do not compare), and whether a `peak memory` line
ends a finished log.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FAMILIES: dict[str, str] = {
    "A": "llm.c main log: `s:N tel:…`, no time",
    "B": "2024-10 to 2024-12: train_loss lines, clock reset after step 10",
    "C": "2024-12: PyTorch line first, clock reset after step 10",
    "D": "2024-12: `Running python` in lower case, peak memory at the end, clock reset",
    "E1": "2025-01: `Running Python`/`Running PyTorch`, clock reset after step 10",
    "E2": "2025-02 to 2025-12: as E1, clock never reset",
    "F": "2025-05 to 2025-07: a dump of the parameters before the first validation",
    "G": "2025, track 2: `Warmup step` lines, 6 decimals",
    "G2": "2025, track 2: inductor_output_code lines, 6 decimals",
    "H": "from 2025-12-26: warm-up banner (Compiling model, Resetting Model)",
    "P": "plain output of a script, milliseconds, no environment block",
    "T3a": "track 3: seconds, validations only",
    "T3a2": "track 3: seconds, with a line for every step",
    "T3b": "track 3: seconds, further fields on the validation line",
    "T3c": "track 3: source and one separator, no environment block",
    "T3d": "track 3: captured stdout, seconds, no source",
    "T3f": "track 3: seconds, `config` and `trial` headers",
}

END_MARKED = frozenset({"D", "E1", "E2", "F", "G", "G2", "H"})
"""Families whose finished logs end with a `peak memory` line."""


def describe_family(code: str) -> str:
    """One line in words; raises KeyError for a code that is none."""
    return FAMILIES[code]


@dataclass(slots=True)
class FamilyTraits:
    """What the parser saw.

    llmc           `s:` lines
    seconds        the clock is printed in seconds
    separator      a line of 100 `=` before the first result
    environment    that line is followed by `Running Py…`
    train_lines    lines for single steps; train_loss: such lines carry a loss
    extra_fields   unknown fields on a validation line
    trial_header   `trial:1/25 seed:0` or `config …`
    time_reset     the clock fell back within the first dozen steps
    """

    llmc: bool = False
    seconds: bool = False
    separator: bool = False
    environment: bool = False
    train_lines: bool = False
    train_loss: bool = False
    extra_fields: bool = False
    trial_header: bool = False
    time_reset: bool = False


def classify(traits: FamilyTraits, head: Iterable[str]) -> str:
    """The family's code, a key of FAMILIES."""
    if traits.llmc:
        return "A"
    if traits.seconds:
        return _track_3(traits)
    if not traits.environment:
        return "P"
    for index, line in enumerate(head):
        if index == 0 and line.startswith("Running pytorch"):
            return "B" if traits.train_loss else "C"
        if index == 0 and line.startswith("Running python"):
            return "D"
        if line.startswith("Compiling model and warming up"):
            return "H"
        if line.startswith("inductor_output_code:"):
            return "G2"
        if line.startswith("Warmup step "):
            return "G"
        if ": torch.Size([" in line or line.startswith("  Total parameters:"):
            return "F"
    return "E1" if traits.time_reset else "E2"


def _track_3(traits: FamilyTraits) -> str:
    if not traits.separator:
        return "T3d"
    if not traits.environment:
        return "T3c"
    if traits.trial_header:
        return "T3f"
    if traits.extra_fields:
        return "T3b"
    return "T3a2" if traits.train_lines else "T3a"
