"""`speedrun sign`: vouch for a bundle with an SSH key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sign(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    key: Annotated[
        Path | None,
        typer.Option(
            help="Private SSH key, or the .pub of a key in your agent; default: git's "
            "user.signingkey, else the first in ~/.ssh."
        ),
    ] = None,
    identity: Annotated[
        str, typer.Option(help="Whose signature it is, you@host; default: git's user.email.")
    ] = "",
    statement: Annotated[
        bool,
        typer.Option("--statement", help="Print what would be signed, to sign it elsewhere."),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Vouch for a bundle: sign its digest with ssh-keygen, after judging it again.

    The signature lies in the bundle, under signatures/, and changes no digest. Refuses a bundle
    whose claimed verdict does not follow from its evidence.
    """
    from harness.signing import digest_to_sign, sign_bundle
    from harness.terminal import Terminal
    from harness.vouching import statement as statement_of

    terminal = Terminal()
    path: Path | None = None
    if statement:
        digest = digest_to_sign(bundle)
    else:
        path, digest = sign_bundle(bundle, key, identity)
        terminal.info(f"signed   {path}")
        terminal.info(f"verify   speedrun verify {bundle}")
    text = statement_of(digest).decode()
    if json_:
        file = None if path is None else str(path)
        terminal.json({"digest": digest, "statement": text, "file": file})
    elif statement:
        terminal.data(text)
