"""The board and the plain lines, at every state a series can be in."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from harness.bundle import Run
from harness.live_board import (
    BoardState,
    BoardWatcher,
    LineWatcher,
    minutes_left,
    render,
    result_text,
    runs_to_next_look,
    status_text,
)
from harness.logs import parse_result_line
from harness.looks import progress
from harness.plan import Plan
from harness.samples import take_samples
from harness.terminal import Terminal
from harness.watcher import Silent
from tests.support.series import fake_track, make_plan, make_run, make_series

TRACK = fake_track(expected_run_s="60.0")
LOSSES = [3.2701, 3.2705, 3.2695, 3.2702, 3.2698, 3.2703]
FAST = [76e3, 76.1e3, 75.9e3, 76.05e3, 75.95e3, 76.02e3]
SLOW = [80e3, 80.1e3, 79.9e3, 80.05e3, 79.95e3, 80.02e3]


def state_of(runs: list[Run], plan: Plan | None = None, **fields: Any) -> BoardState:
    plan = plan or make_plan()
    state = BoardState(plan, TRACK, tuple(runs), **fields)
    if runs:
        state.progress = progress(plan, TRACK, take_samples(plan, runs))
    return state


def shown(state: BoardState, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(render(state))
    return out.getvalue()


def series(n: int) -> list[Run]:
    return make_series(make_plan(), LOSSES[:n], FAST[:n], SLOW[:n])


def begin(state: BoardState, *lines: str) -> BoardState:
    state.begin("candidate-01", "candidate")
    for line in lines:
        point = parse_result_line(line)
        assert point is not None
        state.take(point)
    return state


def test_before_anything_has_run() -> None:
    text = shown(state_of([]))
    assert "speedrun fake: fake" in text
    # Warm-up pair and five counted pairs, a minute each.
    assert "about 12.0 to the next look" in text


def test_while_a_run_goes() -> None:
    state = begin(
        state_of([]),
        "step:0/1000 val_loss:10.8000 train_time:0ms step_avg:nanms",
        "step:10/1000 train_time:900ms step_avg:90.00ms",
        "step:250/1000 val_loss:5.1234 train_time:19000ms step_avg:76.00ms",
    )
    text = shown(state)
    for words in ("run 1 of 12", "candidate-01", "step 250/1000", "loss 5.1234", "clock 19.0 s"):
        assert words in text, text


def test_a_new_run_begins_with_nothing_of_the_last() -> None:
    state = begin(state_of([]), "step:250/1000 val_loss:5.1 train_time:19000ms step_avg:76.00ms")
    state.begin("baseline-01", "baseline")
    text = shown(state)
    assert "baseline-01" in text
    assert "5.1" not in text
    assert "19.0" not in text


def test_finished_pairs_with_ratio_and_the_warm_up_apart() -> None:
    text = shown(state_of(series(2)))
    assert "warm-up" in text
    assert "3.27010" in text
    assert "76.000 s" in text
    assert "0.9500" in text
    assert "first look after 5 counted candidate runs" in text


def test_half_a_pair_has_no_ratio() -> None:
    runs = series(2)[:-1]
    (line,) = [
        line for line in shown(state_of(runs)).splitlines() if line.strip(" │").startswith("2")
    ]
    assert "0.95" not in line


def test_after_the_first_look() -> None:
    text = shown(state_of(series(5)))
    assert "look at 5: loss p" in text
    assert "settled at run 5" in text
    assert "to the next look" not in text


def test_failures_and_losses_are_shown() -> None:
    runs = [*series(1), make_run("candidate", 2, state="failed", note="crash: \x1b[31mboom [/x]")]
    text = shown(state_of(runs))
    assert "failed" in text
    assert "1 unfinished" in text
    runs.append(make_run("candidate", 2, state="lost", attempt=2))
    assert "2 unfinished" in shown(state_of(runs))
    assert "\x1b" not in shown(state_of(runs))


def test_a_diverged_run_and_a_run_without_a_log() -> None:
    runs = [*series(1), make_run("candidate", 2, 3.27), make_run("baseline", 2, state="excluded")]
    assert "excluded" in shown(state_of(runs))
    assert result_text(make_run("candidate", 1, state="lost", note="killed")) == "lost: killed"


def test_exhibition_is_on_the_board() -> None:
    plan = make_plan(exhibition=("another target",))
    assert "EXHIBITION" in shown(state_of([], plan))
    assert "EXHIBITION" not in shown(state_of([]))


def test_the_newest_notes_are_shown_escaped() -> None:
    state = state_of([])
    state.notes += [f"note {i} \x1b[2J [/red]" for i in range(6)]
    text = shown(state)
    assert "note 5 \\x1b[2J [/red]" in text
    assert "note 1 " not in text


def test_a_name_with_markup_is_only_a_name() -> None:
    assert "[/red]x" in shown(state_of([], make_plan(name="[/red]x")))


@pytest.mark.parametrize("width", [20, 40, 80, 250])
def test_any_width(width: int) -> None:
    assert all(len(line) <= width for line in shown(state_of(series(5)), width).splitlines())


def test_twenty_pairs_show_the_last_twelve() -> None:
    plan = make_plan()
    runs = make_series(plan, [3.2795] * 20, [76e3] * 20, [80e3] * 20)
    text = shown(state_of(runs, plan))
    assert "warm-up" not in text
    assert sum(" 0.9500 " in line for line in text.splitlines()) == 12


# -- what is left --------------------------------------------------------------------------------


def test_runs_to_the_next_look() -> None:
    plan = make_plan()

    def left(runs: list[Run]) -> int:
        state = progress(plan, TRACK, take_samples(plan, runs)) if runs else None
        return runs_to_next_look(plan, state, tuple(runs))

    runs = series(5)
    assert [left(runs[:n]) for n in range(12)] == list(range(12, 0, -1))
    assert left(runs) == 0, "both claims are settled"
    # Timing settled, loss open: five more candidates.
    bad = make_series(plan, [loss + 0.011 for loss in LOSSES[:5]], FAST[:5], SLOW[:5])
    assert left(bad) == 5
    # Both open: five more pairs; the last look leaves nothing.
    even = make_series(plan, [loss + 0.011 for loss in LOSSES[:5]], SLOW[:5], SLOW[:5])
    assert left(even) == 10
    long = make_series(
        plan, [3.29 + i / 1e5 for i in range(20)], [80e3 + i for i in range(20)], [80e3] * 20
    )
    assert left(long) == 0
    # A failed run is still to be done.
    assert left([*runs[:4], make_run("candidate", 2, state="failed")]) == 8


def test_runs_to_the_next_look_without_a_warm_up_pair() -> None:
    plan = make_plan()
    plan = plan.model_copy(update={"pairs": plan.pairs[1:]})
    runs = series(5)[2:]

    def left(n: int) -> int:
        state = progress(plan, TRACK, take_samples(plan, runs[:n]))
        return runs_to_next_look(plan, state, tuple(runs[:n]))

    assert [left(n) for n in range(11)] == list(range(10, -1, -1))
    assert "run 1 of 10" in shown(begin(state_of([], plan)))


def test_minutes_come_from_the_runs_so_far() -> None:
    plan = make_plan()
    assert minutes_left(plan, None, (), TRACK) == 12.0
    runs = series(1)  # 90 s each
    state = progress(plan, TRACK, take_samples(plan, runs))
    assert minutes_left(plan, state, tuple(runs), TRACK) == 8 * 1.5


def test_status_names_bounds_and_what_is_settled() -> None:
    plan = make_plan()
    bad = make_series(plan, [loss + 0.011 for loss in LOSSES[:5]], FAST[:5], SLOW[:5])
    text = status_text(plan, progress(plan, TRACK, take_samples(plan, bad)))
    assert "(open)" in text
    assert "(settled at run 5)" in text
    assert "bounds 0.0031, 0.0031" in text


# -- lines ---------------------------------------------------------------------------------------


def test_one_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    plan, runs = make_plan(), series(5)
    with LineWatcher(Terminal(), BoardState(plan, TRACK)) as watcher:
        for i, run in enumerate(runs):
            watcher.run_started(run.run_id, run.arm, run.pair, run.counts)
            point = parse_result_line("step:250/1000 val_loss:5.1 train_time:1ms step_avg:1.00ms")
            assert point is not None
            watcher.point(point)
            so_far = tuple(runs[: i + 1])
            watcher.run_ended(run, progress(plan, TRACK, take_samples(plan, so_far)), so_far)
        watcher.note("stopping \x1b[2J")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 12 * 2 + 1 + 1
    first = runs[0].run_id
    assert lines[0] == f"{first}: started, about 12.0 min to the next look"
    assert lines[1].startswith(f"{first}: loss 3.30000  time 90.00")
    assert lines[1].endswith("(warm-up, does not count)")
    assert lines[-2].startswith("look at 5: ")
    assert lines[-1] == "stopping \\x1b[2J"


def test_a_failure_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan()
    run = make_run("candidate", 0, state="failed", note="crash: exit code 1; boom")
    with LineWatcher(Terminal(), BoardState(plan, TRACK)) as watcher:
        watcher.run_ended(run, progress(plan, TRACK, take_samples(plan, [run])), (run,))
    assert capsys.readouterr().err == "candidate-00: failed: crash: exit code 1; boom\n"


def test_the_board_as_a_watcher() -> None:
    out = io.StringIO()
    terminal = Terminal()
    terminal._console = Console(file=out, force_terminal=True, width=100)
    plan, runs = make_plan(), series(1)
    with BoardWatcher(terminal, BoardState(plan, TRACK)) as watcher:
        watcher.run_started("candidate-00", "candidate", 0, False)
        watcher.run_ended(runs[0], progress(plan, TRACK, take_samples(plan, runs)), tuple(runs))
        watcher.note("a note")
    text = out.getvalue()
    assert "a note" in text
    assert "warm-up" in text
    assert watcher.state.run_id == "", "no run is in progress when the board has ended"


def test_silence_is_a_watcher_too() -> None:
    quiet = Silent()
    quiet.run_started("a", "candidate", 0, False)
    quiet.note("x")
    run = make_run("candidate", 0)
    quiet.run_ended(run, progress(make_plan(), TRACK, take_samples(make_plan(), [run])), (run,))
