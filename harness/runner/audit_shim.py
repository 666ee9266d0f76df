"""The audit run's shim: `python audit_shim.py SCRIPT` runs SCRIPT as __main__ and takes notes.

Runs in the candidate's interpreter, so it imports nothing of the harness, and torch only once the
script has. It changes nothing that is computed: it counts calls, reads samples of the parameters,
and notes what Python's audit events say (files, sockets, processes). Notes go, one JSON line each,
to a folder named by SPEEDRUN_AUDIT_OUT, which is taken out of the environment first.

It lives in the candidate's own process: a script that hunts for it can lie to it. What must not
depend on its honesty is also watched from outside (observer.py).
"""

# ruff: noqa: PTH100, PTH120, PTH123

import functools
import importlib
import json
import os
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any, NoReturn

from audit_shim_graphs import Graphs, is_capturing  # type: ignore[import-not-found]
from audit_shim_parts import (  # type: ignore[import-not-found]
    LINE_CHARS,
    Calls,
    Files,
    Finder,
    Notes,
    Parameters,
    bytes_read,
    is_plain,
    is_result,
    is_traced,
    mapped_bytes,
    program,
    text,
)

CLOCKS = ("perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time", "time_ns")
CONFIGS = ("torch._inductor.config", "torch._dynamo.config", "torch._functorch.config")
COMPILER_VARIABLES = ("TORCHINDUCTOR_", "TORCH_COMPILE", "TORCHDYNAMO_", "TRITON_", "PYTORCH_")
PROCESS_EVENTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
HOOKED = frozenset({"open", "socket.connect", "ctypes.dlopen", "os.putenv", *PROCESS_EVENTS})
_own = threading.local()


class Shim:
    """Everything that is noted of one process."""

    def __init__(self, folder: str) -> None:
        self.notes = Notes(folder)
        self.files = Files(self.notes)
        self.backward, self.steps = Calls(self.notes, "backward"), Calls(self.notes, "optimizer")
        self.parameters, self.graphs = Parameters(), Graphs()
        self.config_seen: set[tuple[str, str, str]] = set()
        self.torch: Any = None
        self.lines, self.line, self.told = Calls(self.notes, "line"), "", False
        self.originals: dict[str, Any] = {name: getattr(time, name) for name in CLOCKS}

    # -- what Python's audit events say ------------------------------------------------------

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in HOOKED or getattr(_own, "busy", False):
            return
        _own.busy = True
        try:
            if event == "open":
                self.files.opened(*arguments)
            elif event == "socket.connect":
                self.notes.write("socket", address=text(arguments[1]))
            elif event == "ctypes.dlopen":
                self.notes.write("dlopen", path=text(arguments[0]))
            elif event == "os.putenv":
                name = text(arguments[0])
                if name.startswith(COMPILER_VARIABLES):
                    self.notes.write("putenv", name=name, value=text(arguments[1]))
            else:
                self.notes.write("process", what=f"{event} {program(arguments)}")
        except Exception:
            self.notes.write("trouble", event=event)
        finally:
            _own.busy = False

    # -- torch -------------------------------------------------------------------------------

    def torch_imported(self, torch: Any) -> None:
        self.torch = torch
        autograd, shim = torch.autograd, self

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                if not is_traced(args, kwargs):
                    shim.backward_pass(torch)
                return function(*args, **kwargs)

            return call

        # Tensor.backward looks autograd.backward up when it is called.
        autograd.backward, autograd.grad = counted(autograd.backward), counted(autograd.grad)
        look, replayed = (functools.partial(f, torch) for f in (self.look, self.backward_pass))
        self.guarded(self.graphs.follow, torch, look, replayed, self.guarded)
        compile_, inside = torch.compile, os.path.dirname(torch.__file__) + os.sep

        @functools.wraps(compile_)
        def noted(*args: Any, **kwargs: Any) -> Any:
            # torch compiles pieces of its own (flex attention outside a compiled region).
            if not sys._getframe(1).f_code.co_filename.startswith(inside):
                told = {name: text(value) for name, value in kwargs.items() if name != "model"}
                shim.notes.write("compile", kwargs=told)
            return compile_(*args, **kwargs)

        torch.compile = noted
        register = importlib.import_module("torch.optim.optimizer")
        register.register_optimizer_step_pre_hook(lambda *_: shim.steps.add())
        for name, owner in self.cuda_clocks():
            self.originals[name] = getattr(owner, name)

    def backward_pass(self, torch: Any) -> None:
        """One is about to be made: called, or replayed from a graph that holds one.

        A call in a capture counts as well. What it sends to the captured stream is only recorded,
        but nobody can tell here that this is all: a pass over CPU tensors, or over what another
        stream computed, trains at once. An honest script has one pass more before the clock.
        """
        self.guarded(self.graphs.passed)
        self.look(torch)
        self.backward.add()

    def look(self, torch: Any) -> None:
        """At the parameters; not in a capture, which that would break, but before one begins."""
        if not is_capturing(torch):
            self.guarded(self.parameters.backward, torch)

    def cuda_clocks(self) -> list[tuple[str, Any]]:
        cuda = self.torch.cuda
        return [("synchronize", cuda), ("elapsed_time", cuda.Event)]

    def compiler_imported(self, module: Any) -> None:
        compile_fx = module.compile_fx

        @functools.wraps(compile_fx)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.guarded(self.config, "compile")
            patches = kwargs.get("config_patches")
            if patches:
                told = {str(name): text(value) for name, value in patches.items()}
                self.notes.write("patches", values=told)
            return compile_fx(*args, **kwargs)

        module.compile_fx = noted

    def config(self, when: str) -> None:
        """What the compiler's configuration holds; each value is noted once."""
        for name in CONFIGS:
            module = sys.modules.get(name)
            if module is None:
                continue
            values = {}
            for key, value in module.get_config_copy().items():
                seen = (name, key, repr(value)[:300]) if is_plain(value) else None
                if seen is not None and seen not in self.config_seen:
                    self.config_seen.add(seen)
                    values[key] = seen[2]
            if values:
                self.notes.write("config", module=name, when=when, values=values)

    # -- the script's own lines --------------------------------------------------------------

    def watch_stdout(self) -> None:
        write = sys.stdout.write

        def noted(piece: str) -> int:
            for part in piece.splitlines(keepends=True):
                self.line = (self.line + part)[:LINE_CHARS]
                if not self.told and is_result(self.line):
                    self.told = True
                    if not self.lines.total:
                        self.guarded(self.first_line)
                    self.lines.add()
                if part.endswith("\n"):
                    self.line, self.told = "", False
            return write(piece)

        sys.stdout.write = noted  # type: ignore[method-assign]

    def first_line(self) -> None:
        self.config("clock")
        compared = self.parameters.at_clock(self.torch) if self.torch else None
        self.notes.write(
            "clock",
            parameters=compared,
            replaced=self.replaced(),
            rchar=bytes_read(),
            mapped=mapped_bytes(),
        )

    def replaced(self) -> list[str]:
        """Names of clock functions that are not the ones the interpreter came with."""
        owners: list[tuple[str, Any]] = [(name, time) for name in CLOCKS]
        if self.torch is not None:
            owners += self.cuda_clocks()
        return [n for n, owner in owners if getattr(owner, n, None) is not self.originals[n]]

    def guarded(self, function: Callable[..., Any], *arguments: Any) -> None:
        if getattr(_own, "busy", False):
            return
        _own.busy = True
        try:
            function(*arguments)
        except Exception as error:
            self.notes.write("trouble", event=function.__name__, why=text(error))
        finally:
            _own.busy = False

    def watch_exit(self) -> None:
        """os._exit leaves without a word, and some scripts end so on purpose."""
        leave = os._exit

        def noted(status: int) -> NoReturn:
            self.end("os._exit")
            leave(status)

        os._exit = noted

    def end(self, how: str) -> None:
        self.backward.flush()
        self.steps.flush()
        self.lines.flush()
        self.guarded(self.config, "end")
        self.notes.write(
            "end",
            how=how,
            replaced=self.replaced(),
            backward=self.backward.total,
            optimizer=self.steps.total,
            left_out=self.notes.left_out,
        )
        # The hook outlives the script; what it holds must not.
        self.torch = None
        self.parameters.references.clear()


def run(script: str) -> None:
    """As `python SCRIPT` would."""
    script = os.path.abspath(script)
    sys.argv[:] = [script]
    sys.path[0] = os.path.dirname(os.path.realpath(script))
    main = types.ModuleType("__main__")
    main.__dict__.update({"__file__": script, "__builtins__": __builtins__, "__cached__": None})
    sys.modules["__main__"] = main
    with open(script, "rb") as file:
        code = compile(file.read(), script, "exec", dont_inherit=True)
    exec(code, main.__dict__)


def print_defaults() -> None:
    """`--defaults`: what the compiler's configuration is when nobody has touched it."""
    values = {}
    for name in CONFIGS:
        copy = importlib.import_module(name).get_config_copy()
        values[name] = {k: repr(v)[:300] for k, v in copy.items() if is_plain(v)}
    sys.stdout.write(json.dumps(values))


def start() -> None:
    if sys.argv[1:] == ["--defaults"]:
        print_defaults()
        return
    shim = Shim(os.environ.pop("SPEEDRUN_AUDIT_OUT"))
    wanted = {"torch": shim.torch_imported, "torch._inductor.compile_fx": shim.compiler_imported}
    sys.meta_path.insert(0, Finder(wanted))
    sys.addaudithook(shim.hook)
    shim.watch_stdout()
    shim.watch_exit()
    how = "exit"
    try:
        run(sys.argv[1])
    except BaseException as error:
        how = type(error).__name__
        raise
    finally:
        shim.end(how)


if __name__ == "__main__":
    start()
