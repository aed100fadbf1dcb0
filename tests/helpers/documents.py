"""README and guides as tests see them: their command lines, code blocks and links."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = {"ablation.md", "ablation_builtin.md", "ablation_distilled.md", "ablation_text.md", "performance.md"}
PAGES = ["README.md", "CONTRIBUTING.md", "src/impact_pl/assets/model/README.md"] + [
    str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")) if path.name not in GENERATED
]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The contents of a page's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", read(page), flags=re.DOTALL)


def commands(page: str) -> list[str]:
    """Every command line of a page's shell blocks, continued lines joined, comments cut off."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.sub(r"\s#.*", "", line).split("&&")]
    return [part for part in parts if part and not part.startswith("#")]


def links(page: str) -> list[str]:
    """Relative targets of a page's links and pictures, without anchors."""
    text = re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    return [target.partition("#")[0] for target in targets if not re.match(r"\w+:|#", target)]
