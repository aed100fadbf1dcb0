"""mkdocs hooks: insert the output of `impact ... --help`, and show Sphinx roles of docstrings as plain code."""

import contextlib
import io
import os
import re

from impact_pl.cli.main import run


def on_page_markdown(markdown: str, **_) -> str:
    """Replace `<!-- impact ... --help -->` by what that command prints."""
    return re.sub(r"^<!-- impact (.*--help) -->$", _help, markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_) -> str:
    """Remove `:func:` and the like in front of code, which mkdocstrings leaves as text."""
    return re.sub(r":(?:attr|class|data|func|meth|mod):\s*(?=<code>)", "", html)


def _help(match: re.Match) -> str:
    os.environ["COLUMNS"] = "88"  # how wide argparse writes
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        run(match[1].split())
    if not text.getvalue():
        raise RuntimeError(f"`impact {match[1]}` printed nothing")
    return f"```text\n{text.getvalue().strip()}\n```"
