"""Read text files written by others: plain lines, CSV, JSON and JSON Lines.

Every function validates what it reads and raises a :class:`UserError` that names file, line or field, value and remedy.
A JSON schema is any type that pydantic validates: a dataclass with :data:`STRICT` as its ``__pydantic_config__``, whose
fields carry their ranges (``Annotated[int, Ge(1)]``), or a plain ``dict[str, list[str]]``.
"""

import csv
import re
from collections.abc import Hashable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from impact_pl.errors import UserError, shown

Schema = TypeVar("Schema")

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)  # no conversions, no unknown keys, no NaN
MAX_JSON_BYTES = 64 << 20


class Row(NamedTuple):
    """Row of a table, with the line of the file at which it begins."""

    line: int
    cells: dict[str, str]


def read_text(path: str | Path, max_bytes: int | None = None) -> str:
    """Read a text file in UTF-8, without its byte order mark.

    Raises:
        UserError: The file is missing, exceeds ``max_bytes``, or is not UTF-8 (names the line).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if max_bytes is not None and path.stat().st_size > max_bytes:
        raise UserError(f"{path}: has {path.stat().st_size} bytes, at most {max_bytes} are read: is it the right file?")
    return decode_text(path.read_bytes(), str(path))


def decode_text(content: bytes, where: str) -> str:
    """Decode the bytes of a text file. Messages of a UserError begin with ``where``."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{where}, line 1: the text is in UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{where}, line {line}: byte {error.start} is not UTF-8 ({error.reason}); save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{where}, line {line}: contains a NUL character, so it is not UTF-8 text; save it as UTF-8")
    return text


def read_lines(path: str | Path) -> list[str]:
    r"""Read the lines of a text file. Only ``\n`` and ``\r\n`` end a line, not U+2028 or U+0085 inside a caption."""
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    return lines if lines[-1] else lines[:-1]


def read_json(path: str | Path, schema: type[Schema], *, max_bytes: int = MAX_JSON_BYTES, remedy: str = "") -> Schema:
    """Read a JSON file into ``schema``. Messages of a UserError end with ``remedy``."""
    text = read_text(path, max_bytes)
    if not text.strip():
        raise UserError(f"{path}: is empty{f'; {remedy}' if remedy else ''}")
    return parse_json(text, schema, str(path), remedy)


def read_jsonl(path: str | Path, schema: type[Schema], remedy: str = "") -> Iterator[tuple[int, Schema]]:
    """Read a file with one JSON value per line; yields line numbers and values, and skips blank lines."""
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            yield number, parse_json(line, schema, f"{path}, line {number}", remedy)


def parse_json(text: str | bytes, schema: type[Schema], where: str, remedy: str = "") -> Schema:
    """Parse JSON into ``schema``. The parser limits nesting depth and the number of digits.

    Raises:
        UserError: The text is not JSON, or a field is missing, unknown, of another type or out of range. The message
            begins with ``where`` and ends with ``remedy``.
    """
    try:
        return _adapter(cast(Hashable, schema)).validate_json(text)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_invalid(error)}{f'; {remedy}' if remedy else ''}") from error


def check_value(value: Any, schema: type[Schema], where: str, remedy: str = "") -> Schema:
    """Validate a parsed value as :func:`parse_json` validates text."""
    try:
        return _adapter(cast(Hashable, schema)).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_invalid(error)}{f'; {remedy}' if remedy else ''}") from error


@lru_cache(maxsize=64)
def _adapter(schema: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(schema)  # type: ignore[arg-type]  # Hashable, for lru_cache


def describe_invalid(error: ValidationError) -> str:
    """Describe the first error in one line.

    If the format version differs, report that instead, as it explains the rest.
    """
    first = min(error.errors(include_url=False), key=lambda each: each["loc"] != ("format",))
    kind, value = first["type"], first["input"]
    field = ".".join(map(str, first["loc"]))
    message = re.sub(r"\s+", " ", first["msg"][:1].lower() + first["msg"][1:])
    if kind == "json_invalid":
        return f"not JSON ({first['ctx']['error']})"
    if kind in ("missing", "missing_argument"):
        return f"key {field!r} is missing"
    if kind in ("dataclass_type", "model_type", "dict_type", "typed_dict_type") and not field:
        return f"expected a JSON object, got {_shown(value)}"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {field!r}"
    return f"{f'key {field!r}: ' if field else ''}{message}, got {_shown(value)}"


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e18 else repr(value)
    return shown(text)


def read_csv(
    path: str | Path, columns: Sequence[str] = (), *, delimiter: str = ",", skip_spaces: bool = False
) -> list[Row]:
    """Read a table whose first line names its columns. Cells are unchanged, including spaces.

    Args:
        path: The file.
        columns: Required columns; others are allowed.
        delimiter: Separator of cells.
        skip_spaces: Ignore spaces before cells, as in AudioSet's tables.

    Raises:
        UserError: There are no rows, a column is missing, or :func:`read_cells` rejects the file; names the line.
    """
    lines = read_cells(read_lines(path), str(path), delimiter, skip_spaces)
    line, names = next(lines, (1, []))
    header = [name.strip() for name in names]
    if not header:
        raise UserError(f"{path}: is empty; its first line names the columns")
    absent = [column for column in columns if column not in header]
    if absent:
        raise UserError(
            f"{path}, line {line}: no column {absent[0]!r}; its header, split at {delimiter!r}, is {', '.join(header)}"
        )
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise UserError(f"{path}, line {line}: two columns are named {twice[0]!r}; rename one")
    rows = []
    for line, cells in lines:
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(cells)} cells, but the header has {len(header)}; "
                f"a cell that holds {delimiter!r} needs quotes"
            )
        rows.append(Row(line, dict(zip(header, cells, strict=True))))
    if not rows:
        raise UserError(f"{path}: has a header but no rows")
    return rows


def read_cells(
    lines: Sequence[str], where: str, delimiter: str = ",", skip_spaces: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Split the lines of a table into cells. Yields the line at which each row begins, and skips empty lines.

    Raises:
        UserError: A quote is not closed or stands inside a cell. A quoted cell may span lines, but only if these do not
            contain the delimiter: otherwise a missing quote has probably swallowed the following rows.
    """
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, skipinitialspace=skip_spaces, strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{where}, line {begin}: not a row of cells ({error}); is a quote not closed?") from error
        if any("\n" in cell and delimiter in cell for cell in cells):
            raise UserError(
                f"{where}, line {begin}: a quoted cell goes on to line {reader.line_num} and holds {delimiter!r}: is a "
                "quote not closed? Write the cell in one line"
            )
        if cells:
            yield begin, cells
