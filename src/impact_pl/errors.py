"""Separate user mistakes, reported in one line, from bugs of ours, which keep their traceback."""

import errno
import functools
import os
import select
import sys
from collections.abc import Callable
from typing import TextIO

from impact_pl.secrets import mask_secrets

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, the shell convention
PIPE_CLOSED = 141  # 128 + SIGPIPE
CONTINUES = "interrupted: what was finished is kept; the same command continues."
SHOWN_CHARACTERS = 60  # of an invalid value, in a message


class UserError(ValueError):
    """A mistake that the user can fix. The message states what is wrong, with the numbers, and what to do.

    It may quote a URL: passwords and tokens are masked.
    """

    def __init__(self, message: str = ""):
        super().__init__(mask_secrets(message))


def user_errors(main: Callable | None = None, *, interrupted: str = "interrupted") -> Callable:
    """Map the exceptions of a command to exit codes: 2 with one line for a user mistake, 130 for Ctrl-C.

    User mistakes are those that :func:`explain` explains. Every other exception is a bug: it keeps its traceback,
    followed by a line that asks for a report. ``IMPACT_DEBUG=1`` shows the traceback of user errors too. If the reader
    of our output is gone (``| head``), the exit code is 141 and nothing is printed.

    Args:
        main: The command. None returns a decorator.
        interrupted: What to say after Ctrl-C: ``CONTINUES`` if the same command does.
    """
    if main is None:
        return functools.partial(user_errors, interrupted=interrupted)

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> None:
        try:
            main(argv)
        except KeyboardInterrupt:
            print(interrupted, file=sys.stderr)
            sys.exit(INTERRUPTED)
        except Exception as error:
            if isinstance(error, BrokenPipeError) and not flush_output():
                sys.exit(PIPE_CLOSED)
            line = explain(error)
            if line is not None and not os.environ.get("IMPACT_DEBUG"):
                print(f"error: {line}", file=sys.stderr)
                sys.exit(USER_ERROR)
            if line is None:
                print("This is a fault of impact_pl, not of your input; please report it with:", file=sys.stderr)
            raise

    return wrapped


def flush_output() -> bool:
    """Flush stdout. Return False if nobody reads it any more; the rest is then dropped."""
    is_read = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
            has_reader = _has_reader(stream)
        except BrokenPipeError:
            has_reader = False
        if not has_reader:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # otherwise the interpreter complains at exit
            is_read = False
    return is_read


def _has_reader(stream: TextIO) -> bool:
    try:
        number = stream.fileno()
    except OSError:  # not a file, as in tests
        return True
    poll = select.poll()
    poll.register(number, 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def explain(error: BaseException) -> str | None:
    """Return the line to print for a user mistake, and None for everything else.

    User mistakes are :class:`UserError`, and OSErrors that name a file (missing or not accessible) or report a full
    disk. Line breaks and control characters, which file names may contain, are escaped.
    """
    if isinstance(error, UserError):
        return escaped(str(error))
    if not isinstance(error, OSError):
        return None
    where = f"{error.filename}: " if error.filename is not None else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return escaped(f"{where}{error.strerror}; free some space, then run the same command again")
    if not where:
        return None
    return escaped(f"{where}{error.strerror}; is the path right, and can it be read and written there?")


def first_line(error: Exception) -> str:
    """Return the first line of another library's error, or its type if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shown(text: str) -> str:
    """Shorten and escape what a message quotes, so that the message stays one readable line."""
    return escaped(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}...")


def escaped(text: str) -> str:
    """Escape line breaks and other characters that cannot be printed."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
