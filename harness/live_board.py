"""The live board: what a person sees while a series runs, and the plain lines that replace it.

Both listen as a `Watcher`. The board redraws four times a second; without a terminal one line an
event is printed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.bundle import Run
from harness.logs import TrainPoint, Validation
from harness.looks import Progress
from harness.plan import ArmName, Plan
from harness.samples import final_loss, final_ms
from harness.terminal import Terminal, visible
from harness.tracks.track import Track

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(slots=True)
class BoardState:
    """Everything the board shows; changed by events, read by the renderer."""

    plan: Plan
    track: Track
    runs: tuple[Run, ...] = ()
    progress: Progress | None = None
    run_id: str = ""
    arm: ArmName | None = None
    run_started: float = 0.0
    begun: float = field(default_factory=time.monotonic)
    step: int = 0
    total_steps: int | None = None
    loss_nats: float | None = None
    train_ms: float | None = None
    notes: list[str] = field(default_factory=list)

    def take(self, point: Validation | TrainPoint) -> None:
        self.step = point.step
        if point.train_ms is not None:
            self.train_ms = point.train_ms
        if isinstance(point, Validation):
            self.loss_nats = point.loss_nats
            self.total_steps = point.total_steps or self.total_steps

    def begin(self, run_id: str, arm: ArmName) -> None:
        self.run_id, self.arm, self.run_started = run_id, arm, time.monotonic()
        self.step, self.total_steps, self.loss_nats, self.train_ms = 0, None, None, None


def runs_to_next_look(plan: Plan, progress: Progress | None, runs: tuple[Run, ...]) -> int:
    """Runs still to come before the next look, if nothing fails."""
    warm = sum(run.state in ("finished", "excluded") and not run.counts for run in runs)
    done = {(run.pair, run.arm) for run in runs if run.counts and run.state == "finished"}
    taken = progress.looks[-1].runs if progress is not None and progress.looks else 0
    ahead = [look for look in plan.design.looks if look > taken]
    if not ahead or (progress is not None and progress.over):
        return 0
    counted = [pair for pair in plan.pairs if pair.counts][: ahead[0]]
    arms = ("candidate",) if progress and progress.timing_decided else ("candidate", "baseline")
    still = sum((pair.index, arm) not in done for pair in counted for arm in arms)
    return max(0, plan.warm_up_runs - warm) + still


def minutes_left(
    plan: Plan, progress: Progress | None, runs: tuple[Run, ...], track: Track
) -> float:
    """Minutes to the next look, from the mean wall time of the runs so far."""
    walls = [run.wall_s for run in runs if run.wall_s is not None]
    mean_s = sum(walls) / len(walls) if walls else track.design.expected_run_s
    return runs_to_next_look(plan, progress, runs) * mean_s / 60


def result_text(run: Run) -> str:
    """One run's result in a phrase."""
    if run.state == "finished":
        warm = "" if run.counts else "  (warm-up, does not count)"
        return f"loss {final_loss(run):.5f}  time {final_ms(run) / 1e3:.3f} s{warm}"
    return f"{run.state}: {run.note}"


def status_text(plan: Plan, progress: Progress) -> str:
    """The running p of both claims after the last look."""
    if not progress.looks:
        return f"first look after {plan.design.looks[0]} counted candidate runs"
    look = progress.looks[-1]
    loss = f"settled at run {progress.loss_decided}" if progress.loss_decided else "open"
    timing = f"settled at run {progress.timing_decided}" if progress.timing_decided else "open"
    return (
        f"look at {look.runs}: loss p {look.loss_p:.2g} ({loss}), "
        f"timing p {look.timing_p:.2g} ({timing}); bounds {plan.design.loss_p:g}, "
        f"{plan.design.timing_p:g}"
    )


class LineWatcher:
    """One line an event, for pipes, CI and files."""

    def __init__(self, terminal: Terminal, state: BoardState) -> None:
        self.terminal = terminal
        self.state = state
        self._looks = 0

    def run_started(self, run_id: str, arm: ArmName, pair: int, counts: bool) -> None:
        self.state.begin(run_id, arm)
        left = minutes_left(self.state.plan, self.state.progress, self.state.runs, self.state.track)
        self.terminal.info(f"{run_id}: started, about {left:.1f} min to the next look")

    def point(self, point: Validation | TrainPoint) -> None:
        self.state.take(point)

    def run_ended(self, run: Run, progress: Progress, runs: tuple[Run, ...]) -> None:
        self.state.progress, self.state.runs = progress, runs
        self.terminal.info(f"{run.run_id}: {result_text(run)}")
        if len(progress.looks) > self._looks:
            self._looks = len(progress.looks)
            self.terminal.info(status_text(self.state.plan, progress))

    def note(self, text: str) -> None:
        self.terminal.warning(text)

    def __enter__(self) -> LineWatcher:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class BoardWatcher:
    """The live board on a terminal."""

    def __init__(self, terminal: Terminal, state: BoardState) -> None:
        from rich.live import Live

        self.terminal = terminal
        self.state = state
        self._live = Live(
            console=terminal.console,
            refresh_per_second=4,
            get_renderable=lambda: render(self.state),
            transient=False,
        )

    def run_started(self, run_id: str, arm: ArmName, pair: int, counts: bool) -> None:
        self.state.begin(run_id, arm)

    def point(self, point: Validation | TrainPoint) -> None:
        self.state.take(point)

    def run_ended(self, run: Run, progress: Progress, runs: tuple[Run, ...]) -> None:
        self.state.progress, self.state.runs, self.state.run_id = progress, runs, ""

    def note(self, text: str) -> None:
        self.state.notes.append(text)

    def __enter__(self) -> BoardWatcher:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.state.run_id = ""
        self._live.__exit__(*error)  # type: ignore[arg-type]


def render(state: BoardState) -> RenderableType:
    """The board: finished pairs, the run in progress, where the claims stand."""
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("pair", "candidate loss", "time", "baseline loss", "time", "ratio", ""):
        table.add_column(name, justify="left" if not name else "right")
    for pair in [p for p in state.plan.pairs if any(r.pair == p.index for r in state.runs)][-12:]:
        table.add_row(*_pair_cells(state, pair.index, pair.counts))
    parts: list[RenderableType] = [table] if table.row_count else []
    if state.run_id:
        parts.append(_current(state))
    if state.progress is not None:
        parts.append(Text(status_text(state.plan, state.progress), "bold"))
    left = minutes_left(state.plan, state.progress, state.runs, state.track)
    if left:
        elapsed = (time.monotonic() - state.begun) / 60
        parts.append(Text(f"{elapsed:.1f} min so far, about {left:.1f} to the next look", "dim"))
    parts += [Text(visible(note), "yellow") for note in state.notes[-4:]]
    title = f"speedrun {state.plan.track}: {state.plan.name}"
    if state.plan.exhibition:
        title += " — EXHIBITION"
    return Panel(Group(*parts), title=Text(visible(title)), title_align="left", border_style="dim")


def _pair_cells(state: BoardState, index: int, counts: bool) -> list[str]:
    latest = {
        arm: next((r for r in reversed(state.runs) if r.pair == index and r.arm == arm), None)
        for arm in ("candidate", "baseline")
    }
    cells = [str(index) if counts else "warm-up"]
    times = []
    for run in latest.values():
        if run is None:
            cells += ["", ""]
        elif run.state == "finished":
            cells += [f"{final_loss(run):.5f}", f"{final_ms(run) / 1e3:.3f} s"]
            times.append(final_ms(run))
        else:
            cells += [run.state, ""]
    cells.append(f"{times[0] / times[1]:.4f}" if len(times) == 2 and times[1] > 0 else "")
    bad = [run for run in state.runs if run.pair == index and run.state in ("failed", "lost")]
    cells.append(f"{len(bad)} unfinished" if bad else "")
    return cells


def _current(state: BoardState) -> RenderableType:
    from rich.columns import Columns
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    wanted = runs_to_next_look(state.plan, state.progress, state.runs)
    done = sum(run.state == "finished" for run in state.runs)
    text = Text(f"run {done + 1} of {done + wanted}  {state.run_id}  ", "cyan")
    if state.total_steps:
        text.append(f"step {state.step}/{state.total_steps}  ")
    if state.loss_nats is not None:
        text.append(f"loss {state.loss_nats:.4f}  ")
    if state.train_ms is not None:
        text.append(f"clock {state.train_ms / 1e3:.1f} s  ")
    text.append(f"wall {time.monotonic() - state.run_started:.0f} s")
    bar = ProgressBar(total=state.total_steps or 1, completed=state.step, width=24)
    return Columns([bar, text])
