"""All that is said of a script without running it: contract, size, hostile files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.static_check import StaticReport, check_candidate, choose_track
from harness.tracks.track import load_track
from tests.support.scripts import HONEST

ROOT = Path(__file__).resolve().parents[1]
# Candidates and standing records; baseline/reference_*.py are probes of a node, no candidates.
SCRIPTS = [
    script
    for folder in ("candidates", "baseline")
    for script in sorted((ROOT / folder).glob("*.py"))
    if not script.name.startswith("reference_")
]
SMALL = load_track("small")
SCORER = """

def load_scorer(path, device):
    return path


def save(model):
    path = os.environ.get("SPEEDRUN_CHECKPOINT")
"""


def check(folder: Path, text: str | bytes, **siblings: str) -> StaticReport:
    script = folder / "mine.py"
    script.write_bytes(text if isinstance(text, bytes) else text.encode())
    for name, code in siblings.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    return check_candidate(script, SMALL, None)


def said(report: StaticReport, severity: str = "warn") -> list[str]:
    return [finding.what for finding in report.findings if finding.severity == severity]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_our_own_scripts_are_clean(script: Path) -> None:
    started = time.process_time()
    report = check_candidate(script, choose_track(script, None), None)
    assert time.process_time() - started < 4
    assert said(report, "fail") == []
    assert said(report, "warn") == []
    assert report.strong
    assert report.exit_code == 0


def test_honest_script_is_clean_and_its_strong_checks_are_closed(tmp_path: Path) -> None:
    report = check(tmp_path, HONEST)
    assert said(report) == []
    assert said(report, "note") == ["the strong checks are closed: no load_scorer"]
    assert not report.strong
    assert report.size is not None
    assert report.baseline.endswith("baseline/small.py")


def test_strong_checks_are_open_with_scorer_and_checkpoint(tmp_path: Path) -> None:
    report = check(tmp_path, HONEST.replace("\nif __name__", SCORER + "\n\nif __name__"))
    assert report.strong
    assert report.findings == ()


def test_import_that_starts_training_is_named(tmp_path: Path) -> None:
    text = HONEST.replace('if __name__ == "__main__":\n    main()', SCORER + "\nmain()")
    assert said(check(tmp_path, text)) == ["importing the script calls main()"]


LINES = {
    "percent": '"step:%d/%d val_loss:%.4f train_time:%.0fms step_avg:%.2fms" % (1, 2, 3, 4, 5)',
    "format": '"step:{}/{} val_loss:{:.4f} train_time:{:.0f}ms step_avg:{:.2f}ms".format(*x)',
    "sum": 'f"step:{i}/{n} val_loss:{v:.4f}" + f" train_time:{t}ms step_avg:{t / i}ms"',
    "seconds": 'f"step:{i}/{n} val_loss:{v} train_time:{t:.3f}s step_avg:{t}ms"',
}
WHOLE = HONEST.partition("            print0(\n")[0] + "            print0(LINE)\n"


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_result_line_is_found_however_it_is_built(tmp_path: Path, line: str) -> None:
    assert said(check(tmp_path, WHOLE.replace("LINE", line))) == []


def test_result_line_of_another_form_is_named_with_its_place(tmp_path: Path) -> None:
    report = check(tmp_path, WHOLE.replace("LINE", 'f"step {i} val_loss:{v} time:{t}"'))
    (finding,) = [f for f in report.findings if f.severity == "warn"]
    assert "nearest: step {} val_loss:{} time:{}" in finding.what
    assert finding.line == WHOLE.count("\n", 0, WHOLE.index("LINE")) + 1
    assert said(check(tmp_path, WHOLE.replace("LINE", '"done"'))) == [
        "no result line of the contract's form was found"
    ]


def test_few_decimals_rank_and_data_path(tmp_path: Path) -> None:
    assert said(check(tmp_path, HONEST.replace("val_loss:.6f", "val_loss:.2f"))) == [
        "the validation loss is printed with 2 decimals"
    ]
    assert said(check(tmp_path, HONEST.replace('"RANK"', '"R"'))) == ["RANK is never read"]
    assert said(check(tmp_path, HONEST.replace('"DATA_PATH"', '"D"'))) == [
        "DATA_PATH is never read"
    ]


def test_file_imported_by_a_string_does_not_travel(tmp_path: Path) -> None:
    text = HONEST + '\nimport importlib\nk = importlib.import_module("kernels")\n'
    assert said(check(tmp_path, text, kernels="x = 1\n")) == [
        "kernels.py lies beside the script and is imported by a string"
    ]
    assert (
        said(check(tmp_path, text.replace("import importlib", "import importlib, kernels"))) == []
    )


def test_size_is_compared_with_the_baseline_named(tmp_path: Path) -> None:
    (tmp_path / "record.py").write_text(HONEST + "\nx = 1\n", encoding="utf-8")
    (tmp_path / "mine.py").write_text(HONEST, encoding="utf-8")
    report = check_candidate(tmp_path / "mine.py", SMALL, tmp_path / "record.py")
    assert report.size is not None
    assert (report.size.lines_added, report.size.lines_removed) == (0, 1)


UNREADABLE = {
    "no Python": ("def f(:\n", 1),
    "NUL": ("x = 1\n\0\n", 2),
    "deep": ("(" * 9000 + ")" * 9000, 1),
    "deep sum": ("x = 1" + "+1" * 90_000, 0),
    "many tokens": ("x = 1\n" * 300_000, 0),
    "long line": ("x = " + "1 if x else " * 90_000 + "1", 0),
    "mark of byte order, twice": ("\ufeff\ufeffx = 1", 1),
}


@pytest.mark.parametrize(("text", "line"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_no_python_is_a_finding(tmp_path: Path, text: str, line: int) -> None:
    started = time.process_time()
    report = check(tmp_path, text)
    assert time.process_time() - started < 3
    (finding,) = report.findings
    assert (finding.rule, finding.severity) == ("syntax", "fail")
    assert finding.line == line
    assert report.exit_code == 3


def test_sibling_that_is_no_python_is_a_finding_there(tmp_path: Path) -> None:
    report = check(tmp_path, HONEST + "\nimport kernels\n", kernels="x = 1\ndef f(:\n")
    (finding,) = report.findings
    assert finding.place == "kernels.py:2"
    assert report.exit_code == 3


def test_no_script_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no script at"):
        check_candidate(tmp_path / "absent.py", SMALL, None)
    with pytest.raises(UsageError, match="not UTF-8"):
        check(tmp_path, b"# caf\xe9\n")
    with pytest.raises(UsageError, match="too large"):
        check(tmp_path, "x = 1\n" * 2_000_000)
    with pytest.raises(UsageError, match=r"no script at|cannot be looked at"):
        check_candidate(tmp_path / ("x" * 300 + ".py"), SMALL, None)
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(UsageError, match="no script at"):
        check_candidate(tmp_path / "pipe.py", SMALL, None)
    (tmp_path / "notes.txt").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="not a Python file"):
        check_candidate(tmp_path / "notes.txt", SMALL, None)
    (tmp_path / "empty.py").write_text("", encoding="utf-8")
    assert "no result line was found" in said(check_candidate(tmp_path / "empty.py", SMALL, None))


def test_link_out_of_the_folder_does_not_travel(tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere.py"
    secret.write_text("def f(:\n", encoding="utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "kernels.py").symlink_to(secret)
    report = check(folder, HONEST + "\nimport kernels\n")
    assert report.files == ("mine.py",)


def test_track_is_chosen_by_the_name(tmp_path: Path) -> None:
    assert choose_track(Path("medium_fast.py"), None).name == "medium"
    assert choose_track(Path("mine.py"), None).name == "small"
    assert choose_track(Path("medium.py"), "optimization").name == "optimization"
    with pytest.raises(UsageError, match="no track named"):
        choose_track(Path("x.py"), "absent")
