"""README.md: every figure is there, the decision comes first, nothing passes after a failure."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from harness.report import formats as fmt
from harness.report import render_markdown, write_report
from harness.report.escape import inline
from tests.report import cases, verdicts
from tests.report.cases import CASES


def section(text: str, heading: str) -> str:
    """The part of a README under one `## heading`."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"no section {heading}"
    return found[1]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split(" | ")]


@pytest.mark.parametrize("case", CASES)
def test_every_case_renders_the_same_bytes_twice(case: str) -> None:
    first = render_markdown(CASES[case]())
    assert first == render_markdown(CASES[case]())
    assert first.startswith("# ")
    assert first.endswith("\n")
    assert "None" not in first
    assert not re.search(
        r"\b(nan|inf)\b", first.replace('float("nan")', "").replace('float("inf")', "")
    )
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", first)


def test_golden() -> None:
    """A difference is meant? `python -m tests.report.cases` writes the file anew."""
    assert render_markdown(cases.golden()) == cases.GOLDEN.read_text(encoding="utf-8")


def test_the_title_is_the_fields_own() -> None:
    verdict = cases.accepted()
    saved, ratio = verdict.timing.saved_ms, verdict.timing.ratio
    mean = verdict.candidate.time_mean_ms
    assert saved is not None
    assert ratio is not None
    assert mean is not None
    title = render_markdown(verdict).splitlines()[0]
    expected = f"{mean / 1000:.2f} s: muon-tiny (−{saved / 1000:.2f} s, −{100 * (1 - ratio):.1f} %)"
    assert title == f"# New record {expected}"


@pytest.mark.parametrize(
    ("case", "title"),
    [
        ("not_proven", "# Not proven: muon-tiny (−0.013 s, −0.21 %)"),
        ("rule_broken", "# Rule broken: muon-tiny (data)"),
        ("runs_failed", "# Runs failed: muon-tiny"),
        ("no_runs", "# Environment unfit: muon-tiny"),
        ("on_steps", "# New record 350 steps: muon-tiny (−150 steps, −30.0 %)"),
        ("exhibition", "# Exhibition 86.23 s: muon-tiny (−0.51 s, −0.59 %)"),
    ],
)
def test_other_titles(case: str, title: str) -> None:
    assert render_markdown(CASES[case]()).splitlines()[0] == title


def test_the_result_table_holds_every_figure() -> None:
    verdict = cases.accepted()
    base, cand = verdict.baseline, verdict.candidate
    rows = [r for r in section(render_markdown(verdict), "Result").splitlines() if r[:1] == "|"]
    head, _, first, second = (cells(row) for row in rows)
    assert head[:3] == ["arm", "runs", "steps"]
    assert None not in (base.time_mean_ms, base.loss_mean, cand.time_mean_ms, cand.loss_mean)
    assert first == [
        "baseline",
        "10",
        "500",
        f"{base.time_mean_ms / 1000:.4f}",  # type: ignore[operator]
        f"{base.time_sd_ms / 1000:.4f}",  # type: ignore[operator]
        "–",
        "–",
        f"{base.loss_mean:.5f}",
        f"{base.loss_sd:.5f}",
        "–",
        fmt.p_value(base.loss_p),
    ]
    time = (cand.time_mean_ms - base.time_mean_ms) / 1000  # type: ignore[operator]
    loss = cand.loss_mean - base.loss_mean  # type: ignore[operator]
    assert second == [
        "candidate",
        "10",
        "350",
        f"{cand.time_mean_ms / 1000:.4f}",  # type: ignore[operator]
        f"{cand.time_sd_ms / 1000:.4f}",  # type: ignore[operator]
        f"−{-time:.4f}",
        f"{verdict.timing.welch_p:.2e}",
        f"{cand.loss_mean:.5f}",
        f"{cand.loss_sd:.5f}",
        f"−{-loss:.5f}",
        fmt.p_value(cand.loss_p),
    ]


@pytest.mark.parametrize(
    "case", ["accepted", "not_proven", "record", "unfinished", "rule_broken", "baseline_rests"]
)
def test_the_pasted_python_prints_what_it_says(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = CASES[case]()
    code = re.search(r"```python\n(.*?)```", render_markdown(verdict), re.DOTALL)
    assert code
    names: dict[str, list[float]] = {}
    exec(code[1], names)
    printed = re.findall(r"pvalue=np\.float64\(([^)]+)\)", capsys.readouterr().out)
    claimed = re.findall(r"^# p=(\S+)", code[1], re.MULTILINE)
    assert len(printed) == len(claimed) == 3
    for ours, scipys in zip(claimed, printed, strict=True):
        assert float(ours) == pytest.approx(float(scipys), rel=6e-3)
    assert tuple(names["candidate_losses"]) == verdict.candidate.losses_nats
    assert names["baseline_times"] == pytest.approx([t / 1000 for t in verdict.baseline.train_ms])
    std, mean = re.search(r"std=(\S+)  mean=(\S+)", code[1]).groups()  # type: ignore[union-attr]
    losses = names["candidate_losses"]
    assert float(mean) == pytest.approx(sum(losses) / len(losses), abs=5.1e-6)
    assert float(std) == pytest.approx(verdict.candidate.loss_sd, abs=5.1e-6)


def test_both_p_values_stand_with_what_they_mean() -> None:
    verdict = cases.accepted()
    loss = section(render_markdown(verdict), "Loss")
    assert f"**Rule p: {fmt.p_value(verdict.loss.rule_p)}** — the track's own test" in loss
    assert f"**Design p: {fmt.p_value(verdict.loss.design_p)}** — the p of the whole" in loss
    assert f"**Look p: {fmt.p_value(verdict.loss.look_p)}** — the same test at the look" in loss
    assert "**Floor: 0.210 nats above the floor**" in loss
    assert f"**99 % upper bound: {verdict.loss.upper_bound:.5f}**" in loss
    assert f"**Buffer: +{verdict.loss.margin:.5f} nats**" in loss


def test_an_open_claim_never_shows_a_design_p_that_passes() -> None:
    """The schema rounds to ten digits, which may put an open claim's p on alpha itself."""
    verdict = cases.not_proven()
    loss = verdict.loss.model_copy(update={"design_p": verdict.alpha})
    text = render_markdown(verdict.model_copy(update={"loss": loss}))
    assert "**Design p: &gt; 0.01**" in section(text, "Loss")


def test_a_mean_below_the_floor_is_named() -> None:
    verdict = cases.accepted()
    loss = verdict.loss.model_copy(update={"floor_nats": 3.3})
    text = render_markdown(verdict.model_copy(update={"loss": loss}))
    assert "nats BELOW the floor" in text
    assert "Suspect a leak" in text


def test_timing_holds_every_figure() -> None:
    verdict = cases.record()
    t, text = verdict.timing, section(render_markdown(verdict), "Timing")
    assert f"**Paired ratio: {t.ratio:.4f}**" in text
    assert f"98 % interval {t.low:.4f} to {t.high:.4f}" in text
    assert f"**99 % upper bound: {t.upper_bound:.4f}**" in text
    assert f"**Hodges-Lehmann: {t.hodges_lehmann:.4f}**" in text
    assert f"{t.hodges_lehmann_low:.4f} to {t.hodges_lehmann_high:.4f}" in text
    assert f"**Welch p: {t.welch_p:.2e}**" in text
    assert f"**Saved: {t.saved_ms / 1000:.4f} s**" in text  # type: ignore[operator]
    assert f"**Detectable: −{100 * (1 - t.detectable_ratio):.2f} %**" in text  # type: ignore[operator]
    assert "**Official time: 73.182 s**" in text


def test_every_look_stands_with_its_bounds() -> None:
    verdict = cases.not_proven()
    text = section(render_markdown(verdict), "Loss")
    rows = [cells(row) for row in text.splitlines() if row.startswith("| ")][2:]
    assert [row[0] for row in rows] == ["5", "10", "15", "20"]
    assert [row[2] for row in rows] == [fmt.p_value(look.loss_p) for look in verdict.looks]
    assert [row[3] for row in rows] == ["open"] * 4
    assert "loss p (≤ 0.0031)" in text


@pytest.mark.parametrize("case", ["unfinished", "runs_failed", "forty", "accepted"])
def test_every_started_run_is_listed(case: str) -> None:
    verdict = CASES[case]()
    text = section(render_markdown(verdict), "Runs")
    rows = [cells(row) for row in text.splitlines() if row.startswith("| ")][2:]
    assert [row[0] for row in rows] == [run.run_id for run in verdict.runs]
    for row, run in zip(rows, verdict.runs, strict=True):
        assert row[3] == (run.state if run.state == "finished" else run.state.upper())
        assert inline(run.note) in row[8]
        assert ("never counts" in row[8]) == (not run.counts)


def test_unfinished_runs_are_opened_and_judged_at_their_worst() -> None:
    text = render_markdown(cases.unfinished())
    assert "1 failed, 1 lost" in text
    assert "<details open>" in text
    assert "**Worst case p: " in text
    assert "**Worst case bound: " in text
    assert "<details open>" not in render_markdown(cases.accepted())


def test_a_failing_check_is_shown_as_failing_before_anything_else() -> None:
    text = render_markdown(cases.rule_broken())
    top = text[: text.index("## Result")]
    assert "**✗ Rule broken.**" in top
    assert "**Broken:**" in top
    assert "It does not hold that training and validation tokens are the track's own." in top
    assert "remedy of data" in top
    rules = section(text, "Rules")
    assert rules.strip().startswith("6 of 9 hold; 1 BROKEN; 1 warning; 1 not checked")
    assert "- ✗ **data** BROKEN: " in rules
    assert "- ! **clock** warning: " in rules
    assert "- ✓ **loss** holds: " in rules


@pytest.mark.parametrize("case", sorted(set(CASES) - {"accepted"}))
def test_nothing_claims_success_that_did_not_succeed(case: str) -> None:
    verdict = CASES[case]()
    text = render_markdown(verdict)
    if verdict.decision != "accepted":
        assert "New record" not in text
        assert "Accepted" not in text
        assert not re.search(r"\bOK\b", text)
    if verdict.exhibition:
        assert "New record" not in text


@pytest.mark.parametrize(
    ("status", "shown"), [("fail", "✗ Rule broken"), ("unproven", "? Not proven")]
)
def test_a_verdict_better_than_its_checks_is_contradicted(status: str, shown: str) -> None:
    verdict = verdicts.judged(
        verdicts.series(),
        checks=verdicts.checks(data=status),  # type: ignore[arg-type]
        headline="All is well: accepted.",
    )
    assert verdict.decision == "accepted"
    text = render_markdown(verdict)
    assert f"**{shown}.**" in text
    assert "> **Contradiction.** The verdict claims “accepted”" in text
    assert "New record" not in text
    assert "All is well" not in text


def test_an_exhibition_says_so_on_top_with_its_reasons() -> None:
    verdict = cases.exhibition()
    top = render_markdown(verdict).split("\n\n")[1]
    assert top.startswith("> **Exhibition, not a record attempt.**")
    for reason in verdict.exhibition:
        assert reason in top


def test_not_proven_says_what_is_missing_and_what_it_costs() -> None:
    top = render_markdown(cases.not_proven()).split("## Result")[0]
    assert "It is not shown that the mean validation loss is at or below the target." in top
    assert "About 34 more candidate runs" in top
    assert "34 more" not in render_markdown(
        cases.accepted().model_copy(update={"advice": cases.not_proven().advice})
    )


def test_commands_and_hashes() -> None:
    verdict = cases.accepted()
    text = section(render_markdown(verdict, "2026-11-20_muon-tiny-2"), "Verify and reproduce")
    assert "speedrun verify results/2026-11-20_muon-tiny-2\n" in text
    assert "speedrun verify results/2026-11-20_muon-tiny-2 --rerun\n" in text
    for digest in (
        verdict.plan_sha256,
        verdict.ledger_sha256,
        verdict.candidate.source_sha256,
        verdict.baseline.source_sha256,
    ):
        assert f"`{digest}`" in text
    assert "speedrun verify results/2026-11-20_muon-tiny\n" in render_markdown(verdict)


def test_hostile_text_is_never_markup() -> None:
    text = render_markdown(cases.hostile())
    assert "\x1b" not in text
    assert "\u202e" not in text
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    inlines = [child for token in tokens for child in token.children or []]
    blocks = "".join(token.content for token in tokens if token.type == "html_block")
    assert re.sub(r"</?(details( open)?|summary)>", "", blocks).split() == [
        "Every",
        "started",
        "run",
    ]
    assert {t.content for t in inlines if t.type == "html_inline"} == {"<!-- -->"}
    assert not {t.type for t in inlines} & {"link_open", "em_open", "s_open"}
    assert [t.attrs["src"] for t in inlines if t.type == "image"] == [
        f"plots/{name}.svg" for name in ("loss_curves", "final_losses", "paired_times")
    ]
    assert sum(token.type == "heading_open" and token.tag == "h1" for token in tokens) == 1
    strong = [after.content for t, after in pairwise(inlines) if t.type == "strong_open"]
    assert "bold" not in strong
    seen = "".join(t.content for t in inlines if t.type != "html_inline")
    assert cases.HOSTILE[:30] in seen


@pytest.mark.parametrize("case", CASES)
def test_every_image_of_the_text_is_written_beside_it(case: str, tmp_path: Path) -> None:
    written = write_report(CASES[case](), tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    images = re.findall(r"^!\[[^\]]+\]\((plots/[a-z_]+\.svg)\)$", text, re.MULTILINE)
    assert {tmp_path / image for image in images} == {p for p in written if p.suffix == ".svg"}
