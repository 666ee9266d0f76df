"""The arguments of a call, as values."""

from __future__ import annotations

import ast

from harness.scan.values import ANYTHING, Dict, Values, merge


class Arguments:
    """The arguments of one call, as values.

    open_positional, open_keywords   there is a `*` or `**` whose contents are not known
    rest                             what may be in the `*`
    places                           the expression behind each keyword, for positions
    """

    def __init__(self, node: ast.Call | None = None) -> None:
        self.node = node
        self.positional: list[Values] = []
        self.keywords: dict[str, Values] = {}
        self.places: dict[str, ast.AST] = {}
        self.rest: Values = ()
        self.open_positional = False
        self.open_keywords = False

    def keyword(self, name: str, values: Values, place: ast.AST) -> None:
        self.keywords[name] = merge(self.keywords.get(name, ()), values)
        self.places.setdefault(name, place)

    def at(self, place: int, name: str = "") -> Values:
        """The argument at a position or under a name; () if it is not given."""
        if place < len(self.positional):
            return self.positional[place]
        return self.keywords.get(name, self.rest)

    def as_dict(self) -> Dict:
        rest = ANYTHING if self.open_keywords else ()
        return Dict(dict(self.keywords), rest, dict(self.places))

    def after(self, args: tuple[Values, ...], keywords: Dict) -> Arguments:
        """These arguments behind others that were bound before."""
        both = Arguments(self.node)
        both.positional = [*args, *self.positional]
        for name, values in keywords.entries.items():
            if name not in self.keywords and isinstance(name, str):
                both.keywords[name] = values
                if name in keywords.places:
                    both.places[name] = keywords.places[name]
        both.keywords |= self.keywords
        both.places |= self.places
        both.rest, both.open_positional = self.rest, self.open_positional
        both.open_keywords = self.open_keywords or bool(keywords.rest)
        return both
