"""The tree of errors and the exit code of each branch."""

from __future__ import annotations

import inspect

import pytest

from harness import errors
from harness.errors import SpeedrunError
from harness.verdict_schema import EXIT_CODES


def tree(kind: type[SpeedrunError]) -> list[type[SpeedrunError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in tree(child))]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UsageError, 2),
        (errors.LogError, 2),
        (errors.EvidenceError, 3),
        (errors.UnfitError, 4),
        (errors.RunsFailedError, 5),
    ],
)
def test_exit_codes(kind: type[SpeedrunError], code: int) -> None:
    assert kind("x").exit_code == code


def test_every_exception_of_the_module_is_in_the_tree_and_in_its_picture() -> None:
    kinds = [k for _, k in inspect.getmembers(errors, inspect.isclass) if k is not SpeedrunError]
    assert set(kinds) <= set(tree(SpeedrunError))
    assert issubclass(errors.LogError, errors.UsageError)
    assert errors.__doc__ is not None
    for kind in kinds:
        assert kind.__name__ in errors.__doc__
        assert f"({kind('x').exit_code})" in errors.__doc__


def test_decisions_and_errors_share_their_codes() -> None:
    assert EXIT_CODES == {
        "accepted": 0,
        "not_proven": 1,
        "rule_broken": 3,
        "unfit": 4,
        "runs_failed": 5,
    }
    assert errors.EXIT_USAGE == 2
    assert errors.EXIT_INTERRUPTED == 130


def test_message_says_what_where_why_and_how_to_fix() -> None:
    error = errors.UnfitError("no room", where="/disk", why="1 MiB free", fix="make room")
    assert str(error) == "no room\n  where: /disk\n  why: 1 MiB free\n  fix: make room"
    assert str(errors.UsageError("only this")) == "only this"
