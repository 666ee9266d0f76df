"""What a training script does beside training: processes, introspection, files it should not read.

Most of it has honest uses, so it is named for the reviewer and fails nothing.
"""

from __future__ import annotations

import ast
import re

from harness.scan.analysis import Analysis
from harness.scan.finding import Severity, excerpt
from harness.scan.scopes import Scope
from harness.scan.values import Const, Items, Method, Values, paths, strings
from harness.scan.words import words

INTROSPECTION: dict[str, str] = {
    "gc.get_objects": "it reaches objects that nobody handed over",
    "gc.get_referrers": "it reaches objects that nobody handed over",
    "gc.get_referents": "it reaches objects that nobody handed over",
    "sys._getframe": "it reads or changes variables of other functions",
    "sys._current_frames": "it reads or changes variables of other functions",
    "inspect.currentframe": "it reads or changes variables of other functions",
    "inspect.stack": "it reads or changes variables of other functions",
    "sys.settrace": "code runs between all other lines",
    "sys.setprofile": "code runs between all other calls",
    "threading.settrace": "code runs between all other lines",
    "threading.setprofile": "code runs between all other calls",
    "sys.addaudithook": "the audit run listens there too",
}
SHELLS = re.compile(
    r"^(subprocess\.(run|call|check_call|check_output|Popen|getoutput|getstatusoutput)"
    r"|os\.(system|popen))$"
)
PROCESSES = re.compile(
    r"^(os\.(fork|forkpty|exec\w+|spawn\w+|posix_spawn\w*)|pty\.(fork|spawn)"
    r"|(torch\.)?multiprocessing\.(Process|Pool|spawn|start_processes|get_context|Manager)"
    r"|torch\.multiprocessing\.spawn\.\w+"
    r"|concurrent\.futures\.(process\.)?ProcessPoolExecutor)$"
)
NETWORK = re.compile(
    r"^(socket\.(socket|create_connection)|urllib\.request\.|requests\.|http\.client\.)"
)
BINARIES = re.compile(
    r"^(kernels\.(get_kernel|get_local_kernel|load_kernel)|torch\.ops\.load_library"
    r"|torch\.utils\.cpp_extension\.(load|load_inline)|ctypes\.(CDLL|PyDLL|cdll\.LoadLibrary)"
    r"|ctypes\.cdll\..*|torch\.classes\.load_library)$"
)
MEMORY = re.compile(
    r"^ctypes\.(pythonapi.*|memmove|memset|string_at|py_object|cast|util\.find_library.*"
    r"|\w+\.(from_address|in_dll))$"
)
SIGNALS = re.compile(r"^signal\.(signal|setitimer|alarm|pthread_kill|raise_signal|sigaction)$")
# Programs that only tell about the machine or the repository.
REPORTERS = words(
    "nvidia-smi git hostname uname lscpu lsb_release nvcc free df date whoami uptime ldd "
    "nvidia-debugdump numactl rocm-smi pip"
)
OPENERS = words(
    "builtins.open io.open os.open numpy.fromfile numpy.memmap numpy.load numpy.loadtxt torch.load "
    "torch.from_file torch.UntypedStorage.from_file mmap.mmap glob.glob glob.iglob os.listdir "
    "os.scandir os.walk safetensors.torch.load_file safetensors.safe_open shutil.copy "
    "shutil.copyfile json.load"
)
OPENING_METHODS = words("open read_text read_bytes glob rglob iterdir")
OTHERS_FILES = re.compile(
    r"(^|/)(results|records)/|ledger\.jsonl|verdict\.json|plan\.json|(^|/)runs/(candidate|baseline)"
    r"|(^|/)(source/)?baseline/|(candidate|baseline)-\d+\.(log|times|err)"
)
VALIDATION_FILE = re.compile(r"(^|[/_.\-])val(id(ation)?)?([/_.\-\d*]|$)", re.IGNORECASE)
VALIDATING = re.compile(r"val|eval|score|test", re.IGNORECASE)


def find_surroundings(analysis: Analysis) -> None:
    """Names what the script does to its process, its machine and other files."""
    for node, scope in analysis.program.calls:
        function = analysis.resolver.values(node.func, scope)
        for path in paths(function):
            _judge_call(analysis, path, node, scope)
        _judge_read(analysis, function, node, scope)


def find_sleeps(analysis: Analysis) -> None:
    """Sleeping slows a run: of interest in the arm that others are compared with."""
    for node, scope in analysis.program.calls:
        if "time.sleep" in paths(analysis.resolver.values(node.func, scope)):
            analysis.add(
                node,
                scope,
                "sleep",
                "warn",
                "the baseline sleeps",
                "a baseline that waits makes the candidate look fast",
                "compare with the standing record as it is",
            )


def _judge_call(analysis: Analysis, path: str, node: ast.Call, scope: Scope) -> None:
    def say(rule: str, severity: Severity, what: str, why: str, remedy: str) -> None:
        analysis.add(node, scope, rule, severity, what, why, remedy)

    if path in INTROSPECTION:
        say("introspection", "warn", f"{path} is used", INTROSPECTION[path], "do without it")
    elif SHELLS.match(path):
        program = _program(analysis, node, scope)
        if program not in REPORTERS:
            what = f"{path} starts {excerpt(program, 30) or 'another program'}"
            say("process", "warn", what, "its work is outside the clock's sight", "do without it")
    elif PROCESSES.match(path):
        why = "a child may work before the clock starts or after it stops"
        say(
            "process",
            "warn",
            f"{path} starts another process",
            why,
            "say what the child does, and when",
        )
    elif NETWORK.match(path):
        say(
            "network",
            "warn",
            f"{path} talks to the network",
            "a run must not need it",
            "do without it",
        )
    elif MEMORY.match(path):
        why = "it reads or writes memory behind Python's back"
        say("memory", "warn", f"{path} is used", why, "do without it")
    elif BINARIES.match(path):
        name = ", ".join(
            excerpt(s, 40) for s in strings(analysis.resolver.arguments(node, scope).at(0))[:1]
        )
        what = f"{path} loads compiled code" + (f": {name}" if name else "")
        say(
            "binary",
            "note",
            what,
            "a binary cannot be read",
            "say where it comes from, with its hash",
        )
    elif SIGNALS.match(path):
        say("signal", "note", f"{path} is used", "it can interrupt any line", "say what for")


def _program(analysis: Analysis, node: ast.Call, scope: Scope) -> str:
    """First word of the command, "" if it is not known."""
    for value in analysis.resolver.arguments(node, scope).at(0, "args"):
        if isinstance(value, Const) and isinstance(value.value, str):
            return (value.value.split() or [""])[0].rpartition("/")[2]
        if isinstance(value, Items) and value.elements:
            return next(iter(strings(value.elements[0])), "").rpartition("/")[2]
    return ""


def _judge_read(analysis: Analysis, function: Values, node: ast.Call, scope: Scope) -> None:
    opened: list[str] = []
    if OPENERS.intersection(paths(function)):
        given = analysis.resolver.arguments(node, scope)
        opened = strings(given.at(0, "path"))
    for value in function:
        if isinstance(value, Method) and value.name in OPENING_METHODS:
            opened += strings((value.owner,))
    for path in opened:
        if OTHERS_FILES.search(path):
            analysis.add(
                node,
                scope,
                "reads-evidence",
                "warn",
                f"{excerpt(path)} is opened",
                "evidence of runs is no business of a script",
                "read training and validation tokens only",
            )
        elif VALIDATION_FILE.search(path) and not _validates(scope, node):
            analysis.add(
                node,
                scope,
                "reads-validation",
                "warn",
                f"{excerpt(path)} is opened outside a function that validates",
                "validation tokens must not be trained on",
                "read validation tokens where the validation loss is computed",
            )


def _validates(scope: Scope, node: ast.Call) -> bool:
    return any(VALIDATING.search(name) for name in scope.enclosing_names())
