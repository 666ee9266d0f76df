"""A set of names written as one string of words."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """`words("a b")` is {"a", "b"}."""
    return frozenset(text.split())
