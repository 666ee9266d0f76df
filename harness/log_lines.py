"""One line of a run's output: a validation, a timed training step, or neither.

Three dialects print results:

    step:1390/1390 val_loss:3.2775 train_time:79532ms step_avg:57.22ms      milliseconds
    step:3350/3350 val_loss:3.27839 train_time:496.855s step_avg:146.79ms   seconds
    s:9536 tel:3.275959                                                     llm.c: no time, no total

Only lines that *begin* this way count. Scripts, wrappers and sources print `val_loss:` and `step:`
in many other places (`tailavg step:2740 … val_loss:3.28226`, f-strings), and none is a result.
"""

from __future__ import annotations

import re
from itertools import repeat
from typing import NamedTuple


class Validation(NamedTuple):
    """One validation. A named tuple, as the next: some logs have thousands, and little else.

    step          optimizer steps done
    total_steps   steps of the whole run as the line states them; None in llm.c's dialect
    loss_text     the loss as printed, all its decimals; "nan" and "inf" are kept
    loss_nats     its value
    train_ms      training clock, milliseconds, validation excluded; None if not printed
    step_avg_ms   as printed; None where absent or nan. Not train_ms/step in every dialect
    other_losses  (name, text) of every loss on a line that prints more than one
    extra_fields  what follows the known fields, as printed ("handoff:none")
    """

    step: int
    total_steps: int | None
    loss_text: str
    loss_nats: float
    train_ms: float | None
    step_avg_ms: float | None
    other_losses: tuple[tuple[str, str], ...] = ()
    extra_fields: tuple[str, ...] = ()


class TrainPoint(NamedTuple):
    """The training clock after one step: steps done, milliseconds.

    A named tuple, not a dataclass: a log has thousands, and this builds three times faster.
    """

    step: int
    train_ms: float


ANSI_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
"""CSI sequences (colours, cursor), OSC sequences (titles) and two-byte escapes of ECMA-48."""

_TRAIN_BODY = (
    r"step:([0-9]{1,12})/([0-9]{1,12})(?: train_loss:[^ \n]{1,40})?"
    r" train_time:([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s)(?: step_avg:[^ \n]{1,40})?"
)
_match_train_line = re.compile(_TRAIN_BODY + r"\Z").match
_VALIDATION_BODY = (
    r"step:([0-9]{1,12})/([0-9]{1,12}) val_loss:([0-9]{1,9}\.[0-9]{1,20})"
    r" train_time:([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s)"
    r" step_avg:(?:nan|([0-9]{1,15}\.[0-9]{1,9}))ms"
)
_match_validation_line = re.compile(_VALIDATION_BODY + r"\Z").match
_find_validation_lines = re.compile("\n" + _VALIDATION_BODY + "(?=\n|\\Z)").findall

split_train_lines = re.compile("\n" + _TRAIN_BODY + "(?=\n|\\Z)").split
"""Cut text at its plain training lines: [text, step, total, time, unit, text, step, …].

Nine lines of ten in a log are of this kind, and one call for all is twice as fast as one a line.
Every line, the first too, must be preceded by a newline.
"""

_STEP = re.compile(r"step:([0-9]{1,12})/([0-9]{1,12})[ \t]+(.*)")
_LLMC = re.compile(r"s:([0-9]{1,12}) tel:(\S{1,40})\s*\Z")
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:e[+-]?[0-9]{1,3})?\Z"
    r"|[+-]?(?:nan|inf|infinity)\Z",
    re.IGNORECASE,
)
_TIME = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,9})?)(ms|s)\Z")
_KNOWN_FIELDS = frozenset({"val_loss", "train_loss", "train_time", "step_avg"})


def plain_validations(text: str) -> list[Validation] | None:
    """Every line of `text` as a validation, or None if one of them is none or in seconds.

    Each line, the first too, must be preceded by a newline. Twice as fast as one line at a time.
    """
    rows = _find_validation_lines(text)
    if len(rows) != text.count("\n"):
        return None
    steps, totals, losses, times, units, averages = zip(*rows, strict=True)
    if set(units) != {"ms"}:
        return None
    columns = zip(
        map(int, steps),
        map(int, totals),
        losses,
        map(float, losses),
        map(float, times),
        [float(average) if average else None for average in averages],
        repeat(()),
        repeat(()),
    )
    return list(map(tuple.__new__, repeat(Validation), columns))


def milliseconds(text: str, unit: str) -> float:
    """Value of `text` in ms; seconds scale in the exponent, so 496.855 s is 496855.0 exactly."""
    return float(text) if unit == "ms" else float(text + "e3")


def parse_result_line(line: str) -> Validation | TrainPoint | None:
    """What one line of output says; None for every line that is no result. Never raises.

    A track-3 line may print several losses (`val_loss:3.28240 … val_ema_loss:3.27835`). There the
    claim rests on the averaged weights, so `loss_text` is `val_ema_loss`; `other_losses` has all.
    In milliseconds (every other track) `val_loss` alone is the result.
    """
    if line[-1:].isspace() or "\x1b" in line:
        line = ANSI_ESCAPE.sub("", line).rstrip()
    if (validation := _match_validation_line(line)) is not None:
        step, total, loss, time, unit, average = validation.groups()
        return Validation(
            int(step),
            int(total),
            loss,
            float(loss),
            milliseconds(time, unit),
            None if average is None else float(average),
        )
    if (train := _match_train_line(line)) is not None:
        return TrainPoint(int(train[1]), milliseconds(train[3], train[4]))
    if line.startswith("s:"):
        return _llmc_validation(line)
    matched = _STEP.match(line)
    if matched is None:
        return None
    return _step_result(int(matched[1]), int(matched[2]), matched[3].split())


def _llmc_validation(line: str) -> Validation | None:
    matched = _LLMC.match(line)
    if matched is None or _NUMBER.match(matched[2]) is None:
        return None
    return Validation(int(matched[1]), None, matched[2], float(matched[2]), None, None)


def _step_result(step: int, total: int, tokens: list[str]) -> Validation | TrainPoint | None:
    fields: dict[str, str] = {}
    extra: list[str] = []
    for token in tokens:
        name, colon, value = token.partition(":")
        if colon and name not in fields:
            fields[name] = value
        if name not in _KNOWN_FIELDS and not (name.startswith("val_") and name.endswith("_loss")):
            extra.append(token)
    train_ms: float | None = None
    seconds = False
    if "train_time" in fields:
        time = _TIME.match(fields["train_time"])
        if time is None:
            return None
        train_ms = milliseconds(time[1], time[2])
        seconds = time[2] == "s"
    losses = [(n, v) for n, v in fields.items() if n.startswith("val_") and n.endswith("loss")]
    if "val_loss" not in fields:
        # A line with another val_…_loss only is a statistic of the script's own.
        return None if train_ms is None or losses else TrainPoint(step, train_ms)
    if not all(_NUMBER.match(text) for _, text in losses):
        return None
    claimed = "val_ema_loss" if seconds and "val_ema_loss" in fields else "val_loss"
    loss_text = fields[claimed]
    return Validation(
        step,
        total,
        loss_text,
        float(loss_text),
        train_ms,
        _step_average(fields.get("step_avg", "")),
        tuple(losses) if len(losses) > 1 else (),
        tuple(extra),
    )


def _step_average(text: str) -> float | None:
    matched = _TIME.match(text)
    return None if matched is None else milliseconds(matched[1], matched[2])
