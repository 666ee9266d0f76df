"""Real code between two sources: what counts and what does not."""

from __future__ import annotations

import time

import pytest

from harness.checks.code_size import price
from harness.code_size import compare_code
from harness.scan.syntax import UnparsableError
from harness.source import Source

BASE = '''"""A script."""
import torch

def f(x):
    """Adds one."""
    y = x + 1
    return y

def g(x):
    return f(x)
'''


def source(text: str) -> Source:
    return Source("script.py", {"script.py": text})


def size(new: str, old: str = BASE):  # type: ignore[no-untyped-def]
    return compare_code(source(new), source(old))


def test_same_code() -> None:
    found = size(BASE)
    assert found.same
    assert (found.lines_added, found.lines_removed) == (0, 0)
    assert found.text() == "the same code, 6 lines"


def test_comments_formatting_and_docstrings_do_not_count() -> None:
    dressed = (
        BASE.replace('"""Adds one."""', '"""Says more."""')
        .replace("x + 1", "(x\n        + 1)  # one")
        .replace("import torch", "# first\n\n\nimport torch")
    )
    assert size(dressed).same
    assert size(dressed).lines_added == 0


def test_moved_code_has_no_nodes() -> None:
    head, f, g = BASE.partition("def g")[0].partition("def f")[0], "", ""
    f = "def f" + BASE.partition("def f")[2].partition("def g")[0]
    g = "def g" + BASE.partition("def g")[2]
    found = size(head + g + f)
    assert found.same
    assert found.lines_added == found.lines_removed > 0
    assert "moved code only" in found.text()


def test_added_and_removed() -> None:
    """`z = y * 2` is Assign, Name, Store, BinOp, Name, Load, Mult, Constant: 8 nodes; the changed
    return has 3 (Return, Name, Load)."""
    found = size(BASE.replace("    return y\n", "    z = y * 2\n    return z\n"))
    assert (found.lines_added, found.lines_removed) == (2, 1)
    assert (found.nodes_added, found.nodes_removed) == (11, 3)
    assert found.functions_added == ()


def test_functions_and_kernels() -> None:
    triton = "\nimport triton\n\n@triton.jit\ndef add_kernel(p):\n    pass\n"
    cuda = '\nSOURCE = """\n__global__ void __launch_bounds__(128) scale(float* x) {}\n"""\n'
    found = size(BASE + triton + cuda)
    assert found.functions_added == ("add_kernel",)
    assert found.kernels_added == ("add_kernel", "scale")
    assert size(BASE, BASE + triton).functions_removed == ("add_kernel",)


def test_file_name_of_the_script_does_not_count() -> None:
    a = Source("mine.py", {"mine.py": BASE, "zz.py": "x = 1\n"})
    b = Source("record.py", {"record.py": BASE, "zz.py": "x = 1\n"})
    assert compare_code(a, b).same
    assert compare_code(a, b).lines_added == 0


def test_long_files_are_compared_in_linear_time() -> None:
    old = "".join(f"a{i % 50} = {i % 7}\n" for i in range(12_500))
    started = time.process_time()
    found = size("b = 1\n" + old, old)
    assert time.process_time() - started < 5
    assert found.moved_ignored
    assert (found.lines_added, found.lines_removed) == (1, 0)


def test_many_equal_lines_do_not_hang_the_diff() -> None:
    old = "x = 1\n" * 5_000 + "".join(f"y{i} = x\n" for i in range(3_000))
    new = "".join(f"y{i} = x\n" for i in range(3_000)) + "x = 1\n" * 5_000
    started = time.process_time()
    size(new, old)
    assert time.process_time() - started < 5


def test_price_of_a_millisecond() -> None:
    found = size(BASE + "a = 1\nb = 2\n")
    assert price(found, 4.0) == "; +2 lines for 4 ms, 0.5 a millisecond"
    assert price(found, None) == price(found, -1.0) == price(size(BASE), 4.0) == ""


def test_no_python_raises() -> None:
    with pytest.raises(UnparsableError):
        size("def f(:\n")
