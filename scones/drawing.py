"""Draws a definition, an execution or a Map Run as the Step Functions console does, from the API alone.

It works on AWS and on the local AWS alike. What the console shows and this does not: the conditions of a Choice.
Save a figure with savefig("name.svg") or savefig("name.png").
"""

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any

from botocore.exceptions import ClientError
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Curve

from scones.execution_history import OUTCOMES, ExecutionHistory, read_history
from scones.graph_layout import (
    BAR_HEIGHT,
    CAPTION_HEIGHT,
    CAPTION_SIZE,
    CIRCLE,
    END,
    ICON,
    NAME_HEIGHT,
    NAME_SIZE,
    PADDING,
    START,
    Box,
    Edge,
    Path,
    Scope,
    contained,
    is_distributed,
    is_lambda,
    lay_out,
    text_width,
    wrap,
)

COLOURS = {
    "succeeded": ("#C9EFCB", "#1A7F2B"),
    "caught": ("#FFDDA8", "#B86E00"),
    "failed": ("#F9C6C1", "#C4261D"),
    "in progress": ("#CBE4FB", "#0B66C3"),
    "aborted": ("#DADDE1", "#5F6B7A"),
    "not run": ("#FFFFFF", "#8A94A0"),
}
SYMBOLS = {"succeeded": "\u2713", "caught": "!", "failed": "\u2717", "in progress": "\u2026", "aborted": "\u25a0"}
INK, LINE, LAMBDA_ORANGE = "#16191F", "#5F6B7A", "#C45500"
MARGIN, TITLE_SIZE, TITLE_HEIGHT, LEGEND_HEIGHT, SMALLEST_WIDTH = 18, 12, 18, 20, 440
CENTRED = {"ha": "center", "va": "center"}
CATCH = "way taken on an error"
CATCH_LINE = {"color": COLOURS["caught"][1], "linewidth": 1.3, "linestyle": (0, (4, 3))}
CAUSE_LETTERS, MAX_CAUSE_LETTERS = 62, 240
# The counts of a Map Run by their name in the API, and the outcome that each is shown as
ITEM_COUNTS = {
    "succeeded": "succeeded",
    "failed": "failed",
    "timedOut": "failed",
    "running": "in progress",
    "aborted": "aborted",
    "pending": "not run",
}


def draw_definition(definition: Mapping[str, Any] | str, title: str = "") -> Figure:
    """A state machine's graph. definition: the object, or its JSON text as describe_state_machine returns it."""
    return _Picture(_parsed(definition)).draw([title] if title else [])


def draw_execution(stepfunctions, execution_arn: str, children: int = 100) -> Figure:
    """An execution, its states coloured by what became of them, with the item counts of its Map Runs.

    The states inside a Distributed Map run in child executions: the histories of at most that many are read.
    """
    machine = stepfunctions.describe_state_machine_for_execution(executionArn=execution_arn)
    history = read_history(_events(stepfunctions, execution_arn))
    runs = {name: stepfunctions.describe_map_run(mapRunArn=arn) for arn, name in history.map_runs.items()}
    inside = {name: _child_tallies(stepfunctions, arn, children) for arn, name in history.map_runs.items()}
    status = stepfunctions.describe_execution(executionArn=execution_arn)["status"]
    title = [f"{machine['name']}: {status}", *_failure_lines(history)]
    return _Picture(_parsed(machine["definition"]), history.tallies, runs, inside).draw(title)


def draw_map_run(stepfunctions, map_run_arn: str, children: int = 100) -> Figure:
    """One Map Run: its item counts, and its states coloured by what became of them in at most that many children."""
    run = stepfunctions.describe_map_run(mapRunArn=map_run_arn)
    machine = stepfunctions.describe_state_machine_for_execution(executionArn=run["executionArn"])
    history = read_history(_events(stepfunctions, run["executionArn"]))
    if map_run_arn not in history.map_runs:
        raise ValueError(
            f"The history of {run['executionArn']} does not tell which state started the Map Run {map_run_arn}"
        )
    name = history.map_runs[map_run_arn]
    state = _find(_parsed(machine["definition"]), name)
    alone = {"StartAt": name, "States": {name: {**state, "Next": None, "Catch": [], "End": True}}}
    inside = {name: _child_tallies(stepfunctions, map_run_arn, children)}
    return _Picture(alone, history.tallies, {name: run}, inside).draw([f"Map Run of {name}: {run['status']}"])


def _parsed(definition: Mapping[str, Any] | str) -> dict:
    return json.loads(definition) if isinstance(definition, str) else dict(definition)


def _events(stepfunctions, execution_arn: str) -> list[dict]:
    pages = stepfunctions.get_paginator("get_execution_history").paginate(executionArn=execution_arn)
    return [event for page in pages for event in page["events"]]


def _executions(stepfunctions, map_run_arn: str, limit: int) -> list[str]:
    paginator = stepfunctions.get_paginator("list_executions")
    pages = paginator.paginate(mapRunArn=map_run_arn, PaginationConfig={"MaxItems": limit})
    return [execution["executionArn"] for page in pages for execution in page["executions"]]


def _child_tallies(stepfunctions, map_run_arn: str, limit: int) -> dict[str, Counter] | None:
    """What became of the states in the children, together; None where no child has a history (EXPRESS children)."""
    tallies: dict[str, Counter] = {}
    try:
        for child in _executions(stepfunctions, map_run_arn, limit):
            for name, tally in read_history(_events(stepfunctions, child)).tallies.items():
                tallies.setdefault(name, Counter()).update(tally)
    except ClientError:
        return None
    return tallies or None


def _find(definition: dict, name: str) -> dict:
    """The state of that name, however deep inside."""
    if name in definition["States"]:
        return definition["States"][name]
    for state in definition["States"].values():
        for part in contained(state):
            try:
                return _find(part, name)
            except KeyError:
                continue
    raise KeyError(name)


def _failure_lines(history: ExecutionHistory) -> list[str]:
    if history.failure is None:
        return []
    error, cause = history.failure
    with suppress(ValueError, TypeError, LookupError):
        cause = json.loads(cause)["errorMessage"]
    text = f"{error}: {cause}" if cause else error
    return wrap(text if len(text) <= MAX_CAUSE_LETTERS else f"{text[:MAX_CAUSE_LETTERS]}\u2026", CAUSE_LETTERS)


class _Picture:
    """Paints a laid-out definition. tallies: of its own states; inside: Map state -> those in its run's children."""

    def __init__(
        self,
        definition: dict,
        tallies: dict[str, Counter] | None = None,
        runs: dict[str, dict] | None = None,
        inside: dict[str, dict[str, Counter] | None] | None = None,
    ):
        self.is_execution = tallies is not None
        self.runs, self.inside = runs or {}, inside or {}
        self.states: dict[Path, dict] = {}
        self.tallies: dict[Path, Counter] = {}
        self._collect(definition, (), tallies or {})
        self.scope = lay_out(definition, self._captions, lambda path: bool(self._item_counts(path)))

    def _collect(self, definition: dict, path: Path, tallies: dict[str, Counter]) -> None:
        """Every state and its tally by its path; below a Distributed Map the tallies are those of its children."""
        for name, state in definition["States"].items():
            place = (*path, name)
            self.states[place] = state
            self.tallies[place] = tallies.get(name, Counter())
            below = (self.inside.get(name) or {}) if is_distributed(state) else tallies
            for part in contained(state):
                self._collect(part, place, below)

    def _captions(self, path: Path, state: dict) -> list[str]:
        """The lines below a state's name: what it is, what it calls, and how often what became of it."""
        lines = [_kind(state)]
        counts = self._item_counts(path)
        if counts:
            lines.append(f"{sum(counts.values())} items: {_listed(counts)}")
        elif sum(self.tallies[path].values()) > 1:
            lines.append(_listed(self.tallies[path]))
        return lines

    def _item_counts(self, path: Path) -> Counter:
        counts: Counter = Counter()
        for name, shown in ITEM_COUNTS.items():
            counts[shown] += self.runs.get(path[-1], {}).get("itemCounts", {}).get(name, 0)
        return +counts

    def draw(self, title: list[str]) -> Figure:
        """The figure, as large as the graph needs, with the title's first line in bold and the legend below."""
        widest = max([text_width(line, TITLE_SIZE, bold=True) for line in title] or [0])
        width = max(self.scope.width, widest, SMALLEST_WIDTH) + 2 * MARGIN
        legend = self._legend(width)
        top = MARGIN + TITLE_HEIGHT * len(title) + (MARGIN / 2 if title else 0)
        height = top + self.scope.height + MARGIN + LEGEND_HEIGHT * len(legend) + MARGIN / 2
        figure = Figure(figsize=(width / 72, height / 72), dpi=100)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for number, line in enumerate(title):
            style = {"fontsize": TITLE_SIZE, "fontweight": "bold"} if number == 0 else {"fontsize": 10}
            axes.text(width / 2, MARGIN + TITLE_HEIGHT * (number + 0.4), line, color=INK, **CENTRED, **style)
        self._paint_scope(axes, self.scope, (width - self.scope.width) / 2, top)
        for number, row in enumerate(legend):
            self._paint_legend_row(axes, row, width, top + self.scope.height + MARGIN + LEGEND_HEIGHT * (number + 0.5))
        return figure

    def _legend(self, width: float) -> list[list[str]]:
        """The outcomes in rows that fit the width; a definition needs none."""
        rows: list[list[str]] = [[]]
        names = list(COLOURS) if self.is_execution else []
        if any(state.get("Catch") for state in self.states.values()):
            names.append(CATCH)
        for name in names:
            if sum(map(_legend_width, [*rows[-1], name])) > width - 2 * MARGIN:
                rows.append([])
            rows[-1].append(name)
        return [row for row in rows if row]

    def _paint_legend_row(self, axes: Axes, row: list[str], width: float, y: float) -> None:
        x = (width - sum(map(_legend_width, row))) / 2
        for name in row:
            if name == CATCH:
                axes.plot([x - 6, x + 13], [y, y], **CATCH_LINE)
            else:
                fill, edge = COLOURS[name]
                axes.add_patch(Rectangle((x, y - 6), 12, 12, facecolor=fill, edgecolor=edge))
                axes.text(x + 6, y, SYMBOLS.get(name, ""), fontsize=8, color=edge, fontweight="bold", **CENTRED)
            axes.text(x + 17, y, name, fontsize=CAPTION_SIZE, color=INK, ha="left", va="center")
            x += _legend_width(name)

    def _paint_scope(self, axes: Axes, scope: Scope, left: float, top: float) -> None:
        for edge in scope.edges:
            _paint_edge(axes, edge, left, top)
        for name, box in scope.boxes.items():
            if name in (START, END):
                _paint_circle(axes, box, left + box.x, top + box.y)
            else:
                self._paint_state(axes, box, left + box.x - box.width / 2, top + box.y - box.height / 2)

    def _paint_state(self, axes: Axes, box: Box, left: float, top: float) -> None:
        tally = self.tallies[box.path]
        outcomes = [name for name in OUTCOMES if tally[name]]
        edge = COLOURS[outcomes[0] if len(outcomes) == 1 else "aborted" if outcomes else "not run"][1]
        outline = {"boxstyle": "round,pad=0,rounding_size=6", "transform": axes.transData}
        frame = FancyBboxPatch((left, top), box.width, box.height, fc="white", ec="none", **outline)
        axes.add_patch(frame)
        filled = box.header_height + PADDING * 1.6 if box.scopes else box.height
        _paint_shares(axes, tally, (left, top, box.width, filled), frame)
        is_idle = self.is_execution and not outcomes
        line = {"linewidth": 1.2 if is_idle else 1.6, "linestyle": (0, (4, 3)) if is_idle else "-"}
        axes.add_patch(FancyBboxPatch((left, top), box.width, box.height, fc="none", ec=edge, **line, **outline))
        self._paint_header(axes, box, left, top, outcomes)
        for scope in box.scopes:
            self._paint_scope(axes, scope, left + scope.x, top + scope.y)

    def _paint_header(self, axes: Axes, box: Box, left: float, top: float, outcomes: list[str]) -> None:
        y = top + PADDING
        middle = left + (box.width + (ICON if box.has_icon else 0)) / 2
        if box.has_icon:
            _paint_lambda(axes, left + PADDING, top + box.height / 2)
        for line in box.name_lines:
            axes.text(middle, y + NAME_HEIGHT / 2, line, fontsize=NAME_SIZE, fontweight="bold", color=INK, **CENTRED)
            y += NAME_HEIGHT
        for line in box.captions:
            axes.text(middle, y + CAPTION_HEIGHT / 2, line, fontsize=CAPTION_SIZE, color=INK, **CENTRED)
            y += CAPTION_HEIGHT
        if box.has_bar:
            area = (left + 2 * PADDING, y + 3, box.width - 4 * PADDING, BAR_HEIGHT - 4)
            _paint_shares(axes, self._item_counts(box.path), area, shade=1)
            axes.add_patch(Rectangle(area[:2], *area[2:], facecolor="none", edgecolor=LINE, linewidth=0.8))
        if len(outcomes) == 1:
            style = {"color": COLOURS[outcomes[0]][1], "fontsize": NAME_SIZE, "fontweight": "bold"}
            axes.text(left + box.width - PADDING, top + PADDING + 2, SYMBOLS[outcomes[0]], **CENTRED, **style)


def _kind(state: dict) -> str:
    if is_distributed(state):
        return "Map, distributed"
    if is_lambda(state):
        function = state.get("Arguments", state.get("Parameters", {})).get("FunctionName", state["Resource"])
        return f"Lambda {function.split(':function:')[-1]}"
    if state["Type"] == "Task":
        return f"Task {state['Resource'].split(':::')[-1]}"
    return state["Type"]


def _listed(counts: Counter) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in COLOURS if counts[name])


def _legend_width(name: str) -> float:
    return 17 + text_width(name, CAPTION_SIZE) + 14


def _paint_shares(
    axes: Axes, tally: Counter, area: tuple[float, float, float, float], frame=None, shade: int = 0
) -> None:
    """Fills the area from left to right in proportion to the tally, inside of frame; shade 0 is light, 1 is dark."""
    left, top, width, height = area
    total = sum(tally.values())
    for name in COLOURS:
        share = tally[name] / total * width if total else 0
        patch = axes.add_patch(Rectangle((left, top), share, height, facecolor=COLOURS[name][shade], edgecolor="none"))
        if frame is not None:
            patch.set_clip_path(frame)
        left += share


def _paint_edge(axes: Axes, edge: Edge, left: float, top: float) -> None:
    """Straight where it passes a layer, a bow where it goes from one to the next."""
    points = [(left + x, top + y) for x, y in dict.fromkeys(edge.points)]
    corners, codes = [points[0]], [Curve.MOVETO]
    if edge.is_loop:
        corners, codes = points, [Curve.MOVETO] + [Curve.CURVE4] * 3
    else:
        for (x, y), (next_x, next_y) in pairwise(points):
            middle = (y + next_y) / 2
            corners += [(x, middle), (next_x, middle), (next_x, next_y)] if x != next_x else [(next_x, next_y)]
            codes += [Curve.CURVE4] * 3 if x != next_x else [Curve.LINETO]
    style = CATCH_LINE if edge.is_catch else {"color": LINE, "linewidth": 1.3}
    arrow = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(path=Curve(corners, codes), **arrow, **style))


def _paint_circle(axes: Axes, box: Box, x: float, y: float) -> None:
    axes.add_patch(Circle((x, y), CIRCLE / 2, facecolor="#FFF3C4", edgecolor="#8D6605", linewidth=1.4))
    axes.text(x, y, box.name_lines[0], fontsize=NAME_SIZE, color=INK, **CENTRED)


def _paint_lambda(axes: Axes, left: float, y: float) -> None:
    shape = {"boxstyle": "round,pad=0,rounding_size=3", "facecolor": LAMBDA_ORANGE, "edgecolor": "none"}
    axes.add_patch(FancyBboxPatch((left, y - 9), 18, 18, **shape))
    axes.text(left + 9, y, "\u03bb", fontsize=12, color="white", fontweight="bold", **CENTRED)
