"""The report: README.md, report.html and plots, all from one verdict.

Everything is computed from the `Verdict` alone, so the same verdict gives the same bytes.
`story.tell` says what there is to say in plain text, the renderers only lay it out and escape it.
"""

from __future__ import annotations

from harness.report.html import render_html
from harness.report.markdown import render_markdown
from harness.report.write import write_report

__all__ = ["render_html", "render_markdown", "write_report"]
