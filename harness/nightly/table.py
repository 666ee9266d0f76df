"""`results/nightly/<track>.csv`: one row a run, and the only two ways to touch it.

`parse_table` reads, `append_rows` adds. A row that stands in the file is never rewritten: new rows
come after the old bytes, the file is replaced whole, and one writer at a time holds its folder.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.errors import UnfitError, UsageError
from harness.report.write import replace_file

LINE_LIMIT = 100_000
_PARTS = re.compile(r"(?:[a-z0-9_]+=[0-9.]+(?: |$))*")
_PAIRS = re.compile(r"(?:[^\s=]+=\S*(?: |$))*")


class NightlyRow(BaseModel):
    """One run of a night: the record, its warm-up, or the reference workload. Empty: not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    utc: str = Field(
        description="start of the run, ISO 8601, UTC", pattern=r"^\d{4}-\d\d-\d\dT[0-9:.]+Z$"
    )
    night: str = Field(description="folder with logs and environment", pattern=r"^[\w.-]{1,100}$")
    kind: Literal["record", "reference", "warm-up"] = Field(
        description="what ran; the warm-up is the record's first run, whose time never counts"
    )
    run: int = Field(ge=0, description="number within its kind, from 1")
    state: Literal["finished", "failed", "lost"] = Field(
        description="lost: stopped in the middle, by Ctrl-C"
    )
    counts: bool = Field(description="its time enters the night's figure: yes or no")
    note: str = Field(default="", max_length=400, description="why it failed or does not count")
    train_ms: float | None = Field(
        gt=0, description="training time; of the reference, the geometric mean of its parts"
    )
    loss_nats: float | None = Field(description="final validation loss of the record")
    steps: int | None = Field(ge=0, description="training steps of the record")
    parts_ms: str = Field(default="", description="parts of the reference: `gemm_bf16=1.25 copy=…`")
    wall_s: float | None = Field(ge=0, description="life of the process, start-up included")
    hardware_class: str = Field(min_length=1, max_length=200, description="series are kept by it")
    node_sha256: str = Field(description="equal on the same node, first 16 digits; names nothing")
    settings: str = Field(description="of the hardware: power limit, ECC, governor, firmware")
    source_sha256: str = Field(
        pattern=r"^[0-9a-f]{16}$", description="the code that ran, first 16 digits"
    )
    data_sha256: str = Field(description="all token shards, first 16 digits; of the record")
    commit: str = Field(description="of the repository, `+` after it when files differ from it")
    driver: str = Field(description="GPU driver")
    cuda_driver: str = Field(description="highest CUDA the driver carries")
    torch: str = Field(description="version")
    torch_cuda: str = Field(description="CUDA that torch was built for")
    triton: str = Field(description="version")
    fa3: str = Field(description="where FlashAttention-3 comes from, and its hash")
    python: str = Field(description="version")
    kernel: str = Field(description="of the operating system")
    libraries: str = Field(description="all other packages that timing depends on")
    harness: str = Field(description="version of speedrun")
    sm_clock_mean_mhz: float | None = Field(description="all GPUs, while busy")
    sm_clock_slowest_mhz: float | None = Field(description="mean of the slowest GPU")
    temp_max_c: float | None = Field(description="of the hottest GPU")
    power_mean_w: float | None = Field(description="per GPU, while busy")
    throttle: str = Field(description="reasons seen for lowered clocks")
    load_before: float | None = Field(description="1-minute load average before the run")

    @field_validator("parts_ms")
    @classmethod
    def _parts(cls, text: str) -> str:
        if not _PARTS.fullmatch(text) or not all(value > 0 for value in _numbers(text).values()):
            raise ValueError("parts are written as name=milliseconds, one space between")
        return text

    @field_validator("settings", "libraries")
    @classmethod
    def _pairs(cls, text: str) -> str:
        if not _PAIRS.fullmatch(text):
            raise ValueError("written as name=value, one space between")
        return text

    def parts(self) -> dict[str, float]:
        """Part of the reference -> ms."""
        return _numbers(self.parts_ms)


COLUMNS = tuple(NightlyRow.model_fields)


def _numbers(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in (p.split("=") for p in text.split())}


def pairs(text: str) -> dict[str, str]:
    """`name=value name=value` as a dict."""
    return dict(pair.split("=", 1) for pair in text.split())


def parse_table(text: str, where: str) -> tuple[NightlyRow, ...]:
    """Rows of a table, in the order they stand. Pure. Raises UsageError naming the line.

    A row that stands twice, as after a careless merge, is returned once.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    rows: dict[NightlyRow, None] = {}
    line = 1
    try:
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise ValueError(_header_problem(header))
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                rows[_row(cells)] = None
            line = reader.line_num + 1
    except (ValueError, csv.Error) as error:
        raise UsageError(
            "a nightly table breaks its form",
            where=f"{where}:{line}",
            why=_reason(error),
            fix="restore it as `speedrun retime` wrote it (git log -p shows which edit broke it)",
        ) from None
    return tuple(rows)


def _header_problem(header: list[str]) -> str:
    lacking = [name for name in COLUMNS if name not in header]
    unknown = [name[:40] for name in header if name not in COLUMNS]
    if lacking or unknown:
        return "the header " + " and ".join(
            f"{word} {', '.join(names[:4])}"
            for word, names in (("lacks", lacking), ("has unknown", unknown))
            if names
        )
    return "the header's columns are in another order"


def _row(cells: list[str]) -> NightlyRow:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} cells instead of {len(COLUMNS)}")
    if max(map(len, cells)) > LINE_LIMIT:
        raise ValueError("a cell is longer than any value")
    values: dict[str, Any] = dict(zip(COLUMNS, cells, strict=True))
    for name, field in NightlyRow.model_fields.items():
        if values[name] == "" and field.annotation not in (str, bool):
            values[name] = None
    return NightlyRow.model_validate(values)


def _reason(error: ValueError | csv.Error) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


def format_rows(rows: Sequence[NightlyRow]) -> str:
    """Lines of the table, without its header."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        values = row.model_dump()
        writer.writerow(_cell(values[name]) for name in COLUMNS)
    return out.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def read_table(path: Path) -> tuple[NightlyRow, ...]:
    """Rows of a table file; none if there is no file. Raises UsageError."""
    return parse_table(_text(path), str(path)) if path.exists() else ()


def _text(path: Path) -> str:
    try:
        # bytes: a newline stays what it is.
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "a nightly table cannot be read",
            where=str(path),
            why=getattr(error, "strerror", None) or "it is not UTF-8 text",
            fix="restore it as `speedrun retime` wrote it",
        ) from None


def append_rows(path: Path, rows: Sequence[NightlyRow]) -> None:
    """Add rows after what stands in the file, all or none; make the file if there is none.

    Raises UsageError when the file is no nightly table (it is left as it is), UnfitError when it
    cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # The folder is locked, not the file: the file is replaced, and a lock goes with it.
            fcntl.flock(folder, fcntl.LOCK_EX)
            before = _text(path) if path.exists() else ",".join(COLUMNS) + "\n"
            parse_table(before, str(path))
            if not before.endswith("\n"):
                before += "\n"
            replace_file(path, before + format_rows(rows))
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UnfitError(
            "the nightly table cannot be written",
            where=str(path),
            why=str(error.strerror or error),
            fix="make room or choose another folder with --out; what stood in it still does",
        ) from None
