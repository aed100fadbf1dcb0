"""Write Markdown tables."""

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], num_text: int = 1) -> str:
    """Format a table. The first ``num_text`` columns are left-aligned, the others (numbers) right-aligned."""
    return "\n".join([header(columns, num_text), *map(row, rows)])


def header(columns: Sequence[str], num_text: int = 1) -> str:
    """Format the first two lines of a table."""
    numbers = len(columns) - num_text
    return row(columns) + "\n|" + "---|" * num_text + "---:|" * numbers


def row(cells: Sequence[str]) -> str:
    """Format one line of a table."""
    return f"| {' | '.join(cells)} |"


def number(value: float | None, digits: int = 3) -> str:
    """Round to significant digits, without decimals that carry no information; empty for None."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return f"{value:.6f}".rstrip("0") if "e" in text else text
