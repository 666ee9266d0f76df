"""Properties: what was printed is read back; nothing else than LogError is ever raised."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import log_parser
from harness.errors import LogError
from harness.log_families import FAMILIES
from harness.log_lines import parse_result_line, plain_validations
from harness.logs import (
    parse_log,
    read_log,
)
from tests.support.result_lines import SEPARATOR, train, val


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_raise_nothing_but_log_errors(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.txt"
    path.write_bytes(data)
    error: LogError | None = None
    try:
        assert read_log(path)
    except LogError as caught:
        error = caught
    assert error is None or str(path) in error.where


FRAGMENTS = st.sampled_from(
    [
        "step:",
        "step:1/2 val_loss:3.2 train_time:1ms step_avg:1.00ms",
        "step:0/2 val_loss:nan train_time:0.5s",
        "step:2/2 train_time:9ms step_avg:4.50ms",
        "step:1/1 train_loss:3 train_time:9s step_avg:nanms",
        "s:1 tel:3.2",
        "s:1 trl:",
        SEPARATOR,
        "Running Python 3",
        "Running pytorch 2.4 compiled for CUDA 12",
        "trial:1/2 seed:3",
        "=== seed 1 start",
        "=== seed 1 exit_status=7 end",
        "peak memory allocated: 1 MiB",
        "Using seed=9",
        "GPU 0: X (UUID: y)",
        "|   0  NVIDIA X   On  | 00000000:61:00.0 Off |",
        "\x1b[0m",
        "\r",
        "\ud800",
        "Compiling model and warming up",
    ]
)


@given(st.lists(st.lists(st.one_of(FRAGMENTS, st.text(max_size=8)), max_size=3).map("".join)))
@settings(max_examples=300, deadline=None)
def test_arbitrary_lines_raise_nothing_but_log_errors(lines: list[str]) -> None:
    try:
        runs = parse_log(lines)
    except LogError:
        return
    assert [run.run_index for run in runs] == list(range(len(runs)))
    for run in runs:
        assert run.complete == (not run.gaps)
        assert run.family in FAMILIES


@given(
    total=st.integers(1, 60),
    every=st.integers(1, 20),
    runs=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    noise=st.lists(st.sampled_from(["", "74", "W0518 warning", "None"]), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_printed_runs_are_read_back(
    total: int, every: int, runs: int, seed: int, noise: list[str]
) -> None:
    draw = random.Random(seed)
    lines: list[str] = []
    expected: list[list[tuple[int, str, float]]] = []
    for _ in range(runs):
        points = []
        for step in range(total + 1):
            ms = step * 40 + draw.randrange(30)
            if step % every == 0 or step == total:
                loss = f"{draw.uniform(2, 11):.6f}"
                lines.append(val(step, loss, ms, total))
                points.append((step, loss, float(ms)))
            if step < total:
                lines.append(train(step + 1, ms + 30, total))
                lines += noise
        expected.append(points)
    parsed = parse_log(lines)
    assert [
        [(point.step, point.loss_text, point.train_ms) for point in run.validations]
        for run in parsed
    ] == expected
    assert all(len(run.train_points) == total for run in parsed)
    assert all(run.complete for run in parsed)


@st.composite
def result_lines(draw: st.DrawFn) -> list[str]:
    """Validations that mostly rise, as those of a run do; here and there something changes."""
    step, ms, lines = 0, 0, []
    odd = draw(st.booleans())
    for _ in range(draw(st.integers(1, 12))):
        step = max(0, step + draw(st.sampled_from([1, 1, 2, 1, 0, -3])))
        ms = max(0, ms + draw(st.sampled_from([10, 10, 0, 10, -15])))
        total = draw(st.sampled_from([99, 99, 99, 99, 98]))
        loss = draw(st.sampled_from(["3.2", "3.2", "3.1415", "nan" if odd else "3.3"]))
        unit = draw(st.sampled_from(["ms", "ms", "ms", "s" if odd else "ms"]))
        average = draw(st.sampled_from(["1.00", "2.50", "nan"]))
        lines.append(
            f"step:{step}/{total} val_loss:{loss} train_time:{ms}{unit} step_avg:{average}ms"
        )
        if draw(st.integers(0, 4)) == 0:
            lines.append(train(step + 1, ms, total))
        if odd and draw(st.integers(0, 9)) == 0:
            lines.append(draw(st.one_of(FRAGMENTS, st.sampled_from(lines))))
    return lines


@given(result_lines())
@settings(max_examples=600, deadline=None)
def test_reading_many_validations_at_once_changes_nothing(lines: list[str]) -> None:
    """Rising or falling steps and clocks, echoes, other totals, lines of another kind between."""

    def outcome(many_chars: int) -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(log_parser, "MANY_CHARS", many_chars)
            try:
                return repr(parse_log(lines))  # by text: no nan equals another
            except LogError as error:
                return str(error)

    assert outcome(-1) == outcome(1 << 40)


@given(result_lines().filter(lambda lines: all(" val_loss:" in line for line in lines)))
@settings(max_examples=200, deadline=None)
def test_plain_validations_are_those_of_each_line(lines: list[str]) -> None:
    found = plain_validations("".join("\n" + line for line in lines))
    plain = all("val_loss:nan" not in line and "ms step_avg" in line for line in lines)
    assert (found is not None) == plain
    if found is not None:
        assert found == [parse_result_line(line) for line in lines]
