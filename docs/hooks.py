"""mkdocs hook: put the output of `impact ... --help` where a page says `<!-- impact ... --help -->`."""

import os
import re
import shlex
import subprocess
import sys


def on_page_markdown(markdown: str, **_) -> str:
    return re.sub(r"^<!-- impact (.*--help) -->$", _help, markdown, flags=re.MULTILINE)


def _help(match: re.Match) -> str:
    command = [sys.executable, "-m", "impact_pl", *shlex.split(match[1])]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"}, check=True)
    return f"```text\n{run.stdout.strip()}\n```"
