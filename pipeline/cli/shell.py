"""What all commands share: errors in one line, exit codes, facts, the log on stderr."""

from __future__ import annotations

import io
import logging
import math
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import click

from pipeline.errors import ConfigError, Interrupted, VpipeError
from pipeline.outputs import CLOSED
from pipeline.text import visible
from pipeline.threads import stuck_threads

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

FAILED, USAGE, INTERRUPTED = 1, 2, 130
PATIENCE_S = 0.2  # with who reads what is said


class Command(click.Group):
    """Turns what goes wrong into one line and an exit code, so that no traceback reaches a user."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        interrupt_on_signals()
        _make_streams_safe()
        try:
            return super().__call__(*args, **kwargs)
        except SystemExit as end:
            if stuck := stuck_threads():  # the interpreter would wait for them
                complain(f"not waited for any longer, as it hangs: {', '.join(stuck)}")
                logging.shutdown()
                with suppress(OSError, ValueError):
                    sys.stdout.flush()
                os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
            raise
        except OSError as error:  # of what click itself prints, as --help
            complain(f"standard output: {error.strerror or error}")
            _discard_stdout()
            sys.exit(FAILED)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        logging.raiseExceptions = False  # a log that cannot be written must not stop what it tells of
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            complain(error.problems)
            ctx.exit(USAGE)
        except Interrupted as error:
            complain([str(error)])
            ctx.exit(INTERRUPTED)
        except VpipeError as error:
            complain([str(error)])
            ctx.exit(FAILED)
        except KeyboardInterrupt:  # where there is nothing to leave in order
            complain(["interrupted"])
            ctx.exit(INTERRUPTED)
        except SystemExit as end:  # commands use `leave`
            complain(
                f"code of one's own asked for the end of the program (SystemExit: {end.code}); nothing more was done"
            )
            ctx.exit(FAILED)
        except BrokenPipeError:
            _discard_stdout()  # the reader has left; so do we
            ctx.exit(FAILED)
        except OSError as error:  # that nobody nearer to it had words for
            where = "" if error.filename is None else f"{error.filename}: "
            complain([f"{where}{error.strerror or error}"])
            _discard_stdout()  # in case it was that
            ctx.exit(FAILED)


def _discard_stdout() -> None:
    """What waits to be written there is not written any more, nor complained about at the interpreter's end."""
    with suppress(io.UnsupportedOperation):  # not the system's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def leave(code: int) -> NoReturn:
    """Ends the command."""
    click.get_current_context().exit(code)


class _Told(io.FileIO):
    """What is said to the user. That nobody can be told is no reason to end."""

    def write(self, data: Any) -> int:
        try:
            n = super().write(data)
            if n is None:  # a pipe that does not block, and a reader that is slow
                select.select([], [self], [], PATIENCE_S)
                n = super().write(data)
        except OSError:  # a disk that is full, a reader that has left
            n = None
        return len(data) if n is None else n


def _make_streams_safe() -> None:
    """Opens what the shell closed, lest a file of the run takes its number, and lets any file name be printed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            CLOSED.add(number)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Told(2, "w", closefd=False)), encoding, "backslashreplace", line_buffering=True
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def complain(problems: object) -> None:
    """Says one line or several on stderr."""
    for problem in problems if isinstance(problems, (list, tuple)) else [problems]:
        click.echo(f"vpipe: {visible(str(problem))}", err=True)


class Finite(click.FloatRange):
    """A number in a range; neither nan nor inf, which a range alone lets pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"must be a finite number, got {value}", param, ctx)
        return number


set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, as fold.frames=8. May be repeated."
)


MOST_FOLDED = 1024  # images: intensity is counted over as many


def listed(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """The values of an option that may be repeated or hold commas."""
    return tuple(dict.fromkeys(part.strip() for value in values for part in value.split(",")))


def _folds(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    parts = listed(context, option, values)
    if not all(part.isdecimal() and len(part) < 9 and 0 < int(part) <= MOST_FOLDED for part in parts):
        raise click.BadParameter(f"must be whole numbers in 1..{MOST_FOLDED}, as 1,2,4, got {','.join(values)!r}")
    return tuple(sorted(set(map(int, parts))))


def fold_option(default: str) -> Callable[[Decorated], Decorated]:
    """The option `folds`: each f, ascending."""
    told = f"Each f, images in a group. Default: {default}."
    return click.option(
        "--fold", "folds", multiple=True, metavar="F,...", default=(default,), callback=_folds, help=told
    )


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that are there.")


def facts(title: str, of: Mapping[str, object]) -> str:
    """A title and `key  value` lines. What holds further levels becomes lines of its own, further in."""
    return visible("\n".join([title.replace("\n", "\\n"), *_lines(of, "  ")]))


def _lines(of: Mapping[str, object], indent: str) -> Iterator[str]:
    there = {key: value for key, value in of.items() if value not in (None, (), {}, [])}
    width = max(map(len, there), default=0)
    for key, value in there.items():
        if isinstance(value, Mapping) and any(isinstance(item, Mapping) for item in value.values()):
            yield f"{indent}{key}"
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{indent}{key:<{width}}  {_shown(value)}"


def _shown(value: object, *, inner: bool = False) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        items = ", ".join(_shown(item, inner=True) for item in value)
        return f"[{items}]" if inner else items
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item, inner=True)}" for key, item in value.items() if item is not None)
    return str(value).replace("\n", "\\n")


def interrupt_on_signals() -> None:
    """SIGINT and SIGTERM raise KeyboardInterrupt, also where a shell started the command with SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def log_to_stderr(level: int) -> None:
    """From this level on, what the pipeline logs is said on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Visible("vpipe: %(message)s"))
    handler.setLevel(level)
    from pipeline.runs import LOGGERS

    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
