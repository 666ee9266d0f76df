"""The audit run's shim: `python audit_shim.py SCRIPT` runs SCRIPT as __main__ and takes notes.

Runs in the candidate's interpreter, so it imports nothing of the harness, and torch only once the
script has. It changes nothing that is computed: it counts calls, reads samples of the parameters,
and notes what Python's audit events say (files, sockets, processes). Notes go, one JSON line each,
to a folder named by SPEEDRUN_AUDIT_OUT, which is taken out of the environment first.

It lives in the candidate's own process: a script that hunts for it can lie to it. What must not
depend on its honesty is also watched from outside (observer.py).
"""

import functools
import gc
import json
import math
import os
import sys
import threading
import time
import types
import weakref

OUT = os.environ.pop("SPEEDRUN_AUDIT_OUT", "")
DATA = os.path.realpath(os.environ.get("DATA_PATH", "."))
LINES_OF_A_KIND = 5000
CALLS_LIMIT = 400_000
SAMPLES, TENSORS = 128, 4000
CLOCKS = ("perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time", "time_ns")
CLOCK_FUNCTIONS = {name: getattr(time, name) for name in CLOCKS}
CONFIGS = ("torch._inductor.config", "torch._dynamo.config", "torch._functorch.config")
COMPILER_VARIABLES = ("TORCHINDUCTOR_", "TORCH_COMPILE", "TORCHDYNAMO_", "TRITON_", "PYTORCH_")
PROCESS_EVENTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
now = time.monotonic
_own = threading.local()


class Notes:
    """The file of notes: appended line by line, so that a killed run leaves what it noted."""

    def __init__(self, folder):
        name = f"rank-{os.environ.get('RANK', '0')}-{os.getpid()}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        self.descriptor = os.open(os.path.join(folder, name), flags, 0o600)
        self.counts, self.left_out = {}, {}

    def write(self, kind, **fields):
        count = self.counts[kind] = self.counts.get(kind, 0) + 1
        if count > LINES_OF_A_KIND and kind != "end":
            self.left_out[kind] = self.left_out.get(kind, 0) + 1
            return
        line = json.dumps({"k": kind, "t": now(), "pid": os.getpid(), **fields}, default=repr)
        try:
            os.write(self.descriptor, line.encode("utf-8", "backslashreplace") + b"\n")
        except OSError:
            pass


class Calls:
    """Moments of calls of one kind, written 256 to a line."""

    def __init__(self, notes, kind):
        self.notes, self.kind, self.moments, self.total = notes, kind, [], 0

    def add(self):
        self.total += 1
        if self.total <= CALLS_LIMIT:
            self.moments.append(round(now(), 4))
            if len(self.moments) >= 256:
                self.flush()

    def flush(self):
        moments, self.moments = self.moments, []
        if moments:
            self.notes.write(self.kind, at=moments)


def text(value, limit=300):
    """A short text of anything."""
    try:
        if isinstance(value, bytes):
            value = os.fsdecode(value)
        return (value if isinstance(value, str) else repr(value))[:limit]
    except Exception:
        return "?"


class Files:
    """Opened files. The interpreter's own are left out; data files are noted each time."""

    def __init__(self, notes):
        self.notes, self.seen = notes, {}
        roots = {sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)}
        self.python = tuple(os.path.realpath(root) + os.sep for root in roots if root != "/usr")

    def opened(self, path, mode, flags):
        if isinstance(path, int) or path is None:
            return
        path = os.path.abspath(os.fsdecode(path))
        writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR)) or any(
            c in (mode or "") for c in "wax+"
        )
        if not writes and path.startswith((*self.python, "/proc/", "/sys/")):
            return
        real = os.path.realpath(path)
        if not writes and real.startswith(self.python):
            return
        data = real.startswith(DATA + os.sep)
        times = self.seen[real, writes] = self.seen.get((real, writes), 0) + 1
        if times > (2000 if data else 3):
            return
        try:
            status = os.stat(real)
            size, changed = status.st_size, status.st_mtime
        except OSError:
            size = changed = None
        self.notes.write(
            "open", path=real[:1000], w=writes, size=size, mtime=changed, rchar=bytes_read()
        )


def bytes_read():
    """Bytes this process has read so far by read calls (Linux); mapped pages do not count."""
    try:
        descriptor = os.open("/proc/self/io", os.O_RDONLY)
        try:
            return int(os.read(descriptor, 64).split()[1])
        finally:
            os.close(descriptor)
    except (OSError, ValueError, IndexError):
        return None


def mapped_bytes():
    """Resident bytes of mapped files below DATA_PATH: what was touched of each (Linux)."""
    found, path = {}, None
    try:
        descriptor = os.open("/proc/self/smaps", os.O_RDONLY)
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if "/" in line and not line.startswith("VmFlags"):
                    path = line[line.index("/") :].rstrip()
                    path = path if path.startswith(DATA + os.sep) else None
                elif path and line.startswith("Rss:"):
                    found[path] = found.get(path, 0) + 1024 * int(line.split()[1])
                elif line[:1] in "0123456789abcdef" and "-" in line.split(" ")[0]:
                    path = None
    except (OSError, ValueError):
        return None
    return found


class Parameters:
    """Samples of every trainable tensor, before the first backward pass and at the first line."""

    def __init__(self):
        self.before = None
        self.references = []

    def found(self, torch):
        alive = {id(o): o for o in (reference() for reference in self.references) if o is not None}
        for o in gc.get_objects():
            try:
                if issubclass(type(o), torch.Tensor) and o.is_leaf and o.requires_grad:
                    if "Fake" not in type(o).__name__ and o.numel():
                        alive[id(o)] = o
            except Exception:
                continue
        return list(alive.values())[:TENSORS]

    def samples(self, torch, tensors):
        taken = []
        for tensor in tensors:
            try:
                flat = tensor.detach().reshape(-1)
                count = flat.numel()
                at = sorted({i * (count - 1) // max(SAMPLES - 1, 1) for i in range(SAMPLES)})
                values = flat[torch.tensor(at, device=flat.device)].double().cpu().tolist()
            except Exception:
                continue
            taken.append((tuple(tensor.shape), tuple(values)))
        return taken

    def first_backward(self, torch):
        if self.before is None:
            tensors = self.found(torch)
            self.references = [weakref.ref(tensor) for tensor in tensors]
            self.before = self.samples(torch, tensors)

    def at_clock(self, torch):
        """How the parameters stand to what they were before anything was trained.

        same    to the bit; kept: like before with training on top; fresh: drawn anew
        """
        if self.before is None:
            return None
        now_ = self.samples(torch, self.found(torch))
        earlier = {}
        for shape, values in self.before:
            earlier.setdefault(shape, []).append(values)
        tally = {"tensors": len(now_), "before": len(self.before), "same": 0, "kept": 0, "fresh": 0}
        changed = {}
        for shape, values in now_:
            if values in earlier.get(shape, ()):
                tally["same"] += 1
            else:
                changed.setdefault(shape, []).append(values)
        for shape, group in changed.items():
            old = [v for v in earlier.get(shape, ())]
            still = sum(s == shape and len(set(v)) == 1 for s, v in now_)
            # A tensor that was all zeros, or all ones, and is no more has been trained.
            moved = max(0, sum(len(set(v)) == 1 for v in old) - still)
            for values in group:
                related = any(correlation(values, other) > 0.5 for other in old)
                if related or moved > 0:
                    tally["kept"] += 1
                    moved -= not related
                else:
                    tally["fresh"] += 1
        return tally


def correlation(a, b):
    if len(a) != len(b) or len(a) < 3:
        return 0.0
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    x, y = [v - mean_a for v in a], [v - mean_b for v in b]
    scale = math.sqrt(math.fsum(v * v for v in x) * math.fsum(v * v for v in y))
    return math.fsum(p * q for p, q in zip(x, y)) / scale if scale > 0 else 0.0


class Shim:
    def __init__(self, folder):
        self.notes = Notes(folder)
        self.files = Files(self.notes)
        self.backward, self.steps = Calls(self.notes, "backward"), Calls(self.notes, "optimizer")
        self.parameters = Parameters()
        self.config_seen, self.torch, self.marked, self.line = set(), None, False, ""
        self.originals = dict(CLOCK_FUNCTIONS)

    # -- what Python's audit events say --------------------------------------------------------

    def hook(self, event, arguments):
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
                self.notes.write("process", event=event, what=text(arguments))
        except Exception:
            self.notes.write("trouble", event=event)
        finally:
            _own.busy = False

    # -- torch ---------------------------------------------------------------------------------

    def torch_imported(self, torch):
        self.torch = torch
        autograd, shim = torch.autograd, self

        def counted(function):
            @functools.wraps(function)
            def call(*args, **kwargs):
                shim.guarded(shim.parameters.first_backward, torch)
                shim.backward.add()
                return function(*args, **kwargs)

            return call

        autograd.backward, autograd.grad = counted(autograd.backward), counted(autograd.grad)
        compile_ = torch.compile

        @functools.wraps(compile_)
        def noted(*args, **kwargs):
            shim.notes.write(
                "compile", kwargs={n: text(v) for n, v in kwargs.items() if n != "model"}
            )
            return compile_(*args, **kwargs)

        torch.compile = noted
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        register_optimizer_step_pre_hook(lambda *_: shim.steps.add())
        for owner, name in ((torch.cuda, "synchronize"), (torch.cuda.Event, "elapsed_time")):
            self.originals[f"torch.{name}"] = getattr(owner, name)

    def compiler_imported(self, module):
        compile_fx = module.compile_fx

        @functools.wraps(compile_fx)
        def noted(*args, **kwargs):
            self.guarded(self.config, "compile")
            patches = kwargs.get("config_patches")
            if patches:
                self.notes.write("patches", values={str(n): text(v) for n, v in patches.items()})
            return compile_fx(*args, **kwargs)

        module.compile_fx = noted

    def config(self, when):
        """What the compiler's configuration holds; each value is noted once."""
        for name in CONFIGS:
            module = sys.modules.get(name)
            if module is None:
                continue
            values = {}
            for key, value in module.get_config_copy().items():
                if is_plain(value) and (name, key, repr(value)) not in self.config_seen:
                    self.config_seen.add((name, key, repr(value)))
                    values[key] = repr(value)[:300]
            if values:
                self.notes.write("config", module=name, when=when, values=values)

    # -- the script's own lines ----------------------------------------------------------------

    def watch_stdout(self):
        write = sys.stdout.write

        def noted(piece):
            if not self.marked:
                self.line = (self.line + piece).rpartition("\n")[2][:4096]
                said = piece if piece.startswith("step:") else self.line
                if said.startswith("step:") and ("val_loss:" in said or "train_time:" in said):
                    self.marked = True
                    self.guarded(self.first_line)
            return write(piece)

        sys.stdout.write = noted

    def first_line(self):
        self.config("clock")
        compared = self.parameters.at_clock(self.torch) if self.torch else None
        self.notes.write(
            "clock", parameters=compared, replaced=self.replaced(), rchar=bytes_read(),
            mapped=mapped_bytes(),
        )  # fmt: skip

    def replaced(self):
        """Names of clock functions that are not the ones the interpreter came with."""
        found = [n for n in CLOCKS if getattr(time, n, None) is not self.originals[n]]
        if self.torch is not None:
            cuda = self.torch.cuda
            for owner, name in ((cuda, "synchronize"), (cuda.Event, "elapsed_time")):
                if getattr(owner, name) is not self.originals.get(f"torch.{name}"):
                    found.append(f"torch.cuda {name}")
        return found

    def guarded(self, function, *arguments):
        if getattr(_own, "busy", False):
            return
        _own.busy = True
        try:
            function(*arguments)
        except Exception as error:
            self.notes.write("trouble", event=function.__name__, why=text(error))
        finally:
            _own.busy = False

    def end(self, how):
        self.backward.flush()
        self.steps.flush()
        self.guarded(self.config, "end")
        self.notes.write(
            "end", how=how, replaced=self.replaced(), backward=self.backward.total,
            optimizer=self.steps.total, left_out=self.notes.left_out,
        )  # fmt: skip
        # The hook outlives the script; what it holds must not.
        self.torch, self.originals = None, {}
        self.parameters.references.clear()


def is_plain(value):
    if isinstance(value, dict):
        return all(is_plain(k) and is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


class Finder:
    """Calls back when a module of interest has been imported; finds nothing itself."""

    def __init__(self, wanted):
        self.wanted = wanted

    def find_spec(self, name, path=None, target=None):
        callback = self.wanted.get(name)
        if callback is None:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                execute = spec.loader.exec_module

                def exec_module(module):
                    execute(module)
                    callback(module)

                spec.loader.exec_module = exec_module
                return spec
        return None


HOOKED = frozenset({"open", "socket.connect", "ctypes.dlopen", "os.putenv", *PROCESS_EVENTS})


def run(script):
    """As `python SCRIPT` would."""
    script = os.path.abspath(script)
    sys.argv[:] = [script]
    sys.path[0] = os.path.dirname(os.path.realpath(script))
    main = types.ModuleType("__main__")
    main.__file__, main.__builtins__ = script, __builtins__
    main.__dict__.update({"__cached__": None, "__annotations__": {}})
    sys.modules["__main__"] = main
    with open(script, "rb") as file:
        code = compile(file.read(), script, "exec", dont_inherit=True)
    exec(code, main.__dict__)


def print_defaults():
    """`--defaults`: what the compiler's configuration is when nobody has touched it."""
    import importlib

    values = {}
    for name in CONFIGS:
        copy = importlib.import_module(name).get_config_copy()
        values[name] = {k: repr(v)[:300] for k, v in copy.items() if is_plain(v)}
    print(json.dumps(values))


def start():
    if sys.argv[1:] == ["--defaults"]:
        print_defaults()
        return
    shim = Shim(OUT)
    wanted = {"torch": shim.torch_imported, "torch._inductor.compile_fx": shim.compiler_imported}
    sys.meta_path.insert(0, Finder(wanted))
    sys.addaudithook(shim.hook)
    shim.watch_stdout()
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
