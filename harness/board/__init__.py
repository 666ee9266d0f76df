"""The board: a static site from `results/`, every figure recomputed from the bundles' evidence."""

from __future__ import annotations

from harness.board.site import Site, build_site

__all__ = ["Site", "build_site"]
