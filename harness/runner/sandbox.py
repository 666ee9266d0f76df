"""What keeps a stranger's script from the machine it runs on: bubblewrap where it works.

`bwrap` gives a run namespaces of its own: no network but loopback, no processes but its own, and a
file system that holds the system's programs, the interpreter, the shards (all read only), and the
run's throw-away folder. Nothing of the user's home, no results, no sockets of the desktop. Paths
are the same inside as outside, so what is recorded of a run reads alike.

Where it does not work (no bwrap, a container that allows no user namespaces, no Linux) a run still
has the allow-list of variables, an empty HOME and its own folder, and nothing more: `try_sandbox`
says why, and whoever starts the run tells it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UnfitError

TRIAL_S = 60.0
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SYSTEM_FILES = (
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives"),
    *("/etc/localtime", "/etc/nccl.conf", "/sys", "/nix/store"),
)
DEVICES = "nvidia"
"""What begins so in /dev is passed through."""
RUNNER = Path(__file__).resolve().parent
PASSED_FOLDERS = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX", "VIRTUAL_ENV",
                  "SPEEDRUN_FA3_PATH", "SPEEDRUN_GPT2_RANKS", "NVSHMEM_HOME")  # fmt: skip
"""Variables of the allow-list that may name what a script loads."""

_ASK = """
import json, os, site, sys
user = site.getusersitepackages() if site.ENABLE_USER_SITE else ""
print(json.dumps({
    "folders": [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix,
                os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)],
    "site": user if os.path.isdir(user) else "", "base": site.getuserbase() or ""}))
"""

# Runs inside: what a run needs is there, what it must not have is not.
_TRIAL = """
import importlib.util, json, os, socket, sys
wants = json.loads(sys.argv[1])
with socket.create_server(("localhost", 0)) as server:
    socket.create_connection(server.getsockname(), 5).close()
try:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
        outside.connect(("192.0.2.1", 9))
except OSError:
    pass
else:
    sys.exit("the network can still be reached")
for name in wants["packages"]:
    if importlib.util.find_spec(name) is None:
        sys.exit(f"{name} cannot be found in there")
for path in wants["files"]:
    open(path, "rb").close()
for path in wants["hidden"]:
    if os.path.isdir(path) and os.listdir(path):
        sys.exit(f"{path} can still be seen")
open(os.path.join(os.environ["HOME"], "trial"), "w").close()
if wants["gpu"]:
    import ctypes
    code = ctypes.CDLL("libcuda.so.1").cuInit(0)
    if code:
        sys.exit(f"CUDA does not start in there (error {code})")
print("works")
"""


@dataclass(frozen=True, slots=True)
class Protection:
    """What is between a run and the machine.

    bwrap      path of the program; None: nothing but variables, HOME and working folder
    readable   interpreter and libraries, bound read only
    data       shards, bound read only one by one; the folder they lie in is not
    hidden     folders that must not be seen: home, results, baseline, the bundles
    variables  what the run is told beside the allow-list (PYTHONUSERBASE)
    """

    bwrap: str | None = None
    readable: tuple[Path, ...] = ()
    data: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    def surroundings(self, scratch: Path) -> dict[str, str]:
        """Variables that point a run at empty folders below its throw-away folder, which are made
        here: HOME, TMPDIR; and a user's name that is nobody's."""
        home, temporary = scratch / "home", scratch / "tmp"
        for folder in (home, temporary):
            folder.mkdir(exist_ok=True)
        told = {"HOME": str(home), "TMPDIR": str(temporary), "USER": "run", "LOGNAME": "run"}
        return {**dict(self.variables), **told}

    def wrap(
        self,
        command: Sequence[str],
        *,
        scratch: Path,
        folder: Path,
        writable: Sequence[Path] = (),
        also: Sequence[Path] = (),
        with_data: bool = True,
    ) -> tuple[str, ...]:
        """The command as it is started.

        scratch    throw-away folder, writable
        folder     working folder in it
        writable   further folders (compile caches); made where they are missing
        also       further read-only paths
        """
        if self.bwrap is None:
            return tuple(command)
        for path in writable:
            path.mkdir(parents=True, exist_ok=True)
        arguments = [self.bwrap, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
        # torchrun's ranks find each other by the host's name.
        arguments += ["--hostname", "localhost", "--proc", "/proc", "--dev", "/dev"]
        arguments += _system() + _devices()
        arguments += ["--tmpfs", "/tmp", "--tmpfs", "/var/tmp", "--tmpfs", "/run"]
        arguments += _names(scratch)
        seen = [*self.readable, *also, *(self.data if with_data else ())]
        mounts = {path: ["--ro-bind", str(path), str(path)] for path in seen}
        mounts |= {
            path: ["--tmpfs", str(path)]
            for path in self.hidden
            if any(path.is_relative_to(top) for top in (*mounts, *map(Path, SYSTEM)))
        }
        mounts |= {path: ["--bind", str(path), str(path)] for path in (scratch, *writable)}
        # A mount covers what was mounted below it before: outer folders first.
        for path in sorted(mounts, key=lambda path: (len(path.parts), path)):
            arguments += mounts[path]
        return (*arguments, "--chdir", str(folder), "--", *command)


def _system() -> list[str]:
    """Programs and libraries, links as links (/bin is one to usr/bin on most systems)."""
    arguments: list[str] = []
    for name in SYSTEM:
        path = Path(name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            arguments += ["--ro-bind", name, name]
    for name in SYSTEM_FILES:  # where they are
        arguments += ["--ro-bind-try", name, name]
    return arguments


def _devices() -> list[str]:
    arguments: list[str] = []
    for path in sorted(Path("/dev").glob("*")):
        if path.name.startswith(DEVICES):
            arguments += ["--dev-bind-try", str(path), str(path)]
    return arguments


def _names(scratch: Path) -> list[str]:
    """/etc of a machine that knows itself and nobody else."""
    # A fresh folder each time: an earlier run could have laid a link where the last one was.
    folder = Path(tempfile.mkdtemp(prefix="etc-", dir=scratch))
    user, group = os.getuid(), os.getgid()
    files = {
        "hosts": "127.0.0.1 localhost\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "passwd": f"run:x:{user}:{group}::{scratch / 'home'}:/bin/sh\n",
        "group": f"run:x:{group}:\n",
    }
    arguments: list[str] = []
    for name, text in files.items():
        (folder / name).write_text(text, encoding="ascii", errors="backslashreplace")
        arguments += ["--ro-bind", str(folder / name), f"/etc/{name}"]
    return arguments


def try_sandbox(
    python: str,
    *,
    data: Sequence[Path],
    hidden: Sequence[Path],
    gpu: bool,
    packages: Sequence[str],
    scratch: Path,
) -> tuple[Protection, str]:
    """(protection, why it is not bwrap): bwrap is tried with everything a run needs. The second is
    empty where it works; the protection then has `bwrap` set.

    data       files that the runs read;  packages  that the interpreter must find
    hidden     folders that must not be seen, the home first
    scratch    an empty folder for the trial
    """
    folders, variables = _interpreter(python)
    bare = Protection(variables=variables)
    program = shutil.which("bwrap")
    if not sys.platform.startswith("linux"):
        return bare, f"bwrap needs Linux, this is {sys.platform}"
    if program is None:
        return bare, "bwrap is not installed (the package is called bubblewrap)"
    hidden = tuple(dict.fromkeys(path.resolve() for path in hidden))
    protection = Protection(
        bwrap=program,
        readable=tuple(path for path in folders if not _shows(path, hidden)),
        data=tuple(dict.fromkeys(path.absolute() for path in data)),
        hidden=hidden,
        variables=variables,
    )
    wants = {
        "packages": list(packages),
        "files": [str(path) for path in protection.data],
        "hidden": [str(p) for p in hidden if not _holds(protection, scratch, p)],
        "gpu": gpu,
    }
    environment = {"PATH": os.environ.get("PATH", ""), **protection.surroundings(scratch)}
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    command = protection.wrap(
        [python, "-c", _TRIAL, json.dumps(wants)], scratch=scratch, folder=scratch
    )
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=TRIAL_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return bare, f"bwrap does not work here: {error}"
    if done.returncode == 0 and done.stdout.strip() == b"works":
        return protection, ""
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return bare, f"bwrap does not work here: {said[-1][:200] if said else done.returncode}"


def _holds(protection: Protection, scratch: Path, folder: Path) -> bool:
    """Does something that a run needs lie below this folder, so that it is there and not empty?"""
    seen = (*protection.readable, *protection.data, scratch)
    return any(path.is_relative_to(folder) for path in seen)


def _shows(folder: Path, hidden: Sequence[Path]) -> bool:
    """Would this folder show the home, or through a link what could not be covered?"""
    real = folder.resolve()
    inside = [path for path in hidden if path.is_relative_to(real)]
    return bool(inside) and (inside[0] == hidden[0] or real != folder)


def _interpreter(python: str) -> tuple[tuple[Path, ...], tuple[tuple[str, str], ...]]:
    """(folders that the interpreter needs, variables that lead it to the user's own packages)."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [python, "-c", _ASK], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=TRIAL_S, check=True,
        )  # fmt: skip
        answer = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UnfitError(
            "the interpreter does not say where it lies",
            where=python,
            why=str(error),
            fix="give a working interpreter with --python",
        ) from None
    named = [*answer["folders"], answer["site"]]
    for name in PASSED_FOLDERS:
        named += os.environ.get(name, "").split(os.pathsep)
    folders = {Path(name) for name in named if name.startswith("/") and Path(name).exists()}
    inside = [Path(name) for name in SYSTEM]
    kept = sorted(
        path
        for path in folders
        if path != Path("/") and not any(path.is_relative_to(top) for top in inside)
    )
    variables = (("PYTHONUSERBASE", str(answer["base"])),) if answer["site"] else ()
    return tuple(kept), variables
