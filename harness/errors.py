"""The one exception tree, and the exit code each branch ends in.

SpeedrunError                 base: what, where, why, how to fix
├── UsageError          (2)   bad arguments, a missing file
│   └── LogError        (2)   a file that cannot be read as a run log
├── EvidenceError       (3)   evidence that contradicts itself: edited, missing, malformed
├── UnfitError          (4)   the environment cannot carry the contest: GPUs, data, interpreter
└── RunsFailedError     (5)   runs crashed, hung or diverged; the evidence is incomplete

Exit codes are part of the interface (see docs/architecture.md): 0 accepted, 1 not proven,
2 usage, 3 a rule is broken, 4 unfit environment, 5 runs failed, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

EXIT_ACCEPTED = 0
EXIT_NOT_PROVEN = 1
EXIT_USAGE = 2
EXIT_RULE_BROKEN = 3
EXIT_UNFIT = 4
EXIT_RUNS_FAILED = 5
EXIT_INTERRUPTED = 130


class SpeedrunError(Exception):
    """A failure a person can act on.

    what   one sentence: what went wrong
    where  file, line, option or run it concerns
    why    the reason, with the value met
    fix    what to do about it
    """

    exit_code = EXIT_USAGE

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        parts = [self.what]
        parts += [f"where: {self.where}"] if self.where else []
        parts += [f"why: {self.why}"] if self.why else []
        parts += [f"fix: {self.fix}"] if self.fix else []
        return "\n  ".join(parts)


class UsageError(SpeedrunError):
    """Bad arguments or a missing file."""

    exit_code = EXIT_USAGE


class LogError(UsageError):
    """A file that cannot be read as a run log (empty, binary, no result lines, too long a line)."""


class EvidenceError(SpeedrunError):
    """Evidence that contradicts itself: an edited log, a broken chain, a malformed file."""

    exit_code = EXIT_RULE_BROKEN


class UnfitError(SpeedrunError):
    """The environment cannot carry the contest; raised before money is spent where possible."""

    exit_code = EXIT_UNFIT


class RunsFailedError(SpeedrunError):
    """Runs crashed, hung or diverged, so the evidence is incomplete."""

    exit_code = EXIT_RUNS_FAILED
