"""The reference of all commands as Markdown, read off their signatures. Pure.

What a command says with --help is what the page says: usage, text, arguments, options, defaults.
It is taken from the functions themselves, so that neither a terminal's width nor typer's layout,
which differs between its versions, gets into the page.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

HEAD = """# Commands

Written by `speedrun docs --out docs/commands.md` from the `--help` texts; a test keeps them equal.
"""
TYPES = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument or option: its names as typed, whether it can be left out, what it means."""

    names: tuple[str, ...]
    takes: str
    is_option: bool
    required: bool
    meaning: str

    @property
    def usage(self) -> str:
        return self.takes if self.required else f"[{self.takes}]"


def render_reference(app: typer.Typer) -> str:
    """docs/commands.md."""
    codes = str(app.info.epilog or "").removeprefix("exit codes: ").split(", ")
    parts = [HEAD.rstrip(), "Exit codes: " + "; ".join(code.strip() for code in codes) + "."]
    parts += [_section(name, function) for name, function in commands(app, "speedrun")]
    return "\n\n".join(parts) + "\n"


def commands(app: typer.Typer, path: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """(full name, function) of every command, groups walked into, in the order of --help."""
    for command in app.registered_commands:
        function = command.callback
        if function is not None and not command.hidden:
            yield f"{path} {command.name or function.__name__.replace('_', '-')}", function
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from commands(group.typer_instance, f"{path} {group.name}")


def parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Arguments and options of a command in their order."""
    hints = typing.get_type_hints(function, include_extras=True)
    return tuple(
        _parameter(name, hints[name], given.default)
        for name, given in inspect.signature(function).parameters.items()
    )


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    import typer.models

    inner, info = typing.get_args(hint)[:2]
    is_option = isinstance(info, typer.models.OptionInfo)
    kind, several = _kind(inner)
    word = name.strip("_").upper()
    required = default is inspect.Parameter.empty
    if not is_option:
        takes = f"{word}..." if several else word
        return Parameter((takes,), takes, False, required, _meaning(info, None))
    plain = f"--{name.strip('_').replace('_', '-')}"
    # In an Annotated hint, typer keeps the first name where a default would stand.
    first = (info.default,) if isinstance(info.default, str) else ()
    names = (*first, *(info.param_decls or ()))
    if not names:
        names = (plain, f"--no-{plain[2:]}") if kind is bool else (plain,)
    takes = "" if kind is bool else str(info.metavar or TYPES.get(kind, "TEXT"))
    return Parameter(names, takes, True, required, _meaning(info, default))


def _kind(hint: Any) -> tuple[Any, bool]:
    """(type without None and list, is it a list?)."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, UnionType):
        (hint,) = [part for part in typing.get_args(hint) if part is not NoneType]
        origin = typing.get_origin(hint)
    return (typing.get_args(hint)[0], True) if origin is list else (hint, False)


def _meaning(info: Any, default: Any) -> str:
    text = " ".join(str(info.help or "").split())
    stated = default is None or default is False or default == "" or "efault" in text
    if not stated and default is not inspect.Parameter.empty:
        text = f"{text} Default: `{default}`."
    return text.replace("|", "\\|")


def _section(name: str, function: Callable[..., Any]) -> str:
    found = parameters(function)
    options = [parameter for parameter in found if parameter.is_option]
    arguments = [parameter for parameter in found if not parameter.is_option]
    words = [name, *(["[options]"] if options else []), *(p.usage for p in arguments)]
    parts = [f"## {name}", f"```\n{' '.join(words)}\n```", inspect.getdoc(function) or ""]
    if found:
        rows = [f"| {_names(p)} | {p.meaning} |" for p in (*arguments, *options)]
        parts.append("\n".join(["| argument or option | meaning |", "| --- | --- |", *rows]))
    return "\n\n".join(part for part in parts if part)


def _names(parameter: Parameter) -> str:
    if not parameter.is_option:
        return f"`{parameter.takes}`"
    takes = f" {parameter.takes}" if parameter.takes else ""
    return ", ".join(f"`{name}{takes}`" for name in parameter.names)
