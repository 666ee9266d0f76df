"""What lies under results/ is what we publish: every bundle there still yields what it claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bundle import is_bundle
from harness.errors import EXIT_ACCEPTED, EXIT_NOT_PROVEN
from harness.verification import verify_bundle

RESULTS = Path(__file__).resolve().parents[1] / "results"
BUNDLES = sorted(folder for folder in RESULTS.iterdir() if folder.is_dir() and is_bundle(folder))


def test_there_is_one_to_look_at() -> None:
    assert BUNDLES


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_a_published_bundle_verifies(folder: Path) -> None:
    """And one without a verdict claims nothing: a series that was cut off, shown for its runs."""
    result = verify_bundle(folder)
    assert result.differences == ()
    claimed = (folder / "verdict.json").exists()
    assert result.exit_code == (EXIT_ACCEPTED if claimed else EXIT_NOT_PROVEN)
