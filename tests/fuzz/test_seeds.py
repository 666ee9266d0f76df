"""The fuzz targets without a fuzzer: every seed, and crude mutations of it, keep the promises."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import fuzz_bundle, fuzz_ledger, fuzz_logs
from tests.fuzz.target import Target


@pytest.fixture
def targets(tmp_path: Path, accepted: Path) -> dict[str, Target]:
    folders = {name: tmp_path / name for name in ("logs", "ledger", "bundle")}
    for folder in folders.values():
        folder.mkdir()
    return {
        "logs": fuzz_logs.make_target(folders["logs"]),
        "ledger": fuzz_ledger.make_target(folders["ledger"]),
        "bundle": fuzz_bundle.make_target(folders["bundle"], accepted),
    }


@pytest.mark.parametrize(
    ("name", "fewest", "mutants"), [("logs", 7, 4), ("ledger", 100, 20), ("bundle", 64, 1)]
)
def test_every_seed(name: str, fewest: int, mutants: int, targets: dict[str, Target]) -> None:
    target = targets[name]
    assert len(target.seeds) >= fewest
    draw = random.Random(name)
    for data in target.seeds.values():
        target.one_input(data)
        for _ in range(mutants):
            target.one_input(mutated(data, draw))


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, cut out or doubled."""
    out = bytearray(data)
    for _ in range(draw.randrange(1, 4)):
        at, width = draw.randrange(len(out) + 1), draw.randrange(1, 9)
        what = draw.randrange(3)
        if what == 0:
            out[at : at + width] = draw.randbytes(width)
        elif what == 1:
            del out[at : at + width]
        else:
            out[at:at] = out[at : at + width]
    return bytes(out)


@pytest.mark.parametrize("data", [b"", b"\0", b"\4", b"\4\n\n", b"\xff\xff\xff\xff"])
def test_the_shortest_inputs(data: bytes, targets: dict[str, Target]) -> None:
    for target in targets.values():
        target.one_input(data)


def test_the_bundle_is_put_back_after_each_input(
    targets: dict[str, Target], tmp_path: Path
) -> None:
    root = next((tmp_path / "bundle" / "copy").iterdir())

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    before = contents()
    for data in list(targets["bundle"].seeds.values())[::5]:
        targets["bundle"].one_input(data)
    assert contents() == before
