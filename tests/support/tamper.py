"""Tools of a cheat: copies of a bundle with something changed, the chain mended where asked."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.bundle import read_bundle
from harness.canonical import dumps, dumps_line
from harness.report import render_markdown
from harness.verdict import judge, verdict_text
from harness.verdict_schema import Verdict
from harness.verification import Verification, verify_bundle

Line = dict[str, Any]


class Copy:
    """A copy of a bundle that may be doctored."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.root = folder / bundle.name
        shutil.copytree(bundle, self.root)

    def path(self, name: str) -> Path:
        return self.root / name

    def text(self, name: str) -> str:
        return self.path(name).read_bytes().decode()

    def write(self, name: str, text: str) -> None:
        self.path(name).write_bytes(text.encode())

    def edit(self, name: str, before: str, after: str) -> None:
        """Replace the first `before` in a file; it must be there."""
        text = self.text(name)
        assert before in text, (name, before)
        self.write(name, text.replace(before, after, 1))

    def events(self) -> list[Line]:
        return [json.loads(line) for line in self.text("ledger.jsonl").splitlines()]

    def write_lines(self, lines: list[str]) -> None:
        """The ledger, line by line, no chain recomputed."""
        self.write("ledger.jsonl", "".join(line + "\n" for line in lines))

    def rechain(self, change: Callable[[list[Line]], list[Line] | None]) -> None:
        """Change the events, then number and chain them anew, as a careful cheat would."""
        events = self.events()
        events = change(events) or events
        previous, lines = "0" * 64, []
        for seq, event in enumerate(events):
            event |= {"seq": seq, "previous_sha256": previous}
            lines.append(dumps_line(event))
            previous = hashlib.sha256(lines[-1].encode()).hexdigest()
        self.write_lines(lines)

    def rehash(self, *run_ids: str) -> None:
        """Record the files of these runs as they are now, in a chain that holds."""

        def change(events: list[Line]) -> None:
            for event in events:
                if event.get("run_id") in run_ids and "files" in event:
                    event["files"] = {
                        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                        for path in self.path("runs").glob(f"{event['run_id']}.*")
                    }

        self.rechain(change)

    def replan(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change plan.json and let the ledger begin with it, as if it had always been so."""
        plan = json.loads(self.text("plan.json"))
        change(plan)
        self.write("plan.json", dumps(plan))
        digest = hashlib.sha256(self.path("plan.json").read_bytes()).hexdigest()
        self.rechain(lambda events: events[0].update(plan_sha256=digest))

    def reclaim(self) -> None:
        """Write verdict and report anew, so that nothing claimed differs from the evidence."""
        verdict = self.judge()
        self.write("verdict.json", verdict_text(verdict))
        self.write("README.md", render_markdown(verdict, self.root.name))

    def judge(self) -> Verdict:
        return judge(read_bundle(self.root))

    def verify(self) -> Verification:
        return verify_bundle(self.root)

    def failing(self) -> dict[str, tuple[str, ...]]:
        """Failing checks of the recomputed verdict -> their details."""
        return {c.id: c.details for c in self.judge().checks if c.status == "fail"}
