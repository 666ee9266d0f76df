"""What names, strings and calls are found to be: the parts that the flag rules rest on."""

from __future__ import annotations

import pytest

from harness.scan.analysis import analyse
from harness.scan.values import Values, constants, is_open, paths
from harness.source import Source
from harness.tracks.track import CompileRule

PRELUDE = "import base64, codecs, functools, importlib, operator, sys, torch\n"


def value(expression: str, before: str = "", **siblings: str) -> Values:
    text = f"{PRELUDE}{before}\nRESULT = {expression}\n"
    files = {"script.py": text, **{f"{n}.py": code for n, code in siblings.items()}}
    analysis = analyse(Source("script.py", files), CompileRule())
    assert not analysis.findings
    return analysis.resolver.name("RESULT", analysis.program.files["script.py"])


CONSTANTS = {
    '"a" + "b" * 2': "abb",
    '"-".join(["a", "b"])': "a-b",
    '"".join(reversed("abc"))': "cba",
    '"%s=%03d" % ("a", 7)': "a=007",
    '"{1}{0}".format("a", "b")': "ba",
    '"{x}".format(x="a")': "a",
    "f\"{'a':>3}{'b'!r}\"": "  a'b'",
    '"abcdef"[1:4][::-1]': "dcb",
    'b"ab".decode("utf8")': "ab",
    '"nop".translate(str.maketrans("nop", "abc"))': "abc",
    'bytes.fromhex("6162").decode()': "ab",
    'base64.b64decode("YWI=").decode()': "ab",
    'codecs.decode("no", "rot13")': "ab",
    '"".join(chr(c ^ 1) for c in b"`c")': "ab",
    '"".join(map(chr, (97, 98)))': "ab",
    '"".join([a + b for a, b in zip("ac", "bd")])': "abcd",
    '{"k": ["x", "y"]}["k"][-1]': "y",
    'dict(a="b").get("a")': "b",
    '[*"ab", *("c",)][2]': "c",
    "int('7') + len('abc') - (2 if 0 else 2)": 8,
    'eval("1 + " + "1")': 2,
    '(lambda s: s.upper())("a")': "A",
    '"a_b".split("_")[1]': "b",
    'str(b"ab", "ascii")': "ab",
}


@pytest.mark.parametrize("expression", CONSTANTS)
def test_constant(expression: str) -> None:
    """The analysis finds what Python computes."""
    assert (
        eval(expression, {"base64": __import__("base64"), "codecs": __import__("codecs")})
        == (CONSTANTS[expression])
    )
    found = value(expression)
    assert constants(found) == [CONSTANTS[expression]]
    assert not is_open(found)


NOT_KNOWN = {
    "huge": '"a" * 10**9',
    "power": "9 ** 9 ** 9",
    "wide": 'f"{1:>1000000}"',
    "wide percent": '"%1000000d" % 1',
    "wide format": '"{:>1000000}".format(1)',
    "star width": '"%*d" % (1000000, 1)',
    "shift": "1 << 10**6",
    "reaching format": '"{0.__class__}".format(1)',
    "error": "1 / 0",
    "bytes of a number": "bytes(10**9)",
    "many": '"".join(str(i) for i in range(10**6))',
    "input": "sys.argv[1]",
}


@pytest.mark.parametrize("expression", NOT_KNOWN.values(), ids=NOT_KNOWN.keys())
def test_not_known(expression: str) -> None:
    assert is_open(value(expression))


REFERENCES = {
    "attribute": ("torch.cuda.synchronize", ""),
    "alias": ("t.compile", "import torch as t"),
    "from": ("c", "from torch import compile as c"),
    "getattr": ('getattr(torch, "com" + "pile")', ""),
    "reduce": ('functools.reduce(getattr, ["a", "b"], torch)', ""),
    "import_module": ('importlib.import_module("a.b").c', ""),
    "__import__": ('__import__("a.b").b.c', ""),
    "modules": ('sys.modules["a"].b', ""),
    "attrgetter": ('operator.attrgetter("a.b")(torch)', ""),
    "function": ("f()", "def f():\n    return torch.compile"),
    "method": ("C().f()", "class C:\n    def f(self):\n        return torch.compile"),
    "parameter": ("f(torch.compile)", "def f(x):\n    return x"),
    "keyword": ("f(x=torch.compile)", "def f(*, x=None):\n    return x"),
    "rest": ("f(1, torch.compile)", "def f(*a):\n    return a[1]"),
    "keywords": ("f(x=torch.compile)", "def f(**k):\n    return k['x']"),
    "closure": ("f()()", "def f():\n    c = torch.compile\n    return lambda: c"),
    "global": ("C", "def f():\n    global C\n    C = torch.compile"),
    "walrus": ("[y := torch.compile, y][1]", ""),
    "append": ("a[0]", "a = []\na.append(torch.compile)"),
    "ring": ("b", "a = torch.compile\nb = a\na = b"),
}


@pytest.mark.parametrize(("expression", "before"), REFERENCES.values(), ids=REFERENCES.keys())
def test_reference(expression: str, before: str) -> None:
    expected = {
        "attribute": "torch.cuda.synchronize",
        "reduce": "torch.a.b",
        "import_module": "a.b.c",
        "__import__": "a.b.c",
        "modules": "a.b",
        "attrgetter": "torch.a.b",
    }
    (name,) = [n for n, case in REFERENCES.items() if case == (expression, before)]
    assert expected.get(name, "torch.compile") in paths(value(expression, before))


def test_names_of_other_files() -> None:
    assert paths(value("m.c", "import m", m="import torch\nc = torch.compile")) == ["torch.compile"]
    assert paths(value("c", "from m import *", m="from torch import compile as c")) == [
        "torch.compile"
    ]


def test_scopes_are_kept_apart() -> None:
    before = "def f():\n    x = torch.compile\n    return 1\n\nclass C:\n    y = torch.compile\n"
    assert paths(value("x", before)) == []
    assert paths(value("y", before)) == []
    assert constants(value("f()", before)) == [1]


def test_both_branches_count() -> None:
    found = value("c", "c = torch.compile\nif sys.argv:\n    c = print\n")
    assert sorted(paths(found)) == ["builtins.print", "torch.compile"]
