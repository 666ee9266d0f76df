"""Any bytes as one file of an accepted bundle: read, judged, compared with the claim, reported.

First byte: low four bits name the file, bit 7 mends the chain behind it, as a careful cheat would.
Next two bytes: where the rest goes. Zero: it is the whole file; else it goes in there, at a place
wrapped around the file's length, and its own first byte says how much it replaces (low four bits).
"""

from __future__ import annotations

import json
from pathlib import Path

from harness.canonical import dumps
from harness.errors import SpeedrunError
from harness.report.html import render_html
from harness.report.markdown import render_markdown
from harness.verification import verify_bundle
from harness.vouching import who_vouches
from tests.fuzz.target import Target
from tests.support.tamper import Copy

FILES = (
    "plan.json", "ledger.jsonl", "track.toml", "environment.json", "verdict.json",
    "source/candidate/fake.py", "runs/candidate-01.log", "runs/candidate-01.times",
    "runs/candidate-01.gpu.csv", "runs/baseline-02.log", "audit/audit.json", "README.md",
    "signatures/owner.sig", "signatures/owner.sigstore.json", "runs/candidate-01.err",
    "source/baseline/fake.py",
)  # fmt: skip
CLAIMED = {"README.md", "signatures/owner.sig", "signatures/owner.sigstore.json"}
"""Files that are no evidence: the verdict does not hang on them."""


class BundleFuzz:
    """A copy of a bundle in which one file at a time is replaced, and put back."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.copy = Copy(bundle, folder)
        self.kept = {name: self._bytes(name) for name in FILES}
        self.ledger = self.copy.path("ledger.jsonl").read_bytes()

    def _bytes(self, name: str) -> bytes | None:
        path = self.copy.path(name)
        return path.read_bytes() if path.is_file() else None

    def one_input(self, data: bytes) -> None:
        if len(data) < 3:
            return
        name, mended = FILES[data[0] & 15], bool(data[0] & 128)
        before = self.kept[name]
        at = int.from_bytes(data[1:3], "little")
        changed = data[3:]
        if at and before:
            at %= len(before)
            width = changed[0] & 15 if changed else 0
            changed = before[:at] + changed[1:] + before[at + width :]
        path = self.copy.path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(changed)
        try:
            if mended:
                self._mend(name, changed)
            accepted = self._verify(name)
            same = path.read_bytes() == before and self.copy.path("ledger.jsonl").read_bytes() == (
                self.ledger
            )
            assert not accepted or same or name in CLAIMED, f"{name} changed, accepted"
        finally:
            if before is None:
                path.unlink()
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
            else:
                path.write_bytes(before)
            if mended:
                for other in ("plan.json", "ledger.jsonl"):
                    self.copy.path(other).write_bytes(self.kept[other] or b"")

    def _mend(self, name: str, changed: bytes) -> None:
        """Let the chain say that the file was always so. What is no JSON cannot be mended."""
        try:
            if name.startswith("runs/"):
                self.copy.rehash(name.split("/")[1].split(".")[0])
            elif name == "plan.json":
                plan = json.loads(changed)
                self.copy.replan(lambda _: None)
                self.copy.write("plan.json", dumps(plan))
            elif name == "ledger.jsonl":
                self.copy.rechain(lambda _: None)
        except (ValueError, RecursionError, AttributeError, TypeError):
            self.copy.path("ledger.jsonl").write_bytes(self.ledger)
            self.copy.path(name).write_bytes(changed)

    def _verify(self, name: str) -> bool:
        try:
            result = verify_bundle(self.copy.root)
        except SpeedrunError:
            return False
        assert result.exit_code in range(6)
        if name.startswith("signatures/"):
            who_vouches(self.copy.root, result.verdict)
        render_markdown(result.verdict, "fuzz")
        render_html(result.verdict, "fuzz", {})  # plots take a second
        return result.exit_code == 0


def make_target(folder: Path, bundle: Path | None = None) -> Target:
    """A target over a copy in `folder`; where no bundle is given, a short contest makes one."""
    if bundle is None:
        from tests.support.contest import Contest

        (folder / "contest").mkdir()
        contest = Contest(folder / "contest")
        done = contest.submit("--seed", "1")
        assert done.returncode == 0, done.stderr
        bundle = contest.bundle
    (folder / "copy").mkdir()
    fuzz = BundleFuzz(bundle, folder / "copy")
    seeds: dict[str, bytes] = {}
    for index, name in enumerate(FILES):
        text = fuzz.kept[name] or b"{}"
        for bits in (0, 128):
            seeds[f"{index:02d}-{bits}"] = bytes([index | bits, 0, 0]) + text
            for at in (40, 200, 900, 3000):
                piece = bytes([index | bits]) + at.to_bytes(2, "little") + b"\x029"
                seeds[f"{index:02d}-{bits}-at-{at}"] = piece
    return Target(fuzz.one_input, seeds)
