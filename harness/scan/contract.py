"""Hints that a script will not keep the contract, before a run is paid for.

Lenient: a script may build its lines in ways that no reader of the source can follow, so nothing
here is a rule broken.
"""

from __future__ import annotations

import ast
import re

from harness.scan.analysis import Analysis
from harness.scan.finding import Finding, excerpt
from harness.scan.scopes import Scope
from harness.scan.syntax import code_text

RULE = "contract"
HOLE = "\ufffc"
"""Stands for a value that is filled in."""
_VALUE = rf"(?:{HOLE}|[\d.]+)"
RESULT = re.compile(
    rf"step:{_VALUE}/{_VALUE} val_loss:{_VALUE} train_time:{_VALUE}(?:ms|s) step_avg:{_VALUE}ms"
)
FORM = "step:{i}/{n} val_loss:{x} train_time:{ms}ms step_avg:{ms}ms"
_PERCENT = re.compile(r"%[-+ #0]*\d*(?:\.(\d+))?[diufFeEgGrs]")
_BRACES = re.compile(r"\{[^{}]*\}")
_DECIMALS = re.compile(r"\.(\d+)[fe]?")
FEW_DECIMALS = 4


def find_contract_hints(analysis: Analysis) -> tuple[Finding, ...]:
    """Result lines, RANK, DATA_PATH, and whether the strong checks are open."""
    before = len(analysis.findings)
    _result_lines(analysis)
    _variables(analysis)
    _scorer(analysis)
    found = analysis.findings[before:]
    del analysis.findings[before:]
    return tuple(found)


def strong_checks(analysis: Analysis) -> bool:
    """Does the script offer `load_scorer` and save a checkpoint on demand?"""
    tree = analysis.trees.get(analysis.source.script)
    return (
        tree is not None
        and _load_scorer(tree) is not None
        and "SPEEDRUN_CHECKPOINT" in _strings(analysis)
    )


def skeleton(node: ast.expr) -> str:
    """A string with every value that is filled in replaced by HOLE."""
    match node:
        case ast.Constant(value=str(text)):
            return _BRACES.sub(HOLE, _PERCENT.sub(HOLE, text))
        case ast.JoinedStr():
            return "".join(
                str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values
            )
        case ast.BinOp(op=ast.Add()):
            spine: list[ast.expr] = [node.right]
            left = node.left
            while isinstance(left, ast.BinOp) and isinstance(left.op, ast.Add):
                spine.append(left.right)
                left = left.left
            return "".join(skeleton(part) for part in (left, *reversed(spine)))
    return HOLE


def _result_lines(analysis: Analysis) -> None:
    mentions: list[tuple[ast.expr, Scope, str]] = []
    for node, scope in analysis.program.expressions:
        if isinstance(node, ast.JoinedStr | ast.BinOp | ast.Constant):
            text = skeleton(node)
            # A text without a value to fill in is an example or a docstring.
            if "val_loss:" in text and HOLE in text:
                mentions.append((node, scope, text))
    if any(RESULT.search(text) for _, _, text in mentions):
        for node, scope, _ in mentions:
            _few_decimals(analysis, node, scope)
        return
    why = "`speedrun submit` reads results from these lines alone"
    remedy = f"rank 0 prints {FORM}"
    if not mentions:
        what = "no result line was found"
        if any("val_loss" in text for text in analysis.source.files.values()):
            what = "no result line of the contract's form was found"
        _whole(analysis, "warn", what, why, remedy)
        return
    node, scope, text = mentions[0]
    shown = excerpt(text.replace(HOLE, "{}"), 90)
    what = f"no result line of the contract's form was found; nearest: {shown}"
    analysis.add(node, scope, RULE, "warn", what, why, remedy)


def _few_decimals(analysis: Analysis, node: ast.expr, scope: Scope) -> None:
    if not isinstance(node, ast.JoinedStr):
        return
    before = ""
    for part in node.values:
        if isinstance(part, ast.Constant):
            before = str(part.value)
        elif isinstance(part, ast.FormattedValue):
            spec = skeleton(part.format_spec) if part.format_spec is not None else ""
            digits = _DECIMALS.search(spec)
            if before.endswith("val_loss:") and digits and int(digits.group(1)[:3]) < FEW_DECIMALS:
                analysis.add(
                    part,
                    scope,
                    RULE,
                    "warn",
                    f"the validation loss is printed with {digits.group(1)} decimals",
                    "the test needs the run-to-run spread, about 0.0014 nats",
                    "print six decimals: {val_loss:.6f}",
                )
            before = ""


def _variables(analysis: Analysis) -> None:
    found = _strings(analysis)
    text = "\n".join(analysis.source.files.values())
    if not ({"RANK", "LOCAL_RANK"} & found or "get_rank" in text):
        _whole(
            analysis,
            "warn",
            "RANK is never read",
            "every process may print, and each would be taken for a result",
            'print on rank 0 only: int(os.environ.get("RANK", 0)) == 0',
        )
    if "DATA_PATH" not in found:
        _whole(
            analysis,
            "warn",
            "DATA_PATH is never read",
            "it names the folder that holds data/; the working folder is a copy without data",
            'look for data under os.environ.get("DATA_PATH", ".")',
        )


def _scorer(analysis: Analysis) -> None:
    tree = analysis.trees.get(analysis.source.script)
    if tree is None:
        return
    scorer = _load_scorer(tree)
    scope = analysis.program.files[analysis.source.script]
    saves = "SPEEDRUN_CHECKPOINT" in _strings(analysis)
    if scorer is None or not saves:
        missing = "load_scorer" if scorer is None else "SPEEDRUN_CHECKPOINT"
        _whole(
            analysis,
            "note",
            f"the strong checks are closed: no {missing}",
            "the loss will be judged from the log alone, and the verdict says so",
            "see docs/contract.md, point 4",
        )
        return
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            name = code_text(node.value.func)
            if name in ("main", "train", "run"):
                analysis.add(
                    node,
                    scope,
                    RULE,
                    "warn",
                    f"importing the script calls {name}()",
                    "the scorer is loaded by importing it, and that must start nothing",
                    'put the call under if __name__ == "__main__":',
                )


def _load_scorer(tree: ast.Module) -> ast.stmt | None:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "load_scorer":
            return node
    return None


def _strings(analysis: Analysis) -> set[str]:
    return {
        node.value
        for node, _ in analysis.program.expressions
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _whole(analysis: Analysis, severity: str, what: str, why: str, remedy: str) -> None:
    """A finding about the started script as a whole."""
    analysis.findings.append(
        Finding(
            path=analysis.source.script,
            line=0,
            column=0,
            rule=RULE,
            what=what,
            why=why,
            remedy=remedy,
            severity="note" if severity == "note" else "warn",
        )
    )
