"""Ask the candidate's interpreter what it has, in one child process that imports none of it.

Versions come from package metadata, torch's CUDA from the text of `torch/version.py`, attention
binaries from the file system: importing torch takes seconds and touches the GPUs.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import UnfitError
from harness.runner.child_environment import child_environment

_ANSWER_LIMIT = 4 << 20

# Runs under any Python 3; must not import anything that is being asked about.
_QUESTION = r"""
import ctypes, glob, importlib.util, json, os, platform, re, sys, sysconfig
def spec(name):
    try:
        return importlib.util.find_spec(name)
    except Exception:
        return None
def folders(name):
    found = spec(name)
    return list(found.submodule_search_locations or ()) if found else []
def first(paths):
    return next((p for p in paths if os.path.isfile(p)), None)
def source(name):
    found = spec(name)
    return found.origin if found and found.has_location else None
def binary(folder):
    return first(sorted(glob.glob(os.path.join(folder, "_C*.so")))) if folder else None
def loaded(name):
    try:
        ctypes.CDLL(name)
    except OSError:
        return None
    return name
fa3_path = binary(os.environ.get("SPEEDRUN_FA3_PATH") or None)
xformers_fa3 = next(filter(None, (
    binary(os.path.join(d, "flash_attn_3")) for d in folders("xformers"))), None)
# Where the scripts look for it: beside the binary, in the package, where the loader looks.
cudart12 = [p for b in (fa3_path, xformers_fa3) if b
            for p in sorted(glob.glob(os.path.join(os.path.dirname(b), "libcudart.so.12*")))]
cudart12 += [os.path.join(d, "cuda_runtime", "lib", "libcudart.so.12") for d in folders("nvidia")]
packages = {}
try:
    from importlib import metadata
    for item in metadata.distributions():
        name = item.metadata["Name"]
        if name:
            key = re.sub(r"[-_.]+", "-", name).lower()
            packages.setdefault(key, str(item.version))
except Exception:
    pass
torch = {}
path = first(os.path.join(d, "version.py") for d in folders("torch"))
if path:
    with open(path, encoding="utf-8") as handle:
        text = handle.read()
    for key in ("__version__", "cuda", "hip", "git_version"):
        match = re.search(r"^%s\s*(?::[^=\n]*)?=\s*['\"]([^'\"\n]*)['\"]" % key, text, re.M)
        torch[key.strip("_")] = match.group(1) if match else None
hub = os.environ.get("HF_HUB_CACHE") or os.path.join(
    os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"), "hub")
include = sysconfig.get_path("include") or ""
print(sys.argv[1] + json.dumps({
    "version": platform.python_version(),
    "version_info": list(sys.version_info[:3]),
    "implementation": platform.python_implementation(),
    "executable": sys.executable,
    "prefix": sys.prefix,
    "packages": packages,
    "torch": torch,
    "flash_attn_interface": source("flash_attn_interface"),
    "fa3_path": fa3_path,
    "xformers_fa3": xformers_fa3,
    "cudart12": first(cudart12) or loaded("libcudart.so.12"),
    "kernels": bool(spec("kernels")),
    "kernels_cached": os.path.isdir(
        os.path.join(hub, "models--kernels-community--flash-attn3")),
    "python_h": os.path.isfile(os.path.join(include, "Python.h")),
}))
"""


def probe_interpreter(
    python: str, timeout_s: float = 30.0, require: Sequence[str] = ("torch",)
) -> dict[str, Any]:
    """Version, packages, torch build and attention binaries of an interpreter.

    `require` names packages it must have. Raises UnfitError if the interpreter does not exist,
    crashes, hangs, is no Python of at least 3.11 or lacks a required package.
    """
    program = _find(python)
    marker = f"speedrun-{secrets.token_hex(8)}:"
    answer = _run([program, "-c", _QUESTION, marker], marker, python, timeout_s)
    if tuple(answer["version_info"]) < (3, 11):
        raise UnfitError(
            "the candidate's interpreter is too old",
            where=python,
            why=f"it is Python {answer['version']}; the scripts need 3.11 or newer",
            fix="name a newer one with --python",
        )
    for package in require:
        # A torch built from source and used in place has a version.py and no metadata.
        if package not in answer["packages"] and not (package == "torch" and answer["torch"]):
            raise UnfitError(
                f"the candidate's interpreter has no {package}",
                where=python,
                why=f"Python {answer['version']} with {len(answer['packages'])} packages, "
                f"and {package} is not among them",
                fix='pip install -e ".[cpu]" (or ".[gpu]" on a GPU node) with that interpreter, '
                "or name another one with --python",
            )
    return answer


def _find(python: str) -> str:
    path = shutil.which(Path(python).expanduser() if "/" in python else python)
    if path is None:
        there = Path(python).expanduser().exists()
        raise UnfitError(
            "the candidate's interpreter cannot be started",
            where=python,
            why="it is not executable" if there else "there is no such file or command",
            fix="name the Python that has torch with --python",
        )
    return str(Path(path).absolute())


def _run(command: list[str], marker: str, python: str, timeout_s: float) -> dict[str, Any]:
    """Start, read within time and size limits, end the whole process group, parse."""
    environment, _ = child_environment(os.environ, data_root=Path(), caches=None)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",  # a json.py in the current folder must not answer for the library
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise UnfitError(
            "the candidate's interpreter cannot be started",
            where=python,
            why=error.strerror or str(error),
            fix="name the Python that has torch with --python",
        ) from None
    try:
        output, in_time = _read(process, time.monotonic() + timeout_s)
        if in_time:
            process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        in_time = False
    finally:
        _end(process)
    text = output.decode(errors="replace")
    for line in text.splitlines():
        if line.startswith(marker):
            answer: dict[str, Any] = json.loads(line.removeprefix(marker))
            return answer
    if not in_time:
        raise UnfitError(
            "the candidate's interpreter does not answer",
            where=python,
            why=f"no answer within {timeout_s:g} s",
            fix="start it by hand (`python -c 'print(1)'`): a slow network disk or a startup hook?",
        )
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "no output")
    raise UnfitError(
        "the candidate's interpreter gave no answer",
        where=python,
        why=f"exit code {process.returncode}; its last line: {last[:200]}",
        fix="start it by hand; is it a Python interpreter?",
    )


def _read(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bool]:
    """(output up to the limit, ended in time); output beyond the limit counts as not ending."""
    assert process.stdout is not None
    output = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0 and len(output) < _ANSWER_LIMIT:
            if selector.select(left):
                piece = os.read(process.stdout.fileno(), 65536)
                if not piece:
                    return bytes(output), True
                output += piece
    return bytes(output), False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whatever the interpreter started goes with it."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
