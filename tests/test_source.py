"""What travels with a script, and what counts as the same code."""

from __future__ import annotations

import contextlib
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.source import Source, normal_form, read_source


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return root / next(iter(files))


def closure(root: Path, files: dict[str, str]) -> set[str]:
    return set(read_source(write(root, files)).files)


def test_a_sibling_travels_and_its_siblings_too(tmp_path: Path) -> None:
    assert closure(
        tmp_path,
        {
            "a.py": "import b\nimport os, json\n",
            "b.py": "def f():\n    from c import g\n",
            "c.py": "g = 1\n",
            "unused.py": "",
        },
    ) == {"a.py", "b.py", "c.py"}


def test_packages_submodules_and_relative_imports(tmp_path: Path) -> None:
    files = {
        "a.py": "import pkg.deep.leaf\nfrom pkg import kernels\nimport spaced.module\n",
        "pkg/__init__.py": "from . import common\n",
        "pkg/common.py": "from .deep import other as o\n",
        "pkg/kernels.py": "import root_helper\n",
        "pkg/deep/__init__.py": "",
        "pkg/deep/leaf.py": "from .. import up\nfrom ..kernels import *\n",
        "pkg/deep/other.py": "from ... import beyond\n",
        "pkg/up.py": "",
        "root_helper.py": "",
        "spaced/module.py": "",  # a namespace package has no __init__.py
        "pkg/never.py": "",
    }
    assert closure(tmp_path, files) == set(files) - {"pkg/never.py"}


def test_cycles_end(tmp_path: Path) -> None:
    assert closure(tmp_path, {"a.py": "import b", "b.py": "import a\nimport b"}) == {"a.py", "b.py"}


def test_imports_in_odd_places_are_found(tmp_path: Path) -> None:
    files = {
        "a.py": """
            try:
                import b as other
            except ImportError:
                other = None
            if __name__ == "__main__":
                class A:
                    from c import d
        """,
        "b.py": "",
        "c.py": "",
        "d.py": "",
    }
    assert closure(tmp_path, files) == {"a.py", "b.py", "c.py"}


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write(outside, {"secret.py": "KEY = 1", "package/__init__.py": ""})
    inside = tmp_path / "inside"
    script = write(inside, {"a.py": "import secret, package, near", "real.py": "X = 1"})
    (inside / "secret.py").symlink_to(outside / "secret.py")
    (inside / "package").symlink_to(outside / "package")
    (inside / "near.py").symlink_to("real.py")
    source = read_source(script)
    assert set(source.files) == {"a.py", "near.py"}
    assert source.files["near.py"] == "X = 1"


def test_a_script_reached_through_a_link_brings_the_siblings_of_the_real_one(
    tmp_path: Path,
) -> None:
    # Python puts the real file's folder on sys.path.
    real = write(tmp_path / "real", {"train.py": "import helper", "helper.py": ""})
    link = tmp_path / "link.py"
    link.symlink_to(real)
    source = read_source(link)
    assert source.script == "train.py"
    assert set(source.files) == {"train.py", "helper.py"}


def test_hashes_move_with_every_byte_and_every_name(tmp_path: Path) -> None:
    base = Source("a.py", {"a.py": "x = 1\n", "b.py": "y = 2\n"})
    variants = [
        base,
        Source("a.py", {"a.py": "x = 1 \n", "b.py": "y = 2\n"}),
        Source("a.py", {"a.py": "x = 1\n", "c.py": "y = 2\n"}),
        Source("a.py", {"a.py": "x = 1\n"}),
        Source("a.py", {"a.py": "y = 2\n", "b.py": "x = 1\n"}),
    ]
    assert len({source.sha256() for source in variants}) == len(variants)
    plan = base.arm_plan("here")
    assert plan.source_sha256 == base.sha256()
    assert plan.files == base.hashes()
    turned = Source("a.py", dict(reversed(base.files.items())))
    assert turned.sha256() == base.sha256()


CODE = '''
"""Module docstring."""
import os  # noqa

def train(rate=0.02, steps=1390):
    """Docstring."""
    # a comment
    return rate * (steps + 1)

class Model:
    """Docstring."""
    def forward(self, x): return x['a']
'''
SAME = '''
import os
def train(rate = .02, steps = 1_390):
    return (rate
            * (steps+1))


class Model:

    def forward(self, x):
        """Another."""
        return x["a"]
'''


def test_formatting_comments_and_docstrings_do_not_count() -> None:
    assert normal_form(CODE) == normal_form(SAME)
    one, two = Source("a.py", {"a.py": CODE}), Source("a.py", {"a.py": SAME})
    assert one.syntax_sha256() == two.syntax_sha256()
    assert one.sha256() != two.sha256()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("0.02", "0.021"),
        ("1390", "1389"),
        ("'a'", "'b'"),
        ("rate *", "rate +"),
        ("import os", "import sys"),
        ("class Model", "class Modal"),
        ("return x", "x"),
    ],
)
def test_one_changed_constant_or_name_counts(before: str, after: str) -> None:
    assert before in CODE
    assert normal_form(CODE.replace(before, after, 1)) != normal_form(CODE)


def test_a_body_of_nothing_but_its_docstring() -> None:
    assert normal_form('def f():\n    "doc"\n') == normal_form("def f():\n    pass\n")
    assert normal_form("x = 'not a docstring'\n") != normal_form("x = 'other'\n")


@given(st.text(max_size=80))
def test_normal_form_takes_any_text(text: str) -> None:
    assert normal_form(text) == normal_form(text)


DEEP = {
    "sum": "x = 1" + "+1" * 5000,
    "minus": "x = " + "-" * 50_000 + "1",
    "calls": "f" + "()" * 20_000,
    "brackets": "x = " + "(" * 300 + ")" * 300,
    "elif": "if 1:\n pass\n" + "elif 1:\n pass\n" * 3000,
}


@pytest.mark.parametrize("name", DEEP)
def test_code_that_nests_too_deeply_ends_in_no_traceback(tmp_path: Path, name: str) -> None:
    assert normal_form(DEEP[name])
    path = tmp_path / "a.py"
    path.write_text(DEEP[name])
    # Which of them parse differs between versions of Python; a refusal says why.
    with contextlib.suppress(UsageError):
        read_source(path)
    path.write_text(DEEP["minus"])
    with pytest.raises(UsageError, match="not valid Python") as caught:
        read_source(path)
    assert caught.value.why


def test_odd_escapes_of_a_script_do_not_warn_here(tmp_path: Path) -> None:
    # Warnings are errors in these tests; Python itself runs such a script.
    script = write(tmp_path, {"a.py": "import re\nre.compile('\\d')\n"})
    assert read_source(script).files


def test_bytes_that_python_reads_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(b"\xef\xbb\xbfx = 1\r\ny = 2\r\n")
    source = read_source(path)
    assert source.files == {"a.py": "x = 1\ny = 2\n"}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.py", b"if:\n", "not valid Python"),
        ("a.py", b"x = 1\n\x00", "not valid Python"),
        ("a.py", b"x = '\xff'", "not UTF-8"),
        ("a.txt", b"x = 1", "not a Python file"),
        ("a.py", b"x = 1\n" + b"# " + b"x" * (9 << 20), "larger than 8 MiB"),
    ],
)
def test_what_cannot_be_a_candidate(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UsageError, match=words):
        read_source(path)


def test_a_broken_sibling_is_named_with_its_line(tmp_path: Path) -> None:
    script = write(tmp_path, {"a.py": "import b", "b.py": "x = 1\ny = (\n"})
    with pytest.raises(UsageError) as caught:
        read_source(script)
    assert caught.value.where == f"{tmp_path / 'b.py'}:2"


def test_no_script_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.py", tmp_path):
        with pytest.raises(UsageError, match="no script"):
            read_source(path)
