"""candidates/small.py as a module, a tiny configuration of it and token shards to go with that."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

torch.set_num_threads(1)  # matrices of 32 x 32: more threads only wait for each other
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "candidates" / "small.py"


def load_script() -> ModuleType:
    """candidates/small.py as a module, imported once."""
    if "small_candidate" not in sys.modules:
        spec = importlib.util.spec_from_file_location("small_candidate", SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["small_candidate"] = module
        spec.loader.exec_module(module)
    return sys.modules["small_candidate"]


def tiny_config(**changes: Any) -> Any:
    """Two heads of 16 channels, 96 tokens of vocabulary, batches of 8 x 32 to 8 x 64; fp32, CPU."""
    small = load_script()
    stages = (
        small.Stage(8 * 32, 24, 1, 3, 1.0, (1.0, 0.5, 0.25), (1.0, 0.5, 0.0)),
        small.Stage(8 * 48, 32, 3, 7, 1.52, (1.0, 0.5), (1.0, 0.0)),
        small.Stage(8 * 64, 32, 5, 11, 1.73, (1.0,), (1.0,)),
        small.Stage(8 * 64, 32, 6, 13, 1.73, (1.0,), (1.0,)),
    )
    values: dict[str, Any] = {
        "vocab_size": 96,
        "model_dim": 32,
        "num_heads": 2,
        "mlp_dim": 64,
        "bigram_rows": 808,
        "bigram_dim": 16,
        "sign_rows": 32,
        "mudd_dim": 8,
        "dtype": "float32",
        "val_tokens": 2048,
        "val_tokens_per_rank": 256,
        "bos_id": 0,
        "first_scan_tokens": 500,
        "stages": stages,
        "scheduled_steps": 12,
        "extension_steps": 3,
        "momentum_warmup": 4,
        "momentum_cooldown": 3,
        "window_block": 4,
        "final_window_long": 20,
        "val_every": 4,
        "fp8_mlp": False,
        "fp8_head": False,
        "relu2_kernel": False,
        "compile": False,
    }
    return small.Config(**{**values, **changes})


def write_shard(path: Path, tokens: np.ndarray) -> Path:
    """A version-1 .bin token shard."""
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(tokens)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())
    return path


def document_tokens(starts: list[int], size: int, vocab: int = 96, seed: int = 0) -> np.ndarray:
    """`size` tokens in 1 .. vocab - 1 with BOS (0) at `starts`."""
    tokens = np.random.default_rng(seed).integers(1, vocab, size).astype(np.uint16)
    tokens[starts] = 0
    return tokens


def random_documents(size: int, mean: int = 20, vocab: int = 96, seed: int = 0) -> np.ndarray:
    """Documents of random lengths around `mean`, with a bigram structure that can be learned."""
    rng = np.random.default_rng(seed)
    following = rng.integers(1, vocab, (vocab, 3))
    tokens = np.zeros(size, dtype=np.uint16)
    position = 0
    while position < size:
        length = int(rng.integers(2, 2 * mean))
        token = 0
        for offset in range(min(length, size - position)):
            tokens[position + offset] = token
            token = int(following[token, rng.integers(3)])
        position += length
    return tokens


def write_data(root: Path, train_shards: int = 2, size: int = 6000) -> Path:
    """A DATA_PATH folder with training shards and one validation shard."""
    folder = root / "data" / "fineweb10B"
    for i in range(train_shards):
        write_shard(folder / f"fineweb_train_{i + 1:06d}.bin", random_documents(size, seed=i))
    write_shard(folder / "fineweb_val_000000.bin", random_documents(2100, seed=99))
    return root
