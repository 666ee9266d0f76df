"""What reaches a run of its surroundings, and what is written down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.runner.child_environment import child_environment, is_passed, recorded
from harness.runner.torchrun import run_command

ROOT = Path("/data")


def given_to_run(parent: dict[str, str]) -> set[str]:
    environment, _ = child_environment(parent, data_root=ROOT, caches=None)
    return set(environment) - {"DATA_PATH", "PYTHONUNBUFFERED"}


@pytest.mark.parametrize(
    "name",
    [
        "NCCL_NVLS_ENABLE", "NCCL_IB_HCA", "NVSHMEM_DISABLE_NVLS", "LC_ALL",
        "TORCH_SYMM_MEM_DISABLE_MULTICAST",
        "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "LD_LIBRARY_PATH", "PATH", "HOME", "TMPDIR",
        "VIRTUAL_ENV", "CONDA_PREFIX", "SPEEDRUN_FA3_PATH", "UCX_TLS", "GLOO_SOCKET_IFNAME",
    ],
)  # fmt: skip
def test_fabric_and_toolchain_always_pass(name: str) -> None:
    assert given_to_run({name: "0"}) == {name}


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "OPENAI_API_KEY",
        "DB_PASSWORD", "GOOGLE_APPLICATION_CREDENTIALS", "HTTPS_PROXY", "no_proxy", "SSH_AUTH_SOCK",
        "CUDA_API_KEY", "NCCL_SECRET", "NVIDIA_TOKEN", "LC_PASSWORD", "NVIDIA_PROXY",
        "PYTHONPATH", "PYTHONSTARTUP", "LD_PRELOAD", "RANK", "WORLD_SIZE", "MASTER_ADDR",
        "SPEEDRUN_RUN", "SPEEDRUN_CHECKPOINT", "XDG_CACHE_HOME", "Path",
    ],
)  # fmt: skip
def test_secrets_and_strangers_do_not(name: str) -> None:
    assert not is_passed(name)
    assert given_to_run({name: "x"}) == set()


@pytest.mark.parametrize(
    "name",
    [
        "TORCHINDUCTOR_MAX_AUTOTUNE", "TORCH_COMPILE_DEBUG", "TORCHDYNAMO_DISABLE",
        "TRITON_CACHE_DIR", "PYTORCH_CUDA_ALLOC_CONF", "LD_PRELOAD", "OMP_NUM_THREADS",
        "PYTHONPATH", "PYTHONOPTIMIZE", "CUBLAS_WORKSPACE_CONFIG", "MKL_NUM_THREADS",
    ],
)  # fmt: skip
def test_what_would_change_a_run_is_dropped_and_named(name: str) -> None:
    environment, dropped = child_environment({name: "x"}, data_root=ROOT, caches=None)
    assert name not in environment
    assert dropped == (name,)


def test_secrets_are_dropped_without_a_word() -> None:
    _, dropped = child_environment(
        {"HF_TOKEN": "x", "PYTORCH_TOKEN": "x"}, data_root=ROOT, caches=None
    )
    assert "HF_TOKEN" not in dropped
    # Its name may be told: it begins like what changes a compiler. Its value never is.
    assert set(dropped) <= {"PYTORCH_TOKEN"}


def test_data_caches_and_extras() -> None:
    environment, _ = child_environment(
        {"DATA_PATH": "/elsewhere", "TRITON_CACHE_DIR": "/home/mine", "PYTHONUNBUFFERED": ""},
        data_root=ROOT,
        caches=Path("/cache/arm"),
        extra={"SPEEDRUN_CHECKPOINT": "/tmp/w"},
    )
    assert environment == {
        "DATA_PATH": "/data",
        "PYTHONUNBUFFERED": "1",
        "SPEEDRUN_CHECKPOINT": "/tmp/w",
        "TORCHINDUCTOR_CACHE_DIR": "/cache/arm/inductor",
        "TRITON_CACHE_DIR": "/cache/arm/triton",
    }
    assert list(environment) == sorted(environment)


names = st.text(st.characters(codec="ascii", exclude_characters="=\0"), min_size=1, max_size=20)


@given(st.dictionaries(names, st.text(max_size=10)))
def test_only_the_allow_list_passes_whatever_is_set(parent: dict[str, str]) -> None:
    environment, dropped = child_environment(parent, data_root=ROOT, caches=None)
    assert set(environment) - {"DATA_PATH", "PYTHONUNBUFFERED"} <= {
        n for n in parent if is_passed(n)
    }
    assert not set(dropped) & set(environment)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX lets a variable be any bytes")
def test_bytes_that_are_no_text_reach_the_run_and_can_be_written_down() -> None:
    value = os.fsdecode(b"/opt/caf\xe9")
    environment, _ = child_environment({"CUDA_HOME": value}, data_root=ROOT, caches=None)
    assert environment["CUDA_HOME"] == value
    code = "import os; print(os.environb[b'CUDA_HOME'])"
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == repr(b"/opt/caf\xe9")
    assert recorded(environment)["CUDA_HOME"] == "/opt/caf\\xe9"
    assert recorded({"LC_X": "ü ≤"}) == {"LC_X": "ü ≤"}


def test_commands_are_lists_and_name_the_interpreter() -> None:
    assert run_command("python", "/bin/py", "a b.py", 1) == ("/bin/py", "a b.py")
    command = run_command("torchrun", "/bin/py", "a b.py", 8)
    assert command[:3] == ("/bin/py", "-m", "torch.distributed.run")
    assert command[-1] == "a b.py"
    assert "--nproc-per-node=8" in command
    assert "--standalone" in command
