"""What a run is told of its surroundings: an allow-list of variables, every value recorded.

Secrets do not reach the candidate, nor does anything that changes the compiler behind the rules'
back: `TORCHINDUCTOR_*`, `TORCH_COMPILE*` and `TRITON_*` are dropped and named in the ledger. What
the node's owner set for the fabric and the toolchain always passes: on some hosts
`NCCL_NVLS_ENABLE=0` and its kin protect the machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

PASSED_NAMES = frozenset(
    {
        "CONDA_PREFIX", "DYLD_LIBRARY_PATH", "HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH",
        "LOGNAME", "PATH", "SPEEDRUN_FA3_PATH", "SPEEDRUN_GPT2_RANKS", "SYSTEMROOT", "TMPDIR", "TZ",
        "USER", "VIRTUAL_ENV",
    }
)  # fmt: skip
PASSED_PREFIXES = (
    "CUDA_",
    "FI_",
    "GLOO_",
    "LC_",
    "NCCL_",
    "NVIDIA_",
    "NVSHMEM_",
    "TORCH_SYMM_MEM_",
    "UCX_",
)
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|_KEY$|API_?KEY|PROXY", re.IGNORECASE)
# Named in the ledger when dropped: they would have changed what the compiler does.
NOTED_WHEN_DROPPED = re.compile(
    r"^(TORCHINDUCTOR_|TORCH_COMPILE|TORCHDYNAMO_|TRITON_|TORCH_LOGS|PYTORCH_|LD_PRELOAD$"
    r"|PYTHON(PATH|STARTUP|HOME|WARNINGS|OPTIMIZE|INSPECT|HASHSEED)$|OMP_|MKL_|KMP_|CUBLAS)"
)


def is_passed(name: str) -> bool:
    """Does the allow-list let this variable through?"""
    if SECRET.search(name):
        return False
    return name in PASSED_NAMES or name.startswith(PASSED_PREFIXES)


def recorded(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables as the ledger can hold them: bytes that are no UTF-8 (POSIX allows any) are
    written as \\xNN. The run itself gets them unchanged."""

    def text(value: str) -> str:
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    return {text(name): text(value) for name, value in environment.items()}


def child_environment(
    parent: Mapping[str, str],
    *,
    data_root: Path,
    caches: Path | None,
    extra: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """(variables for the run, names of dropped variables worth noting).

    caches   folder for this arm's compile caches, None where nothing is compiled
    extra    variables the harness adds (checkpoint path, run marker)
    """
    given = {name: value for name, value in parent.items() if is_passed(name)}
    dropped = tuple(
        sorted(name for name in parent if name not in given and NOTED_WHEN_DROPPED.match(name))
    )
    given["DATA_PATH"] = str(data_root)
    # Lines must arrive when they are printed: their arrival is the outside clock.
    given["PYTHONUNBUFFERED"] = "1"
    if caches is not None:
        given["TORCHINDUCTOR_CACHE_DIR"] = str(caches / "inductor")
        given["TRITON_CACHE_DIR"] = str(caches / "triton")
    given.update(extra or {})
    return dict(sorted(given.items())), dropped
