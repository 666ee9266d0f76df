"""The reference workloads: single files that run, print their parts, and know nothing of us."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.nightly.reference import parse_reference
from harness.scan.scan import scan_flags
from harness.source import read_source
from harness.tracks.track import load_track

BASELINE = Path(__file__).resolve().parents[2] / "baseline"
SCRIPTS = (BASELINE / "reference_cpu.py", BASELINE / "reference_gpu.py")

# The GPU workload on two CPU processes, with sizes of a toy: everything but CUDA and FP8.
TOY = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch, torch.distributed as dist
import reference_gpu as reference
torch.set_num_threads(1)
dist.init_process_group("gloo")
sizes = reference.Sizes(32, 2, 4096, 2, 4096, 2, repeats=5, untimed=1)
result = reference.run(sizes, torch.device("cpu"))
if dist.get_rank() == 0:
    print(json.dumps(result))
dist.destroy_process_group()
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_reference_is_one_file_of_its_own(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    roots = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not {name.split(".")[0] for name in roots} & {"harness", "candidates", "tests"}
    assert list(read_source(script).files) == [script.name]
    assert ast.get_docstring(tree)
    track = load_track("small" if script.stem.endswith("gpu") else "tiny")
    assert not [f for f in scan_flags(read_source(script), track) if f.severity == "fail"]


def test_the_gpu_workload_times_its_parts_over_all_ranks(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the workload needs torch")
    toy = tmp_path / "toy.py"
    toy.write_text(TOY)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node=2", str(toy), str(BASELINE)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    figure = parse_reference(done.stdout)
    assert figure is not None
    assert set(figure.parts_ms) == {"matmul_bf16", "copy", "all_reduce"}
    printed = json.loads(done.stdout.splitlines()[-1])
    for rank, slowest_ms, fastest_ms in printed["slowest_rank_its_ms_fastest_ms"].values():
        assert rank in (0, 1)
        assert slowest_ms >= fastest_ms > 0


@pytest.mark.gpu
def test_the_gpu_workload_as_shipped() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    count = torch.cuda.device_count()
    done = subprocess.run(
        [*command, f"--nproc-per-node={count}", str(SCRIPTS[1])],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    figure = parse_reference(done.stdout)
    assert figure is not None
    assert {"matmul_bf16", "copy"} <= set(figure.parts_ms)
    assert ("all_reduce" in figure.parts_ms) == (count > 1)
    assert all(1.0 < ms < 200.0 for ms in figure.parts_ms.values()), figure
