"""A check: one statement about a submission, with its evidence and what to do about it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.plan import Record

Status = Literal["pass", "fail", "unproven", "warn", "skip"]


class Check(Record):
    """`unproven` is honest evidence and not enough of it; `fail` is a rule broken.

    A failing check fails the verdict; an unproven one makes it "not proven"; `warn` and `skip`
    are shown and change nothing.
    """

    id: str
    status: Status
    claim: str = Field(description="what is stated, one sentence")
    evidence: str = Field(description="the numbers behind it")
    remedy: str = Field(default="", description="what to do when it does not pass")
    rule: str = Field(default="", description="the rule it serves")
    details: tuple[str, ...] = Field(default=(), description="one line a finding: file, run, place")
