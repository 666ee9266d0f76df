"""Which attention the training scripts would use in an environment, and why. Pure.

FlashAttention-3 has kernels for Hopper alone (compute capability 9.0). Its sources in the order
the scripts try them: an installed `flash_attn_interface`; a binary in the folder that
$SPEEDRUN_FA3_PATH names; the one that the xformers 0.0.34 wheel carries; the kernel that the
Hugging Face hub serves at run time. Everything else on a GPU gets FlexAttention, slower.
"""

from __future__ import annotations

from harness.environment import Environment
from harness.plan import Record

INSTALL = 'pip install -e ".[gpu]" (torch 2.10 with the xformers wheel that carries it)'
CUDART = "pip install nvidia-cuda-runtime-cu12==12.8.90"


class Attention(Record):
    """The backend, the reason, and what would make it faster."""

    backend: str
    why: str
    fix: str = ""


def attention_backend(environment: Environment) -> Attention:
    """Backend for the visible GPUs and the candidate's interpreter."""
    python = environment.interpreter
    if not environment.gpus:
        return Attention(backend="CPU", why="no NVIDIA GPU is visible")
    if python.torch is None:
        return Attention(backend="none", why="the interpreter has no torch", fix=INSTALL)
    if python.torch_cuda is None:
        return Attention(
            backend="CPU", why=f"torch {python.torch} is built without CUDA", fix=INSTALL
        )
    capability = environment.gpus[0].compute_capability
    if capability.split(".")[0] != "9":
        return Attention(
            backend="FlexAttention",
            why="FlashAttention-3 needs Hopper (compute capability 9.0); "
            f"this GPU has {capability or 'none it would state'}",
        )
    if python.fa3 in ("xformers", "SPEEDRUN_FA3_PATH"):
        return _binary(environment)
    if python.fa3 == "flash_attn_interface":
        return Attention(
            backend="FlashAttention-3 (flash_attn_interface)", why="installed in the interpreter"
        )
    if python.fa3 == "hub":
        return Attention(
            backend="FlashAttention-3 (Hugging Face hub)",
            why="package kernels is installed; the kernel is "
            + ("in the local cache" if python.hub_kernel_cached else "fetched at the first run"),
            fix="" if python.hub_kernel_cached else f"to depend on no download: {INSTALL}",
        )
    return Attention(
        backend="FlexAttention",
        why="no FlashAttention-3 in the interpreter: neither flash_attn_interface, nor an "
        "xformers wheel with flash_attn_3/_C.so, nor the package kernels",
        fix=INSTALL,
    )


def _binary(environment: Environment) -> Attention:
    """The xformers wheel's binary: built for torch 2.10's stable ABI and CUDA 12's runtime."""
    python = environment.interpreter
    if python.fa3 == "xformers":
        name, where = "xformers", f"xformers {python.packages.get('xformers', '?')}"
    else:
        name, where = "SPEEDRUN_FA3_PATH", "the folder of $SPEEDRUN_FA3_PATH"
    if _major_minor(python.torch or "") < (2, 10):
        return Attention(
            backend="FlexAttention",
            why=f"the binary in {where} is built for torch 2.10 or newer; this is {python.torch}",
            fix=INSTALL,
        )
    if (python.torch_cuda or "").split(".")[0] != "12" and not python.cudart12:
        return Attention(
            backend="FlexAttention",
            why=f"the binary in {where} needs libcudart.so.12, and torch for CUDA "
            f"{python.torch_cuda} does not bring it",
            fix=CUDART,
        )
    return Attention(
        backend=f"FlashAttention-3 ({name})", why=f"{where} carries flash_attn_3/_C.so"
    )


def _major_minor(version: str) -> tuple[int, int]:
    parts = version.split("+")[0].split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        return (0, 0)
    return int(parts[0]), int(parts[1])
