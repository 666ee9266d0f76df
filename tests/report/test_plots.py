"""Plots: deterministic SVG, drawn from the right runs, described in words."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pytest

from harness.report import (
    plot_curves,
    plot_losses,
    plots,
    render_html,
    render_markdown,
    svg,
)
from harness.report.pairs import pair_times
from tests.report import cases
from tests.report.cases import CASES

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("case", CASES)
def test_every_case_draws_well_formed_svg_twice_the_same(case: str) -> None:
    first, second = (plots.render_plots(CASES[case]()) for _ in range(2))
    assert first == second
    for text in first.values():
        root = ET.fromstring(text)
        assert root.tag == f"{SVG}svg"
        assert root.find(f"{SVG}title") is not None
        assert root.find(f"{SVG}desc") is not None
        assert root.attrib["viewBox"].startswith("0 0 356.")
        assert "<metadata" not in text
        assert set(re.findall(r"https?://[^\"' ]+", text)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }


def test_the_same_bytes_in_another_process_with_another_style() -> None:
    """Neither the hash seed nor a user's matplotlibrc changes a byte."""
    program = (
        "import matplotlib, sys; matplotlib.rcParams['lines.linewidth'] = 9;"
        "matplotlib.rcParams['font.size'] = 30;"
        "from harness.report import plots; from tests.report import cases;"
        "sys.stdout.write(plots.render_plots(cases.accepted())['loss_curves'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == plots.render_plots(cases.accepted())["loss_curves"]


def test_nothing_to_draw_is_no_plot() -> None:
    names = {case: [p.name for p in plots.available(CASES[case]())] for case in CASES}
    assert names["no_runs"] == names["nothing_finished"] == []
    assert names["only_baseline"] == ["loss_curves", "final_losses"]
    assert names["without_curves"] == ["final_losses", "paired_times"]
    assert names["accepted"] == ["loss_curves", "final_losses", "paired_times"]


def test_pairs_are_the_verdicts_own() -> None:
    for case in ("accepted", "unfinished", "runs_failed", "record", "baseline_rests"):
        verdict = CASES[case]()
        ratios = [pair.ratio for pair in pair_times(verdict)]
        assert ratios == pytest.approx(list(verdict.timing.pair_ratios))
    pairs = pair_times(cases.runs_failed())
    assert [pair.pair for pair in pairs] == [1, 2, 3]


def test_curves_keep_only_finite_points() -> None:
    row = cases.not_a_number().runs[3]
    assert plot_curves.curve_points(row, by_time=True) == []
    row = cases.accepted().runs[0]
    assert row.curve is not None
    points = plot_curves.curve_points(row, by_time=True)
    assert len(points) == len(row.curve.steps)
    assert points[-1] == (row.curve.train_ms[-1] / 1000, row.curve.losses_nats[-1])  # type: ignore[operator]
    assert plot_curves.curve_points(row, by_time=False)[-1][0] == row.curve.steps[-1]


def test_the_frame_shows_the_target_and_every_end() -> None:
    curves = [[(0.0, 10.8), (1.0, 4.0), (3.0, 3.5), (4.0, 3.31)], [(0.0, 10.8), (4.0, 3.25)]]
    low, high = plot_curves._loss_limits(curves, 3.28)
    assert low < 3.25
    assert high > 10.8  # two points are too few to cut
    turned = [(0.0, 11.0), (100.0, 3.2), (900.0, 3.6), (1000.0, 3.7)]
    low, high = plot_curves._loss_limits([turned], 3.8)
    assert low < 3.2
    assert high > 3.8
    low, high = plot_curves._loss_limits(curves[:1], 3.28)
    assert low < 3.28
    assert 4.0 < high < 5.0


def test_the_interval_is_the_judged_bound() -> None:
    verdict = cases.accepted()
    interval = plot_losses.mean_interval(verdict, verdict.candidate)
    assert interval is not None
    assert interval[1] == verdict.loss.upper_bound
    assert sum(interval) / 2 == pytest.approx(verdict.loss.mean)
    baseline = plot_losses.mean_interval(verdict, verdict.baseline)
    sd, n = verdict.baseline.loss_sd, verdict.baseline.n
    assert baseline is not None
    assert sd is not None
    # 2.821438 is Student's t at .99 with 9 degrees of freedom, from any printed table.
    assert baseline[1] - baseline[0] == pytest.approx(2 * 2.821438 * sd / math.sqrt(n))
    assert plot_losses.mean_interval(cases.single(), cases.single().candidate) is None


def test_every_counted_run_is_drawn() -> None:
    text = plots.render_plots(cases.forty())["final_losses"]
    dots = len(re.findall(r"<use ", text))
    assert dots >= 40


def test_descriptions_hold_the_figures() -> None:
    verdict = cases.accepted()
    said = {plot.name: plot.describe(verdict) for plot in plots.PLOTS}
    assert "11 candidate runs and 11 baseline runs" in said["loss_curves"]
    assert f"{verdict.loss.mean:.5f}" in said["final_losses"]
    assert f"{verdict.loss.upper_bound:.5f}" in said["final_losses"]
    assert f"{verdict.timing.ratio:.4f}" in said["paired_times"]
    assert "against steps" in plot_curves.describe(cases.on_steps())


def test_inline_markup_is_themed_and_has_its_own_ids() -> None:
    text = plots.render_plots(cases.accepted())["paired_times"]
    inline = svg.inline_markup(text, "p")
    assert f"var(--plot-candidate, {svg.CANDIDATE})" in inline
    assert not re.search(r'\bid="(?!p-)', inline)
    assert not re.search(r'(?:url\(#|href="#)(?!p-)', inline)
    assert re.match(r"<svg[^>]*>", inline)
    opening = inline.split(">", 1)[0]
    assert " width=" not in opening
    assert 'aria-labelledby="p-title p-desc"' in opening


def test_every_colour_of_a_plot_has_a_variable_and_contrast() -> None:
    """3:1 against white and against near-black (WCAG 2.2, 1.4.11), for the files in README.md."""
    for text in plots.render_plots(cases.unfinished()).values():
        colours = set(re.findall(r"#[0-9a-f]{6}\b", text))
        assert colours <= set(svg.VARIABLES)
    for colour in (svg.INK, svg.CANDIDATE, svg.BASELINE, svg.TARGET):
        for ground in ("#ffffff", "#0d1117"):
            assert contrast(colour, ground) >= 3.0, (colour, ground)


def contrast(a: str, b: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_forty_runs_are_reported_in_under_three_seconds() -> None:
    verdict = cases.forty()
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        drawings = plots.render_plots(verdict)
        render_markdown(verdict)
        render_html(verdict, drawings=drawings)
        best = min(best, time.perf_counter() - start)
    assert best < 3.0


def test_the_package_imports_without_matplotlib_or_jinja() -> None:
    program = (
        "import sys, harness.report;"
        "heavy = {'matplotlib', 'jinja2', 'scipy', 'numpy', 'pandas', 'torch'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
