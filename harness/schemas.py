"""JSON Schemas of everything a bundle holds, made from the models themselves."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from harness.audit_report import AuditReport
from harness.environment import Environment
from harness.ledger import Event
from harness.plan import Plan
from harness.pooling import Pooled
from harness.tracks.track import Track
from harness.verdict_schema import Verdict


def all_schemas() -> dict[str, dict[str, Any]]:
    """File name stem -> JSON Schema (2020-12). `ledger` describes one line."""
    ledger: TypeAdapter[Event] = TypeAdapter(Event)
    return {
        "audit": AuditReport.model_json_schema(),
        "environment": Environment.model_json_schema(),
        "ledger": ledger.json_schema(),
        "plan": Plan.model_json_schema(),
        "rerun": Pooled.model_json_schema(),
        "track": Track.model_json_schema(),
        "verdict": Verdict.model_json_schema(),
    }
