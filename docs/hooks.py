"""mkdocs hook: put the output of `impact ... --help` where a page says `<!-- impact ... --help -->`."""

import contextlib
import io
import os
import re

from impact_pl.cli.main import run


def on_page_markdown(markdown: str, **_) -> str:
    return re.sub(r"^<!-- impact (.*--help) -->$", _help, markdown, flags=re.MULTILINE)


def _help(match: re.Match) -> str:
    os.environ["COLUMNS"] = "88"  # how wide argparse writes
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        run(match[1].split())
    if not text.getvalue():
        raise RuntimeError(f"`impact {match[1]}` printed nothing")
    return f"```text\n{text.getvalue().strip()}\n```"
