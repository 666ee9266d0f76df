"""`python -m tests.fuzz logs|ledger|bundle CORPUS [libFuzzer options]`: fuzz one reader.

With a file in place of the corpus: that one input, without a fuzzer.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
from pathlib import Path

from tests.fuzz.target import Target

TARGETS = ("logs", "ledger", "bundle")


def main() -> None:
    name, given = (*sys.argv[1:3], "", "")[:2]
    if name not in TARGETS or not given:
        sys.exit(__doc__)
    corpus = Path(given)
    if corpus.is_file():
        make(name, contextlib.nullcontext()).one_input(corpus.read_bytes())
        return
    import atheris

    corpus.mkdir(parents=True, exist_ok=True)
    # Our own mending and editing of inputs is code to be covered as well.
    watched = atheris.instrument_imports(include=["harness", "tests.fuzz"])
    target = make(name, watched, corpus)
    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[3:]], target.one_input)
    atheris.Fuzz()


def make(
    name: str, watched: contextlib.AbstractContextManager[object], corpus: Path | None = None
) -> Target:
    """The target, its readers imported under `watched`; its seeds go into the corpus."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    with watched:
        target: Target = importlib.import_module(f"tests.fuzz.fuzz_{name}").make_target(folder)
        for seed, data in target.seeds.items():
            if corpus is not None:
                (corpus / f"seed-{seed}").write_bytes(data)
                target.one_input(data)  # what the harness imports late is watched, too
    return target


if __name__ == "__main__":
    main()
