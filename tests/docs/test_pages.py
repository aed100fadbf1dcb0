"""README and site: sizes, links, code blocks, and that each page is reachable."""

import ast
import re

import pytest

from impact_pl.cli.data import SETS
from impact_pl.cli.main import COMMANDS
from tests.helpers.documents import GENERATED, PAGES, ROOT, blocks, links, read

MOST_WORDS = 1200


def test_the_readme_is_short():
    assert len(read("README.md").split()) <= MOST_WORDS


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in links(page):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_parse_and_import_what_exists(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("impact_pl"):
                imported: dict = {}
                exec(ast.unparse(node), imported)


def test_every_page_is_in_the_navigation():
    navigation = set(re.findall(r"[\w/-]+\.md", read("mkdocs.yml").split("\nnav:")[1]))
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    assert navigation - pages - GENERATED == set()
    assert pages - navigation == set()


def test_the_cli_reference_has_every_command():
    shown = set(re.findall(r"<!-- impact (.*) --help -->", read("docs/reference/cli.md")))
    assert shown == set(COMMANDS) | {f"data {name}" for name in SETS} | {"listening ratings"}


def test_every_extra_has_a_row():
    section = read("setup.cfg").split("[options.extras_require]")[1].split("\n[")[0]
    rows = set(re.findall(r"^\| `(\w+)` \|", read("docs/extras.md"), flags=re.MULTILINE))
    assert rows >= set(re.findall(r"^(\w+) =$", section, flags=re.MULTILINE))
