"""How every command ends: one clear line for a user's mistake, and an exit code that scripts can trust."""

import functools
import os
import sys
from collections.abc import Callable

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def user_errors(main: Callable) -> Callable:
    """Turn the errors that a user can cause into ``error: ...`` on stderr and exit code 2; Ctrl-C into 130.

    ValueError is this project's error for users (style: numbers and the remedy are in the message); OSError covers
    missing files, permissions and full disks. Anything else is a defect of ours and keeps its traceback.
    ``IMPACT_DEBUG=1`` shows the traceback of user errors too.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> None:
        try:
            main(argv)
        except (ValueError, OSError) as error:
            if os.environ.get("IMPACT_DEBUG"):
                raise
            print(f"error: {_describe(error)}", file=sys.stderr)
            sys.exit(USER_ERROR)
        except KeyboardInterrupt:
            print("interrupted: what was finished is kept; the same command continues.", file=sys.stderr)
            sys.exit(INTERRUPTED)

    return wrapped


def _describe(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; is the path right, and can it be read and written there?"
    return str(error)


def first_line(error: Exception) -> str:
    """Of what an error of another library says; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
