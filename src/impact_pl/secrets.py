"""Mask passwords, tokens and keys that a path or URL carries, before it is stored or shown."""

import re
from typing import Any

MASK = "***"
NAMES = r"token|secret|passwd|password|signature|sig|credentials?|api[_-]?key|access[_-]?key(?:[_-]?id)?"
VALUE = r"(?:'[^']*'|\"[^\"]*\"|[^\s&'\"]+)"
SECRETS = [
    re.compile(r"(://)[^/\s@'\"]+(?=@)"),  # https://user:password@host
    re.compile(
        rf"((?<![a-z])(?:[\w-]*[_-])?(?:{NAMES})=){VALUE}", re.IGNORECASE
    ),  # ?token=..., AWS_SECRET_ACCESS_KEY=...
    re.compile(rf"([?&]key=){VALUE}", re.IGNORECASE),
    re.compile(rf"(--(?:[\w-]*-)?(?:{NAMES})\s+){VALUE}", re.IGNORECASE),
    re.compile(r"((?:\s-u|\s--user)[\s=]+)[^\s:'\"]+:[^\s'\"]+"),  # curl -u user:password
    re.compile(r"(\b(?:authorization|x-[\w-]+):\s*(?:(?:bearer|basic|token)\s+)?)[^\s'\"]+", re.IGNORECASE),  # headers
]


def mask_secrets(text: str) -> str:
    """Replace what looks like a secret in a URL, a command or a message by ``***``."""
    for secret in SECRETS:
        text = secret.sub(rf"\1{MASK}", text)
    return text


def without_secrets(tree: Any) -> Any:
    """Mask the strings in dicts and lists, such as a configuration that is to be stored."""
    if isinstance(tree, str):
        return mask_secrets(tree)
    if isinstance(tree, dict):
        return {key: without_secrets(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(without_secrets(value) for value in tree)
    return tree
