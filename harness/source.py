"""What ran: a script, the local files that travel with it, and their hashes.

The import closure is static: every `import x` whose `x.py` (or package folder) lies beside the
script, followed transitively. Nothing is executed.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.canonical import sha256_text
from harness.errors import UsageError
from harness.plan import ArmPlan

SOURCE_LIMIT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """The files of one arm.

    script   the file that is started, relative path
    files    relative posix path -> text, the script included
    """

    script: str
    files: dict[str, str]

    def hashes(self) -> dict[str, str]:
        return {path: sha256_text(text) for path, text in sorted(self.files.items())}

    def sha256(self) -> str:
        """One hash for the whole arm: over the sorted (path, sha256) list."""
        digest = hashlib.sha256()
        for path, file_hash in sorted(self.hashes().items()):
            digest.update(f"{path}\0{file_hash}\n".encode())
        return digest.hexdigest()

    def arm_plan(self, origin: str) -> ArmPlan:
        return ArmPlan(
            script=self.script, files=self.hashes(), source_sha256=self.sha256(), origin=origin
        )

    def syntax_sha256(self) -> str:
        """Hash of the code alone: comments, formatting and docstrings do not count."""
        parts = [f"{path}\0{normal_form(text)}" for path, text in sorted(self.files.items())]
        return sha256_text("\n".join(parts))


def normal_form(text: str) -> str:
    """The syntax tree without positions, comments and docstrings; the text if it does not parse
    or nests too deeply to be written out."""
    try:
        return _without_docstrings(_parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text


def _parse(text: str) -> ast.Module:
    """Syntax tree; a script's own "invalid escape sequence" is no business of this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def _without_docstrings(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            body = node.body
            if (
                body
                and isinstance(body[0], ast.Expr)
                and isinstance(body[0].value, ast.Constant)
                and isinstance(body[0].value.value, str)
            ):
                node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)


def read_source(script: Path) -> Source:
    """The script and its import closure; raises UsageError if it cannot be a candidate."""
    if not script.is_file():
        raise UsageError(
            f"no script at {script}",
            fix="give the path of one Python file, e.g. candidates/tiny.py",
        )
    # Python puts the folder of the real file on sys.path, whatever link it was started through.
    script = script.resolve()
    if script.suffix != ".py":
        raise UsageError(f"{script} is not a Python file", fix="give a .py file")
    root = script.parent
    files: dict[str, str] = {}
    waiting = [script.name]
    while waiting:
        name = waiting.pop()
        if name in files:
            continue
        text = _read(root / name)
        files[name] = text
        waiting += [path for path in _local_imports(text, root, name) if path not in files]
        if sum(map(len, files.values())) > SOURCE_LIMIT_BYTES:
            raise UsageError(
                "the script and what it imports are larger than 8 MiB",
                where=str(script),
                fix="keep data and logs out of the folder the script imports from",
            )
    return Source(script=script.name, files=dict(sorted(files.items())))


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path.name} is not UTF-8 text", where=str(path), why=str(error)
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read", why=str(error.strerror)) from None
    try:
        _parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise UsageError(
            f"{path.name} is not valid Python",
            where=f"{path}:{line}" if line else str(path),
            why=str(getattr(error, "msg", "") or error) or "it nests too deeply",
            fix="a script that does not parse would fail on the node: mend it first",
        ) from None
    return text


def _local_imports(text: str, root: Path, name: str) -> list[str]:
    """Relative posix paths of local modules that this file imports by name."""
    here = PurePosixPath(name).parent
    found: list[str] = []

    def look(dotted: str, base: PurePosixPath) -> None:
        parts = dotted.split(".") if dotted else []
        for depth in range(len(parts), 0, -1):
            path = base.joinpath(*parts[:depth])
            for option in (path.with_suffix(".py"), path / "__init__.py"):
                full = root / option
                # A link may point anywhere; only real files inside the folder travel.
                if full.is_file() and full.resolve().is_relative_to(root):
                    found.append(str(option))

    for node in ast.walk(_parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                look(alias.name, PurePosixPath("."))
        elif isinstance(node, ast.ImportFrom):
            base = here if node.level else PurePosixPath(".")
            for _ in range(max(node.level - 1, 0)):
                base = base.parent
            look(node.module or "", base)
            for alias in node.names:
                look(f"{node.module}.{alias.name}" if node.module else alias.name, base)
    return sorted(set(found))
