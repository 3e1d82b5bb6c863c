"""Lays a definition out as a graph: states in layers from top to bottom, nothing over anything else.

The steps are those of Sugiyama's method: layers by the longest way from the start, a place kept free in every layer
that an edge passes, an order with few crossings, then positions that make edges straight. Lengths are points, y grows
downwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from scipy.optimize import isotonic_regression

START, END = "\0start", "\0end"
NAME_SIZE, CAPTION_SIZE = 10.5, 9
NAME_HEIGHT, CAPTION_HEIGHT = 15, 13
NAME_LETTERS = 34
PADDING = 9
ICON = 24
CIRCLE = 44
LAYER_GAP, NODE_GAP, LOOP_ROOM = 34, 26, 30
CONTAINER_PADDING = 18
BAR_HEIGHT = 12
SWEEPS = 12

Path = tuple[str, ...]


@dataclass
class Box:
    """A state or a circle of its scope; x and y are its middle, and its scopes hold what it contains."""

    path: Path
    name_lines: list[str]
    captions: list[str]
    width: float
    height: float
    has_icon: bool = False
    has_bar: bool = False
    scopes: list["Scope"] = field(default_factory=list)
    x: float = 0
    y: float = 0

    @property
    def header_height(self) -> float:
        return len(self.name_lines) * NAME_HEIGHT + len(self.captions) * CAPTION_HEIGHT + BAR_HEIGHT * self.has_bar


@dataclass
class Edge:
    """A way through points, straight down at each. is_catch: taken for an error only. is_loop: back to its own box."""

    points: list[tuple[float, float]]
    is_catch: bool
    is_loop: bool = False


@dataclass
class Scope:
    """States that reach each other: a state machine, a branch, or what a Map does with an item. x and y: its corner."""

    boxes: dict[str, Box]
    edges: list[Edge]
    width: float
    height: float
    x: float = 0
    y: float = 0


Captions = Callable[[Path, dict], list[str]]


def lay_out(definition: dict, captions: Captions, has_bar: Callable[[Path], bool], path: Path = ()) -> Scope:
    """The graph of a definition, or of what a state at path contains. captions gives the lines below a state's name."""
    states = definition["States"]
    boxes = {name: _state_box((*path, name), state, captions, has_bar) for name, state in states.items()}
    links: dict[tuple[str, str], bool] = {}
    for name, state in states.items():
        for target, is_catch in _targets(state):
            if target in states:
                links[name, target] = is_catch and links.get((name, target), True)
    if not path:
        boxes = {START: _circle(START), **boxes, END: _circle(END)}
        links[START, definition["StartAt"]] = False
        links.update({(name, END): False for name, state in states.items() if _is_last(state)})
    return _Layers(boxes, links).scope()


def contained(state: dict) -> list[dict]:
    """The definitions inside a state: a Parallel's branches, or a Map's processor."""
    processor = state.get("ItemProcessor") or state.get("Iterator")
    return list(state.get("Branches", [])) + ([processor] if processor else [])


def is_distributed(state: dict) -> bool:
    """Whether a Map runs its items as executions of their own."""
    return state.get("ItemProcessor", {}).get("ProcessorConfig", {}).get("Mode") == "DISTRIBUTED"


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Points."""
    weight = "bold" if bold else "normal"
    return TextPath((0, 0), text or " ", size=size, prop=FontProperties(weight=weight)).get_extents().x1


def wrap(text: str, letters: int) -> list[str]:
    """Lines of at most that many letters, broken at spaces where there are any; nothing is lost."""
    lines = [""]
    for word in text.split():
        while len(word) > letters:
            lines.append(word[:letters])
            word = word[letters:]
        if len(lines[-1]) + len(word) < letters:
            lines[-1] = f"{lines[-1]} {word}".strip()
        else:
            lines.append(word)
    return [line for line in lines if line] or [""]


def is_lambda(state: dict) -> bool:
    """Whether a Task invokes a Lambda function."""
    return ":lambda:" in state.get("Resource", "")


def _targets(state: dict) -> list[tuple[str, bool]]:
    """(state, whether for an error only) of every way out of a state."""
    nexts = [state.get("Next"), state.get("Default"), *(rule.get("Next") for rule in state.get("Choices", []))]
    catches = [catcher.get("Next") for catcher in state.get("Catch", [])]
    return [(name, False) for name in nexts if name] + [(name, True) for name in catches if name]


def _is_last(state: dict) -> bool:
    return bool(state.get("End")) or state["Type"] in ("Succeed", "Fail")


def _circle(name: str) -> Box:
    return Box((name,), ["Start" if name == START else "End"], [], CIRCLE, CIRCLE)


def _state_box(path: Path, state: dict, captions: Captions, has_bar: Callable[[Path], bool]) -> Box:
    name_lines, lines = wrap(path[-1], NAME_LETTERS), captions(path, state)
    names = [text_width(line, NAME_SIZE, bold=True) for line in name_lines]
    width = max(names + [text_width(line, CAPTION_SIZE) for line in lines]) + 5 * PADDING
    box = Box(path, name_lines, lines, width, 0, is_lambda(state), has_bar(path))
    box.width += ICON if box.has_icon else 0
    box.height = box.header_height + 2 * PADDING
    inner = [lay_out(part, captions, has_bar, path) for part in contained(state)]
    if inner:
        _place_inside(box, inner)
    return box


def _place_inside(box: Box, scopes: Sequence[Scope]) -> None:
    """Puts scopes side by side below the header; their corners are counted from the box's corner."""
    total = sum(scope.width for scope in scopes) + NODE_GAP * (len(scopes) - 1)
    box.width = max(box.width, total + 2 * CONTAINER_PADDING)
    left, top = (box.width - total) / 2, box.header_height + 3 * PADDING
    for scope in scopes:
        scope.x, scope.y = left, top
        left += scope.width + NODE_GAP
    box.scopes = list(scopes)
    box.height = top + max(scope.height for scope in scopes) + CONTAINER_PADDING


class _Layers:
    """One scope while it is being laid out. Nodes are box names, and (link, layer) for the places an edge passes."""

    def __init__(self, boxes: dict[str, Box], links: dict[tuple[str, str], bool]):
        self.boxes = boxes
        self.loops = [link for link in links if link[0] == link[1]]
        self.is_catch = {link: is_catch for link, is_catch in links.items() if link[0] != link[1]}
        self.is_back = self._back_links()
        self.layer = self._longest_ways()
        self.chains = {link: self._chain(link) for link in self.is_catch}
        self.rows = self._rows()
        self.x: dict = {}

    def scope(self) -> Scope:
        self._order()
        self._place_x()
        height = self._place_y()
        left = min(self._left(node) for row in self.rows for node in row)
        self.x = {node: x - left for node, x in self.x.items()}
        width = max(self._left(node) + self._width(node) for row in self.rows for node in row)
        for name, box in self.boxes.items():
            box.x = self.x[name] - (LOOP_ROOM / 2 if (name, name) in self.loops else 0)
        return Scope(self.boxes, self._edges(), width, height)

    def _back_links(self) -> set:
        """The links that lead back to a state on the way to them; they are laid out the other way round."""
        out = {name: [target for source, target in self.is_catch if source == name] for name in self.boxes}
        back, done = set(), set()
        for root in self.boxes:
            way = [(root, iter(out[root]))] if root not in done else []
            on_way = {root}
            while way:
                name, targets = way[-1]
                target = next(targets, None)
                if target is None:
                    way.pop()
                    on_way.discard(name)
                    done.add(name)
                elif target in on_way:
                    back.add((name, target))
                elif target not in done:
                    on_way.add(target)
                    way.append((target, iter(out[target])))
        return back

    def _downwards(self, link: tuple) -> tuple:
        return link[::-1] if link in self.is_back else link

    def _longest_ways(self) -> dict[str, int]:
        layer = dict.fromkeys(self.boxes, 0)
        for _ in self.boxes:
            for upper, lower in map(self._downwards, self.is_catch):
                layer[lower] = max(layer[lower], layer[upper] + 1)
        if END in layer:
            layer[END] = max(layer.values()) + (max(layer.values()) != layer[END])
        return layer

    def _chain(self, link: tuple) -> list:
        upper, lower = self._downwards(link)
        return [upper, *((link, layer) for layer in range(self.layer[upper] + 1, self.layer[lower])), lower]

    def _rows(self) -> list[list]:
        rows: list[list] = [[] for _ in range(max(self.layer.values()) + 1)]
        for name, layer in self.layer.items():
            rows[layer].append(name)
        for chain in self.chains.values():
            for node in chain[1:-1]:
                rows[node[1]].append(node)
        return rows

    def _neighbours(self, upwards: bool) -> dict:
        found: dict = {node: [] for row in self.rows for node in row}
        for chain in self.chains.values():
            for upper, lower in pairwise(chain):
                found[lower if upwards else upper].append(upper if upwards else lower)
        return found

    def _order(self) -> None:
        """Sorts each row by the mean place of its neighbours, down and up, and keeps the one with fewest crossings."""
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for sweep in range(SWEEPS):
            upwards = sweep % 2 == 0
            near = self._neighbours(upwards)
            for row in self.rows if upwards else reversed(self.rows):
                places = {node: place for other in self.rows for place, node in enumerate(other)}
                means = {node: np.mean([places[other] for other in near[node]] or [places[node]]) for node in row}
                row.sort(key=means.__getitem__)
            if self._crossings() < fewest:
                best, fewest = [list(row) for row in self.rows], self._crossings()
        self.rows = best

    def _crossings(self) -> int:
        places = {node: place for row in self.rows for place, node in enumerate(row)}
        lower = self._neighbours(upwards=False)
        count = 0
        for row in self.rows:
            ends = [(places[node], places[target]) for node in row for target in lower[node]]
            count += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(ends) for c, d in ends[:i])
        return count

    def _place_x(self) -> None:
        for row in self.rows:
            offsets = self._offsets(row)
            self.x.update(zip(row, offsets - offsets.mean(), strict=True))
        both = self._neighbours(True), self._neighbours(False)
        for sweep in range(2 * SWEEPS):
            for row in self.rows if sweep % 2 == 0 else reversed(self.rows):
                near = [both[0][node] + both[1][node] for node in row]
                wished = [
                    np.mean([self.x[n] for n in found]) if found else self.x[node]
                    for node, found in zip(row, near, strict=True)
                ]
                offsets = self._offsets(row)
                placed = offsets + isotonic_regression(np.array(wished) - offsets).x
                self.x.update(zip(row, placed, strict=True))

    def _offsets(self, row: list) -> np.ndarray:
        """Where the nodes of a row stand when each is as near to its left neighbour as it may be."""
        steps = [0.0]
        for left, right in pairwise(row):
            steps.append((self._width(left) + self._width(right)) / 2 + NODE_GAP)
        return np.cumsum(steps)

    def _width(self, node) -> float:
        if node not in self.boxes:
            return 0
        return self.boxes[node].width + (LOOP_ROOM if (node, node) in self.loops else 0)

    def _left(self, node) -> float:
        return self.x[node] - self._width(node) / 2

    def _place_y(self) -> float:
        top, self.tops, self.bottoms = 0.0, [], []
        for row in self.rows:
            tallest = max((self.boxes[node].height for node in row if node in self.boxes), default=0)
            self.tops.append(top)
            self.bottoms.append(top + tallest)
            for node in row:
                if node in self.boxes:
                    self.boxes[node].y = top + tallest / 2
            top += tallest + LAYER_GAP
        return top - LAYER_GAP

    def _edges(self) -> list[Edge]:
        edges = []
        ports = self._ports()
        for link, chain in self.chains.items():
            upper, lower = self.boxes[chain[0]], self.boxes[chain[-1]]
            below, above = ports[link, "below"], ports[link, "above"]
            points = [(below, upper.y + upper.height / 2), (below, self.bottoms[self.layer[chain[0]]])]
            for node in chain[1:-1]:
                points += [(self.x[node], self.tops[node[1]]), (self.x[node], self.bottoms[node[1]])]
            points += [(above, self.tops[self.layer[chain[-1]]]), (above, lower.y - lower.height / 2)]
            edges.append(Edge(points[::-1] if link in self.is_back else points, self.is_catch[link]))
        return edges + [self._loop(self.boxes[name]) for name, _ in self.loops]

    def _order_of_port(self, place: int, link: tuple[str, str]) -> tuple[float, bool]:
        return self.x[self.chains[link][place]], link in self.is_back

    def _ports(self) -> dict:
        """Where on a box's lower and upper side each edge begins and ends: side by side, ordered by where they lead."""
        ports = {}
        for side, place in (("below", 1), ("above", -2)):
            for name, box in self.boxes.items():
                links = [link for link, chain in self.chains.items() if chain[0 if side == "below" else -1] == name]
                links.sort(key=partial(self._order_of_port, place))
                step = min(22, box.width * 0.7 / max(1, len(links)))
                for number, link in enumerate(links):
                    ports[link, side] = box.x + (number - (len(links) - 1) / 2) * step
        return ports

    def _loop(self, box: Box) -> Edge:
        right = box.x + box.width / 2
        quarter = box.height / 4
        outside = right + LOOP_ROOM * 0.9
        points = [
            (right, box.y + quarter),
            (outside, box.y + quarter),
            (outside, box.y - quarter),
            (right, box.y - quarter),
        ]
        return Edge(points, is_catch=False, is_loop=True)
