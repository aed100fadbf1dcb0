"""The two kinds of errors: a user's mistake, told in one line, and a fault of ours, with its traceback."""

import errno
import functools
import os
import sys
from collections.abc import Callable

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count


class UserError(ValueError):
    """A mistake that the user can mend: the message says what is wrong, with the numbers, and what to do."""


def user_errors(main: Callable) -> Callable:
    """End a command as scripts expect: exit code 2 and one line for a user's mistake, 130 for Ctrl-C.

    A :class:`UserError` is one, and so is an OSError that names a file (it is missing, or may not be read) or says that
    the disk is full. Every other exception is a fault of ours and keeps its traceback, with a line that asks for a report.
    ``IMPACT_DEBUG=1`` shows the traceback of user errors too.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> None:
        try:
            main(argv)
        except KeyboardInterrupt:
            print("interrupted: what was finished is kept; the same command continues.", file=sys.stderr)
            sys.exit(INTERRUPTED)
        except Exception as error:
            is_users = isinstance(error, UserError) or _is_about_the_disk(error)
            if is_users and not os.environ.get("IMPACT_DEBUG"):
                print(f"error: {_describe(error)}", file=sys.stderr)
                sys.exit(USER_ERROR)
            if not is_users:
                print("This is a fault of impact_pl, not of your input; please report it with:", file=sys.stderr)
            raise

    return wrapped


def _is_about_the_disk(error: Exception) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, OSError) and (error.filename is not None or error.errno in full)


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; is the path right, and can it be read and written there?"
    return str(error)


def first_line(error: Exception) -> str:
    """Of what an error of another library says; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
