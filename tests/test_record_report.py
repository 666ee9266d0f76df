"""`speedrun verify <folder of logs>`: the printed figures, the exit code, the JSON."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT.parent / "shared" / "logs"
FLATTEN = LOGS / "2026-02-16_FlattenForward"


def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "verify", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(not FLATTEN.is_dir(), reason="the published logs are not beside the project")
def test_published_record_is_reproduced_to_the_printed_digits() -> None:
    done = verify(str(FLATTEN), "--json")
    assert done.returncode == 0, done.stderr
    arms = {arm["name"]: arm for arm in json.loads(done.stdout)["arms"]}
    table = (LOGS / "2026-02-16_FlattenForward_expected.csv").read_text(encoding="utf-8")
    expected = list(csv.DictReader(table.splitlines()))
    assert {row["group"] for row in expected} == set(arms)
    for row in expected:
        arm = arms[row["group"]]
        assert arm["role"] == row["role"]
        assert str(arm["n"]) == row["n_runs"]
        assert str(arm["total_steps"]) == row["total_steps"]
        assert f"{arm['mean_loss_nats']:.6f}" == row["mean_loss"]
        assert f"{arm['sd_loss_nats']:.6f}" == row["std_loss"]
        assert f"{arm['mean_time_s']:.4f}" == row["mean_time_s"]
        assert f"{arm['sd_time_s']:.4f}" == row["std_time_s"]
        assert f"{arm['p']:.6g}" == f"{float(row['p_ttest_less']):.6g}"
        if row["claim_p"]:
            assert f"{arm['p']:.4f}" == row["claim_p"]
        # And the same digits in the table a person reads.
        assert row["mean_loss"] in done.stderr
        assert row["mean_time_s"] in done.stderr
    assert "nominal p only" in done.stderr


def log_text(losses: tuple[float, float], ms: float) -> str:
    return "".join(
        f"step:{step}/100 val_loss:{loss:.6f} train_time:{ms * step / 100:.0f}ms "
        f"step_avg:{ms / 100:.2f}ms\n"
        for step, loss in ((0, 10.8), (50, losses[0]), (100, losses[1]))
    )


def write_arm(folder: Path, losses: list[float], ms: float) -> None:
    folder.mkdir(parents=True)
    for i, loss in enumerate(losses):
        (folder / f"run{i}.txt").write_text(log_text((loss + 1, loss), ms + i))


def test_loss_above_the_target_is_not_proven(tmp_path: Path) -> None:
    write_arm(tmp_path / "baseline", [3.278, 3.279, 3.2785], 80_000)
    write_arm(tmp_path / "this_pr", [3.281, 3.279, 3.2805], 79_000)
    done = verify(str(tmp_path), "--json")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["proven"] is False
    assert document["comparisons"][0]["p"] < 0.01
    assert verify(str(tmp_path), "--target", "3.3").returncode == 0


def test_slower_candidate_is_not_proven(tmp_path: Path) -> None:
    write_arm(tmp_path / "baseline", [3.278, 3.279, 3.2785], 80_000)
    write_arm(tmp_path / "this_pr", [3.270, 3.271, 3.2705], 80_500)
    assert verify(str(tmp_path)).returncode == 1


@pytest.mark.parametrize("content", ["", "no result here\n"])
def test_folder_without_a_run_is_a_usage_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    done = verify(str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    done = verify(str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "fix:" in done.stderr
