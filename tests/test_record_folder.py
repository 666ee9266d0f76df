"""Record folders as the field ships them: arms, roles, copies, runs that do not count, figures."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import pytest
import scipy.stats

from harness.errors import LogError
from harness.record_folder import RecordFolder, read_record_folder, summarise
from harness.record_sources import SourceForms

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "logs"
SEPARATOR = "=" * 100
SCRIPT = '"""A script."""\nimport sys\n\nRUN_ID = "a"\n\n\ndef train():\n    return sys.argv\n'


def log_text(
    loss: str,
    ms: int,
    *,
    total: int = 1000,
    every: int = 250,
    gpus: int = 8,
    gpu: str = "NVIDIA H100 80GB HBM3",
    source: str = SCRIPT,
    torch: str = "2.10.0+cu128",
    finished: bool = True,
    utilization: int = 0,
) -> str:
    table = [
        line
        for i in range(gpus)
        for line in (
            f"|   {i}  {gpu}          On  |   00000000:{i:02X}:00.0 Off |                    0 |",
            f"| N/A   30C    P0   120W /  700W |  1520MiB / 81559MiB | {utilization:3}%  Default |",
        )
    ]
    results = []
    for step in range(total + 1):
        if step % every == 0 or step == total:
            if step == total and not finished:
                break
            text = loss if step == total else f"{11 - 7 * step / total + ms % 97 / 1e4:.4f}"
            results.append(
                f"step:{step}/{total} val_loss:{text} train_time:{ms * step // total}ms"
                f" step_avg:{ms / total:.2f}ms"
            )
    end = ["peak memory allocated: 30220 MiB reserved: 38672 MiB"] if finished else []
    lines = [
        SEPARATOR,
        "Running Python 3.12.4 (main)",
        f"Running PyTorch {torch} compiled for CUDA 12.8",
        *table,
        SEPARATOR,
        *results,
        *end,
    ]
    return source + "\n" + "\n".join(lines) + "\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def roles(folder: RecordFolder) -> dict[str, str]:
    return {arm.name: arm.role for arm in folder.arms}


def skipped(folder: RecordFolder) -> dict[str, str]:
    of_arms = [one for arm in folder.arms for one in arm.skipped]
    return {one.path: one.kind for one in (*of_arms, *folder.skipped)}


BASELINE = {f"baseline/{i}.txt": log_text(f"3.27{i}1", 89_800 + i * 37) for i in range(4)}
CANDIDATE = {f"pr233/{i}.txt": log_text(f"3.27{i}5", 88_800 + i * 41) for i in range(4)}


# --- folders --------------------------------------------------------------------------------------


def test_two_arms_and_a_readme(tmp_path: Path) -> None:
    folder = read_record_folder(write(tmp_path, {**BASELINE, **CANDIDATE, "README.md": "# hi"}))
    assert roles(folder) == {"baseline": "baseline", "pr233": "candidate"}
    assert [len(arm.runs) for arm in folder.arms] == [4, 4]
    assert folder.readme == tmp_path / "README.md"
    assert skipped(folder) == {}
    assert folder.warnings == ()
    assert folder.arms[0].total_steps == 1000


def test_summary_agrees_with_scipy(tmp_path: Path) -> None:
    summary = summarise(read_record_folder(write(tmp_path, {**BASELINE, **CANDIDATE})))
    baseline, candidate = summary.arms
    losses = [3.2705, 3.2715, 3.2725, 3.2735]
    expected = scipy.stats.ttest_1samp(losses, 3.28, alternative="less")
    assert candidate.losses_nats == tuple(losses)
    assert candidate.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert candidate.mean_loss_nats == pytest.approx(3.2720)
    assert candidate.sd_loss_nats == pytest.approx(scipy.stats.tstd(losses))
    assert candidate.mean_time_s == pytest.approx(88.8615)
    (comparison,) = summary.comparisons
    welch = scipy.stats.ttest_ind(
        candidate.times_s, baseline.times_s, equal_var=False, alternative="less"
    )
    assert comparison.welch.p == pytest.approx(welch.pvalue, rel=1e-9)
    assert comparison.welch.difference == pytest.approx(-0.994)
    assert comparison.primary


def test_several_baselines_are_all_compared(tmp_path: Path) -> None:
    prior = {f"a_prior/{i}.txt": log_text(f"3.28{i}1", 88_700 + i * 29) for i in range(3)}
    summary = summarise(read_record_folder(write(tmp_path, {**BASELINE, **CANDIDATE, **prior})))
    assert [(c.baseline, c.primary) for c in summary.comparisons] == [
        ("baseline", True),
        ("a_prior", False),
    ]


def test_copies_do_not_count_twice(tmp_path: Path) -> None:
    text = CANDIDATE["pr233/0.txt"]
    bare = text[text.index("step:0/") :]
    last = bare.splitlines()[-2] + "\n"
    files = {**CANDIDATE, "pr233/stdout/0.out": bare, "pr233/final_0.txt": last}
    folder = read_record_folder(write(tmp_path, files))
    assert skipped(folder) == {"pr233/stdout/0.out": "duplicate", "pr233/final_0.txt": "duplicate"}
    assert [run.path for run in folder.arms[0].runs] == sorted(CANDIDATE)
    assert folder.arms[0].skipped[0].reason == "same figures as pr233/0.txt"


def test_incomplete_runs_are_named(tmp_path: Path) -> None:
    files = {**CANDIDATE, "pr233/x.txt": log_text("3.2", 88_000, finished=False)}
    folder = read_record_folder(write(tmp_path, files))
    assert skipped(folder) == {"pr233/x.txt": "incomplete"}
    assert "last validation at step 750 of 1000" in folder.arms[0].skipped[0].reason


def test_diverged_runs_warn_that_the_mean_is_flattered(tmp_path: Path) -> None:
    folder = read_record_folder(
        write(tmp_path, {**CANDIDATE, "pr233/x.txt": log_text("nan", 88_001)})
    )
    assert skipped(folder) == {"pr233/x.txt": "diverged"}
    assert folder.warnings == ("pr233: 1 diverged runs left out; the mean is flattered",)


def test_other_hardware_is_set_apart(tmp_path: Path) -> None:
    files = {
        **CANDIDATE,
        "pr233/one.txt": log_text("3.2701", 600_000, gpus=1),
        "pr233/h200.txt": log_text("3.2702", 79_000, gpu="NVIDIA H200"),
    }
    folder = read_record_folder(write(tmp_path, files))
    reasons = {one.path: one.reason for one in folder.arms[0].skipped}
    assert reasons["pr233/one.txt"] == "1 GPU; the folder's other runs had 8"
    assert reasons["pr233/h200.txt"].startswith("ran on NVIDIA H200;")
    assert len(folder.arms[0].runs) == 4


def test_plot_runs_are_set_apart(tmp_path: Path) -> None:
    files = {**CANDIDATE, "pr233/val_every_ten.txt": log_text("3.2701", 92_000, every=10)}
    folder = read_record_folder(write(tmp_path, files))
    assert skipped(folder) == {"pr233/val_every_ten.txt": "plot"}


def test_flat_list_is_parted_by_total_steps(tmp_path: Path) -> None:
    files = {
        f"{i}.txt": log_text(f"3.27{i}5", 88_800 + i, total=1000 + i % 2 * 50) for i in range(6)
    }
    folder = read_record_folder(write(tmp_path, files))
    assert roles(folder) == {"1050 steps": "baseline", "1000 steps": "candidate"}
    assert any("guessed from the number of steps" in warning for warning in folder.warnings)


def test_claim_at_an_earlier_step(tmp_path: Path) -> None:
    folder = read_record_folder(write(tmp_path, CANDIDATE), at_step=750)
    assert {run.result.step for run in folder.arms[0].runs} == {750}
    with_none = read_record_folder(tmp_path, at_step=751)
    assert set(skipped(with_none).values()) == {"incomplete"}
    assert summarise(with_none).arms == ()


def test_early_stop_by_design_counts_at_its_step(tmp_path: Path) -> None:
    files = {f"pr1/{i}.txt": log_text("3.2", 88_000 + i * 97 + i, finished=False) for i in range(3)}
    write(tmp_path, files)
    assert len(read_record_folder(tmp_path).arms[0].runs) == 0
    assert len(read_record_folder(tmp_path, at_step=750).arms[0].runs) == 3


def test_environments_that_differ_are_told(tmp_path: Path) -> None:
    baseline = {
        f"baseline/{i}.txt": log_text("3.2751", 89_000 + i, torch="2.9.0", utilization=99)
        for i in range(2)
    }
    folder = read_record_folder(write(tmp_path, {**baseline, **CANDIDATE}))
    assert any("torch differs between runs (2.10.0+cu128, 2.9.0)" in w for w in folder.warnings)
    assert any("in use by others before the start" in w for w in folder.warnings)


# --- sources --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (SCRIPT, None),
        ("# a comment\n" + SCRIPT, "2 sources that differ in comments or formatting only"),
        (SCRIPT.replace("A script.", "Another."), "differ in comments or formatting only"),
        (SCRIPT.replace('"a"', '"b"'), "2 sources that differ in string constants only"),
        (SCRIPT.replace("sys.argv", "sys.path"), "2 different programs in one arm"),
        ("import sys\nnot Python at all\n", "2 different programs in one arm"),
        ("", "1 of 5 logs embed none"),
    ],
)
def test_sources_of_one_arm(tmp_path: Path, other: str, said: str | None) -> None:
    files = {**CANDIDATE, "pr233/x.txt": log_text("3.2701", 88_777, source=other)}
    folder = read_record_folder(write(tmp_path, files))
    found = folder.arms[0].sources.describe()
    assert (said is None and found is None) or (said is not None and said in str(found))


def test_hostile_source_does_not_stop_the_survey(tmp_path: Path) -> None:
    deep = "import sys\nx = " + "(" * 5_000 + "1" + ")" * 5_000 + "\n"
    chain = "import sys\nx = " + "-" * 50_000 + "1\n"
    files = {
        f"pr1/{i}.txt": log_text("3.2701", 88_777 + i, source=s)
        for i, s in enumerate([deep, chain, 'import sys\nx = "\\d"\n'])
    }
    folder = read_record_folder(write(tmp_path, files))
    assert folder.arms[0].sources.programs == 3


def test_survey_of_nothing() -> None:
    assert SourceForms().survey([]).describe() == "no log embeds its source"


# --- what people put into folders -----------------------------------------------------------------


def test_files_that_are_no_logs_are_listed_not_fatal(tmp_path: Path) -> None:
    files = {
        **CANDIDATE,
        "requirements.txt": "torch\n",
        "empty.log": "",
        "train.py": "x",
        ".h.txt": "",
    }
    folder = read_record_folder(write(tmp_path, files))
    assert skipped(folder) == {"requirements.txt": "not-a-log", "empty.log": "not-a-log"}


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"secret.txt": log_text("3.1", 1_000)})
    root = write(tmp_path / "record", CANDIDATE)
    (root / "leave.txt").symlink_to(outside / "secret.txt")
    (root / "leave_folder").symlink_to(outside)
    (root / "inside.txt").symlink_to(root / "pr233" / "0.txt")
    (root / "loop").symlink_to(root)
    (root / "dangling.txt").symlink_to(root / "nothing")
    folder = read_record_folder(root)
    assert set(skipped(folder).values()) == {"link"}
    reasons = {one.path: one.reason for one in folder.skipped}
    assert reasons["leave.txt"] == reasons["leave_folder"]
    assert "leaves the folder" in reasons["leave.txt"]
    assert "within the folder" in reasons["loop"]
    assert sum(len(arm.runs) for arm in folder.arms) == 4


def test_pipe_in_the_folder_does_not_hang(tmp_path: Path) -> None:
    write(tmp_path, CANDIDATE)
    os.mkfifo(tmp_path / "pipe.txt")
    assert skipped(read_record_folder(tmp_path)) == {"pipe.txt": "not-a-log"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_and_folders_are_named(tmp_path: Path) -> None:
    write(tmp_path, {**CANDIDATE, "shut.txt": "x", "closed/x.txt": "x"})
    (tmp_path / "shut.txt").chmod(0)
    (tmp_path / "closed").chmod(0)
    try:
        found = skipped(read_record_folder(tmp_path))
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert found == {"shut.txt": "unreadable", "closed": "unreadable"}


def test_folder_without_logs(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no run log in the folder"):
        read_record_folder(tmp_path)
    write(tmp_path, {"notes.txt": "hello\n"})
    with pytest.raises(LogError, match=r"notes\.txt: the file is no run log"):
        read_record_folder(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no such path"):
        read_record_folder(tmp_path / "nothing")
    write(tmp_path, {"a.txt": "x"})
    with pytest.raises(LogError, match="it is no folder"):
        read_record_folder(tmp_path / "a.txt")


def test_deep_nesting_ends(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 30)
    folder = read_record_folder(write(tmp_path, {**CANDIDATE, f"{deep}/x.txt": log_text("3", 9)}))
    (one,) = folder.skipped
    assert "nested deeper than 16" in one.reason


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.record_files.MAX_FILES", 3)
    with pytest.raises(LogError, match="more than 3 files"):
        read_record_folder(write(tmp_path, CANDIDATE))


def test_thousand_logs_share_their_source(tmp_path: Path) -> None:
    files = {f"pr1/{i:04}.txt": log_text(f"3.27{i % 100:02}", 80_000 + i) for i in range(1_000)}
    folder = read_record_folder(write(tmp_path, files))
    assert len(folder.arms[0].runs) == 1_000
    assert len({id(run.log.source) for run in folder.arms[0].runs}) == 1
    assert all(run.log.train_points == () for run in folder.arms[0].runs)


def test_one_run_has_no_p(tmp_path: Path) -> None:
    summary = summarise(read_record_folder(write(tmp_path, {"a.txt": log_text("3.27", 80_000)})))
    (only,) = summary.arms
    assert only.n == 1
    assert math.isnan(only.p)
    assert math.isnan(only.sd_time_s)
    assert summary.comparisons == ()


# --- a record of the field ------------------------------------------------------------------------


@pytest.mark.skipif(
    not (SHARED / "2026-02-16_FlattenForward").is_dir(),
    reason="no ../shared/logs beside the project",
)
def test_flatten_forward_to_the_printed_digits() -> None:
    with (SHARED / "2026-02-16_FlattenForward_expected.csv").open(newline="") as file:
        rows = {row["group"]: row for row in csv.DictReader(file)}
    summary = summarise(read_record_folder(SHARED / "2026-02-16_FlattenForward"))
    assert {arm.name for arm in summary.arms} == set(rows)
    for found in summary.arms:
        row = rows[found.name]
        assert {
            "role": found.role,
            "n_runs": str(found.n),
            "total_steps": str(found.total_steps),
            "mean_loss": f"{found.mean_loss_nats:.6f}",
            "std_loss": f"{found.sd_loss_nats:.6f}",
            "mean_time_s": f"{found.mean_time_s:.4f}",
            "std_time_s": f"{found.sd_time_s:.4f}",
            "p_ttest_less": f"{found.p:.6g}",
        } == {
            key: row[key]
            for key in (
                "role",
                "n_runs",
                "total_steps",
                "mean_loss",
                "std_loss",
                "mean_time_s",
                "std_time_s",
                "p_ttest_less",
            )
        }
    primary = next(one for one in summary.comparisons if one.primary)
    assert (primary.candidate, primary.baseline) == ("pr233", "baseline")
    assert primary.welch.p < 1e-6
