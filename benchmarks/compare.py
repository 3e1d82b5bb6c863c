"""What got slower between two runs of make bench, and what got better.

    python benchmarks/compare.py BEFORE.json AFTER.json [--by 0.1]

Prints the figures that changed by more than that share, the worst first. Runs on a busy machine differ by more than
runs on a quiet one: compare runs of the same day on the same machine.
"""

import argparse
import json
from pathlib import Path


def changes(before: dict, after: dict) -> list[tuple[float, str, float, float, str]]:
    """(times as good, figure, before, after, unit) of each figure that both reports hold, the worst first.

    Times as good: 0.5 is half as fast, or twice the time. A figure that is neither better high nor low is left out.
    """
    old, new = _rows(before), _rows(after)
    found = []
    for name in old.keys() & new.keys():
        was, is_now, better = old[name]["value"], new[name]["value"], new[name]["better"]
        if better in ("lower", "higher") and was > 0 and is_now > 0:
            ratio = is_now / was if better == "higher" else was / is_now
            found.append((ratio, name, was, is_now, new[name]["unit"]))
    return sorted(found)


def _rows(report: dict) -> dict[str, dict]:
    return {row["figure"]: row for benchmark in report["benchmarks"].values() for row in benchmark["rows"]}


def told(found: list[tuple[float, str, float, float, str]], share: float) -> str:
    """The changes beyond that share as lines of text."""
    slower = [_line(change) for change in found if change[0] < 1 / (1 + share)]
    better = [_line(change) for change in reversed(found) if change[0] > 1 + share]
    parts = []
    for title, lines in (("worse", slower), ("better", better)):
        parts += [f"{len(lines)} of {len(found)} figures {title} by more than {share:.0%}", *lines]
    return "\n".join(parts)


def _line(change: tuple[float, str, float, float, str]) -> str:
    ratio, name, was, is_now, unit = change
    return f"  {ratio:5.2f}x  {name}: {was:g} -> {is_now:g} {unit}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("before", type=Path)
    options.add_argument("after", type=Path)
    options.add_argument("--by", type=float, default=0.1, metavar="SHARE")
    chosen = options.parse_args()
    reports = [json.loads(path.read_text()) for path in (chosen.before, chosen.after)]
    print(told(changes(*reports), chosen.by))


if __name__ == "__main__":
    main()
