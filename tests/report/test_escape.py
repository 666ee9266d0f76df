"""Untrusted text in Markdown renders as exactly that text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.report.escape import block, code, inline, one_line
from tests.report.cases import HOSTILE

RENDER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def text_of(markdown: str) -> tuple[str, set[str]]:
    """(text that a reader sees, types of the inline tokens) of one rendered paragraph."""
    tokens = RENDER.parse(markdown)
    assert [t.type for t in tokens] == ["paragraph_open", "inline", "paragraph_close"], markdown
    children = tokens[1].children or []
    seen = "".join(c.content for c in children if c.type != "html_inline")
    kinds = {c.type for c in children}
    if "html_inline" in kinds:
        assert {c.content for c in children if c.type == "html_inline"} == {"<!-- -->"}
    return seen, kinds - {"html_inline", "text_special"}


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "- item",
        "1. item",
        "# heading",
        "+ item",
        "---",
        "===",
        "> quote",
        "```",
        "a\nb",
        "<!-- comment -->",
        "![image](http://x.example/y.png)",
        "&lt;b&gt; &amp;",
        "C:\\path\\",
        "__init__.py and *all*",
    ],
)
def test_inline_renders_as_the_text_itself(text: str) -> None:
    seen, kinds = text_of(inline(text))
    assert seen == one_line(text)
    assert kinds <= {"text"}


@given(st.text(min_size=1).filter(str.strip))
def test_inline_renders_any_text_as_itself(text: str) -> None:
    seen, kinds = text_of(inline(text))
    assert seen == one_line(text)
    assert kinds <= {"text"}


@given(st.text(alphabet="`| \\a<", min_size=1).filter(str.strip))
def test_code_spans_hold_any_text(text: str) -> None:
    seen, kinds = text_of(code(text))
    assert seen == one_line(text)
    assert kinds == {"code_inline"}


def test_a_table_cell_cannot_break_its_row() -> None:
    table = f"| a | b |\n| --- | --- |\n| {inline(HOSTILE)} | {code(HOSTILE, table=True)} |"
    cells = [t for t in RENDER.parse(table) if t.type == "td_open"]
    assert len(cells) == 2


def test_mentions_references_and_addresses_do_not_link() -> None:
    shown = inline("@octocat fixes #12, see https://evil.example and www.evil.example")
    assert "@octocat" not in shown
    assert "#12" not in shown
    assert "https://" not in shown
    assert "www.evil" not in shown


def test_control_and_bidirectional_characters_are_shown() -> None:
    shown = inline("\x1b[31m \u202e \u200b \x00")
    assert shown == "\\\\x1b\\[31m \\\\u202e \\\\u200b \\\\x00"
    assert "\x1b" not in block("a\x1b[2Jb")


def test_a_fence_is_longer_than_any_inside() -> None:
    (fence,) = RENDER.parse(block("```\n# not a heading\n````", "sh"))
    assert fence.type == "fence"
    assert fence.content == "```\n# not a heading\n````\n"
