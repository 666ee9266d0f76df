"""Bytes on their way: a bar in a terminal, a line a file elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.terminal import Terminal, visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ByteBar:
    """One bar over all bytes of a command, named after the file at hand; safe from threads."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self.started_s = time.monotonic()

    @contextmanager
    def over(self, total_bytes: int | None, what: str) -> Iterator[ByteBar]:
        """Show the bar for the length of the block; nothing where there is no terminal."""
        self.started_s = time.monotonic()
        if not self._terminal.interactive:
            yield self
            return
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._terminal.console, transient=True) as progress:
            self._progress = progress
            self._task = progress.add_task(what, total=total_bytes)
            try:
                yield self
            finally:
                self._progress = self._task = None

    def named(self, what: str) -> None:
        """Say which file is at hand."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=visible(what))

    def advance(self, count: int) -> None:
        """More bytes are done; negative where some must be done again."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._terminal.info(text)

    def warn(self, text: str) -> None:
        self._terminal.warning(text)


def megabytes(count: int) -> str:
    """1,234,567,890 -> '1.23 GB'; 200,001,024 -> '200.0 MB'; 900 -> '900 B'. Powers of ten."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.2f} GB"
    if count >= 1_000_000:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e3:.1f} kB" if count >= 1000 else f"{count} B"
