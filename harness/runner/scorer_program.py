"""The scoring child: loads a candidate's weights by its own `load_scorer` and answers questions.

Runs in the candidate's interpreter and imports nothing of the harness. Importing the candidate
starts no training: it is not `__main__`. It is told texts and positions only, never where the
validation shard lies; what is asked and how the answers are judged is the harness's (rescoring.py).

Protocol, on two private descriptors (prints of the candidate go to stderr): a question is one JSON
line and, for a text, its tokens as little-endian uint32; an answer is one JSON line and its float32
values. Questions: {"do": "load"}, {"do": "nll", "tokens": n}, {"do": "logprobs", "tokens": n,
"positions": [...]}, {"do": "end"}.
"""

# ruff: noqa: PTH100, PTH113, PTH120, PTH123

import importlib.util
import json
import os
import sys
from typing import Any

ANSWERS = os.dup(1)
QUESTIONS = os.dup(0)
os.dup2(2, 1)
with open(os.devnull, "rb") as nothing:
    os.dup2(nothing.fileno(), 0)

LIMIT = 500
CODE = (".py", ".pyc", ".so", ".pth", ".json", ".toml", ".cfg", ".h")
INTERPRETER = (
    *(os.path.realpath(prefix) + os.sep for prefix in (sys.prefix, sys.base_prefix)),
    *("/proc/", "/sys/", "/dev/", "/etc/", "/usr/"),
)
opened: dict[str, int] = {}


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Files that hold data rather than code: what the scorer reads besides its weights."""
    if event == "open" and isinstance(arguments[0], str | bytes) and len(opened) < LIMIT:
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not path.endswith(CODE) and not path.startswith(INTERPRETER) and os.path.isfile(path):
            opened[path] = opened.get(path, 0) + 1


def load(question: dict[str, Any]) -> tuple[Any, int | None]:
    """Import the script as a module of its own name, and load the scorer."""
    script = os.path.abspath(question["script"])
    sys.argv[:] = [script]
    sys.path.insert(0, os.path.dirname(script))
    spec = importlib.util.spec_from_file_location("speedrun_candidate", script)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["speedrun_candidate"] = module
    spec.loader.exec_module(module)
    scorer = module.load_scorer(question["checkpoint"], question["device"])
    window = getattr(module, "SCORE_WINDOW", None)
    return scorer, window if isinstance(window, int) else None


def answer(values: bytes = b"", **fields: Any) -> None:
    data = json.dumps({**fields, "bytes": len(values)}).encode() + b"\n"
    for piece in (data, values):
        view = memoryview(piece)
        while view:
            view = view[os.write(ANSWERS, view) :]


def floats(torch: Any, values: Any, shape: tuple[int | None, ...]) -> tuple[bytes, list[int]]:
    """Bytes of the values as float32; raises ValueError when they have another shape."""
    tensor = torch.as_tensor(values).detach().to("cpu", torch.float32).contiguous()
    if tuple(tensor.shape) != shape and not (shape[1:] == (None,) and tensor.ndim == 2):
        raise ValueError(f"an array of shape {shape} was asked for, came {tuple(tensor.shape)}")
    if tensor.shape[0] != shape[0]:
        raise ValueError(f"{shape[0]} rows were asked for, came {tensor.shape[0]}")
    return tensor.numpy().tobytes(), list(tensor.shape)


def serve() -> None:
    sys.addaudithook(hook)
    scorer: Any = None
    with os.fdopen(QUESTIONS, "rb") as questions:
        while line := questions.readline(1 << 20):
            question = json.loads(line)
            if question["do"] == "end":
                break
            try:
                if question["do"] == "load":
                    scorer, window = load(question)
                    answer(window=window)
                    continue
                torch: Any = importlib.import_module("torch")

                count = question["tokens"]
                raw = bytearray(questions.read(4 * count))
                tokens = torch.frombuffer(raw, dtype=torch.int32).to(torch.int64)
                if question["do"] == "nll":
                    values = scorer.nll(tokens)
                    data, shape = floats(torch, values, (max(count - 1, 0),))
                else:
                    positions = question["positions"]
                    values = scorer.logprobs(tokens, positions)
                    data, shape = floats(torch, values, (len(positions), None))
                answer(data, shape=shape)
            except BaseException as error:
                answer(error=f"{type(error).__name__}: {error}"[:500])
                if question["do"] == "load":
                    break
    answer(opened=sorted(opened))


if __name__ == "__main__":
    serve()
