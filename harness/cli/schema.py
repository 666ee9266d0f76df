"""`speedrun schema`: the JSON Schemas of every file in a bundle."""

from __future__ import annotations

from typing import Annotated

import typer


def schema(
    name: Annotated[
        str | None,
        typer.Argument(help="plan, ledger, verdict, environment, audit, rerun or track."),
    ] = None,
) -> None:
    """Print the JSON Schema of a bundle file, or of all."""
    from harness.errors import UsageError
    from harness.schemas import all_schemas
    from harness.terminal import Terminal

    schemas = all_schemas()
    if name is not None and name not in schemas:
        raise UsageError(f"no schema named {name!r}", fix=f"one of {', '.join(sorted(schemas))}")
    Terminal().json(schemas if name is None else schemas[name])
