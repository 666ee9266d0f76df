"""The `speedrun` command: one line a command here, each in its own file, imported when called."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from harness import __version__
from harness.errors import EXIT_INTERRUPTED, EXIT_USAGE, SpeedrunError, UnfitError
from harness.terminal import Terminal

app = typer.Typer(
    name="speedrun",
    help="Run, judge and publish record attempts in training-speed contests.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="exit codes: 0 accepted, 1 not proven, 2 usage, 3 a rule is broken, "
    "4 unfit environment, 5 runs failed, 130 interrupted",
)


def _version(wanted: bool) -> None:
    if wanted:
        Terminal().data(f"speedrun {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _register() -> None:
    from harness.cli.audit import audit
    from harness.cli.board import app as board
    from harness.cli.check import check
    from harness.cli.data import app as data
    from harness.cli.docs import docs
    from harness.cli.doctor import doctor
    from harness.cli.history import history
    from harness.cli.plan import plan
    from harness.cli.pr import pr
    from harness.cli.promote import promote
    from harness.cli.report import report
    from harness.cli.retime import retime
    from harness.cli.schema import schema
    from harness.cli.sign import sign
    from harness.cli.submit import submit
    from harness.cli.verify import verify

    for command in (
        submit,
        check,
        verify,
        sign,
        audit,
        retime,
        plan,
        report,
        doctor,
        history,
        schema,
        promote,
        pr,
        docs,
    ):
        app.command(command.__name__)(command)
    app.add_typer(data, name="data")
    app.add_typer(board, name="board")


_register()


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: every user error becomes one message and its exit code, never a traceback."""
    terminal = Terminal()
    try:
        app(args=arguments, standalone_mode=True)
    except SpeedrunError as error:
        terminal.error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        terminal.failure("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_USAGE)
    except OSError as error:
        # What no command expected of the file system: a full disk, a folder that went away.
        unfit = UnfitError(
            "the operating system refused",
            where=str(error.filename or ""),
            why=str(error.strerror or error),
            fix="look to the disk and to who may write there; what was written before is intact",
        )
        terminal.error(unfit)
        sys.exit(unfit.exit_code)


if __name__ == "__main__":
    main()
