"""What the command line prints: JSON when asked, a table on a terminal, else lines with tabs that scripts can cut."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def as_json(document: Any) -> None:
    """The document is on stdout as JSON."""
    print(json.dumps(document, ensure_ascii=not _takes_unicode(), indent=2))


def table(items: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    """The rows are on stdout, with these columns."""
    lines = [[cell(item.get(name)) for name in columns] for item in items]
    if not sys.stdout.isatty():
        for line in [list(columns), *lines]:
            print("\t".join(line))
        return
    drawn = Table(*columns, header_style="bold", box=None, pad_edge=False)
    for line in lines:
        drawn.add_row(*(Text(text, overflow="fold") for text in line))  # Text: a name is never read as markup
    Console().print(drawn)


def bars(items: Sequence[dict[str, Any]], label: str, amount: str) -> None:
    """The rows are on stdout: on a terminal with a bar for each amount, else as a table."""
    if not sys.stdout.isatty():
        table(items, (label, amount))
        return
    most = max((item[amount] for item in items), default=0)
    width, full = max(10, Console().width - 40), "█" if _takes_unicode() else "#"
    for item in items:
        drawn = -(-item[amount] * width // most) if most else 0
        print(f"{cell(item[label])}  {item[amount]:>9,}  {full * drawn}".rstrip())


def record(item: dict[str, Any]) -> None:
    """The fields of one row that hold something are on stdout, one a line."""
    width = max(map(len, item), default=0)
    for name, value in item.items():
        if value is not None and value != []:
            print(f"{name:<{width}}  {cell(value)}")


def cell(value: Any) -> str:
    """A value on one line; what would move the terminal's cursor is escaped."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def complain(text: str) -> None:
    """One line is on stderr."""
    print(f"clockjack: {cell(text)}", file=sys.stderr)


def _takes_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
