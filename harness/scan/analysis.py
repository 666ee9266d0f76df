"""One source, read once: its program, the answers about names, and the findings so far."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from harness.scan.finding import Finding, Severity
from harness.scan.resolve import Resolver
from harness.scan.scopes import Program, Scope
from harness.scan.syntax import MAX_TOKENS, UnparsableError, count_tokens, parse_script
from harness.scan.writes import Write, collect_writes
from harness.source import Source
from harness.tracks.track import CompileRule


@dataclass(eq=False)
class Analysis:
    """What the rules look at, and where they put what they find."""

    source: Source
    rule: CompileRule
    program: Program
    resolver: Resolver
    trees: dict[str, ast.Module]
    findings: list[Finding] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)

    def add(
        self,
        node: ast.AST,
        scope: Scope,
        rule: str,
        severity: Severity,
        what: str,
        why: str,
        remedy: str,
    ) -> None:
        """Note a finding at `node`."""
        if id(node) in self.program.inlined:
            what += ", in a string that is executed"
        column = getattr(node, "col_offset", -1) + 1
        self.findings.append(
            Finding(
                scope.path, getattr(node, "lineno", 0), column, rule, what, why, remedy, severity
            )
        )


def analyse(source: Source, rule: CompileRule) -> Analysis:
    """Parse every file and resolve names. A file that does not parse becomes a finding."""
    from harness.scan.loaded_code import inline_strings

    program = Program()
    trees: dict[str, ast.Module] = {}
    findings = []
    tokens = 0
    # The started script first: what is too much is left out at the end.
    for path, text in sorted(source.files.items(), key=lambda f: (f[0] != source.script, f[0])):
        tokens += count_tokens(text)
        try:
            if tokens > MAX_TOKENS:
                raise UnparsableError(0, f"more than {MAX_TOKENS:,} tokens in all files together")
            trees[path] = parse_script(text)
        except UnparsableError as error:
            findings.append(unparsable(path, error))
            continue
        program.add_file(path, trees[path])
    main = program.files.get(source.script)
    if main is not None:
        program.modules.setdefault("__main__", main)
    program.settle()
    inline_strings(program)
    resolver = Resolver(program)
    resolver.rehearse()
    analysis = Analysis(source, rule, program, resolver, trees, findings)
    analysis.writes = collect_writes(program, resolver)
    return analysis


def unparsable(path: str, error: UnparsableError) -> Finding:
    """The finding for a file that cannot be read as Python."""
    return Finding(
        path=path,
        line=error.line,
        column=0,
        rule="syntax",
        what="this file cannot be read as a Python script",
        why=error.why,
        remedy="mend it; a script that cannot be read cannot be reviewed or started",
        severity="fail",
    )
