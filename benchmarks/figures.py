"""Figures as rows: what a benchmark prints, what it writes, and what compare.py and the README read.

A row is {"figure": text, "value": number, "unit": text, "better": "lower", "higher" or None}, and of a mean also
"spread": its standard deviation.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def figure(name: str, value: float, unit: str, better: str | None = None, spread: float | None = None) -> Row:
    """A row; the value is kept to four significant digits, more than any run repeats."""
    row = {"figure": name, "value": float(f"{value:.4g}"), "unit": unit, "better": better}
    return row if spread is None else {**row, "spread": float(f"{spread:.2g}")}


def parser(description: str) -> argparse.ArgumentParser:
    """The command line that all benchmarks have in common: --json FILE."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return options


def finish(rows: list[Row], file: Path | None) -> None:
    """Prints the rows as a table, and writes them where a file is named."""
    print(table(rows))
    if file:
        file.write_text(json.dumps(rows, indent=1) + "\n")


def table(rows: Iterable[Row]) -> str:
    """A Markdown table of the rows."""
    lines = [f"| {row['figure']} | {_value(row)} |" for row in rows]
    return "\n".join(["| figure | value |", "|---|---|", *lines])


def _value(row: Row) -> str:
    spread = f" ± {row['spread']:g}" if "spread" in row else ""
    return f"{row['value']:,g}{spread} {row['unit']}".strip()
