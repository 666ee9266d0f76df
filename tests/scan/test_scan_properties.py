"""Whatever the text, the scan ends soon and raises nothing."""

from __future__ import annotations

import contextlib
import random
import re
import time
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.code_size import compare_code
from harness.scan.analysis import analyse
from harness.scan.contract import find_contract_hints
from harness.scan.scan import scan_baseline, scan_flags
from harness.scan.syntax import UnparsableError
from harness.source import Source
from harness.tracks.track import load_track
from tests.support.scripts import HONEST, honest_with

TRACK = load_track("small")
LIMIT_S = 10.0
EXPLOITS = Path(__file__).resolve().parents[1] / "exploits"
PIECES = re.findall(
    r"^        (.+)$",
    "\n".join(p.read_text(encoding="utf-8") for p in sorted(EXPLOITS.glob("test_flag_*.py"))),
    re.MULTILINE,
)
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


def look(text: str) -> None:
    """Everything that is done to a script without running it."""
    started = time.process_time()
    source = Source("script.py", {"script.py": text})
    for finding in (*scan_flags(source, TRACK), *scan_baseline(source)):
        assert finding.what
        assert finding.why
        assert finding.remedy
        assert finding.what.isprintable()
    find_contract_hints(analyse(source, TRACK.compile))
    with contextlib.suppress(UnparsableError):
        compare_code(source, Source("script.py", {"script.py": HONEST}))
    assert time.process_time() - started < LIMIT_S


@QUICK
@given(st.text(max_size=400))
@example("\x1b[2J = 1")
@example("def \u202e(): pass")
@example("a" + ".b" * 500 + "('step:1/1 val_loss:3.2 ')")
@example("def load_scorer(): 'SPEEDRUN_CHECKPOINT'\n" + "a" + "()" * 500)
@example("exec" + ".__call__" * 500 + "(a)")
@example("x = " + "-a" * 400)
@example("x = [" * 140 + "]" * 140)
@example("x = " + "a if b else " * 140 + "c")
@example("f'{x" + "+x" * 500 + "}'")
def test_any_text(text: str) -> None:
    look(text)


@QUICK
@given(st.integers(0, 2**32))
def test_mutated_scripts(seed: int) -> None:
    """Lines of cheats and of the honest script, shuffled, doubled, cut and joined."""
    draw = random.Random(seed)
    lines = HONEST.splitlines()
    for _ in range(draw.randint(1, 6)):
        lines.insert(draw.randrange(len(lines)), draw.choice(PIECES))
    for _ in range(draw.randint(0, 4)):
        i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
        lines[i], lines[j] = lines[j], lines[i]
    text = "\n".join(lines)
    if draw.random() < 0.3:
        cut = draw.randrange(len(text))
        text = text[:cut] + draw.choice(["", "(", "'", "\0", "\x1b", "=", "**"]) + text[cut:]
    look(text)


@QUICK
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12))
def test_pieces_of_cheats_together(pieces: list[str]) -> None:
    """Names that mean several things at once, rings, and unfinished statements."""
    look(honest_with("\n".join(pieces)))
    look("import torch, sys, os, time\n" + "\n".join(pieces))


NAMES = st.sampled_from(["a", "b", "c", "torch", "f", "getattr", "exec", "dict"])
EXPRESSIONS = st.recursive(
    st.one_of(NAMES, st.sampled_from(["'mode'", "1", "b'x'", "None", "[]", "{}", "''"])),
    lambda inner: st.one_of(
        st.builds("({} + {})".format, inner, inner),
        st.builds("({} * {})".format, inner, inner),
        st.builds("({} % {})".format, inner, inner),
        st.builds("{}({})".format, inner, inner),
        st.builds("{}(*{}, **{})".format, inner, inner, inner),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("{}.x".format, inner),
        st.builds("[{} for a in {}]".format, inner, inner),
        st.builds("{{{}: {}}}".format, inner, inner),
        st.builds("(lambda a: {})({})".format, inner, inner),
        st.builds("(a if {} else {})".format, inner, inner),
        st.builds("f'{{{}!r}}'".format, NAMES),
    ),
    max_leaves=12,
)
STATEMENTS = st.one_of(
    st.builds("{} = {}".format, NAMES, EXPRESSIONS),
    st.builds("{}.y = {}".format, EXPRESSIONS, EXPRESSIONS),
    st.builds("{}[{}] = {}".format, NAMES, EXPRESSIONS, EXPRESSIONS),
    st.builds("a += {}".format, EXPRESSIONS),
    st.builds("for {} in {}: pass".format, NAMES, EXPRESSIONS),
    st.builds("def f({}, *c, **b): return {}".format, st.just("a"), EXPRESSIONS),
    st.builds("exec({})".format, EXPRESSIONS),
    st.builds("setattr({}, {}, {})".format, EXPRESSIONS, EXPRESSIONS, EXPRESSIONS),
    st.builds("print(f'step:1/1 val_loss:{{{}}}')".format, NAMES),
)


@QUICK
@given(st.lists(STATEMENTS, min_size=1, max_size=10))
def test_any_small_program(statements: list[str]) -> None:
    look("\n".join(statements))
