"""Pictures show every state of a definition once, over nothing else, in the colour of what became of it."""

import json
from collections import Counter
from pathlib import Path

import matplotlib.text
import pytest
from botocore.exceptions import ClientError
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from scones import drawing
from scones.drawing import COLOURS, SYMBOLS
from scones.execution_history import read_history
from scones.graph_layout import END, START, lay_out

ROOT = Path(__file__).parent.parent
ONE = "arn:aws:states:us-east-1:123456789012:execution:One:1"
RUN = "arn:aws:states:us-east-1:123456789012:mapRun:Many/Images:7"
CHAIN = {
    "StartAt": "First",
    "States": {
        "First": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": {"FunctionName": "Do"},
            "Next": "Second",
        },
        "Second": {"Type": "Pass", "Next": "Third"},
        "Third": {"Type": "Wait", "Seconds": 1, "End": True},
    },
}
LONG = "A state with a name that is far too long to stand in one line of its box, as long as it may be"
EVERYTHING = {
    "StartAt": "Fetch",
    "States": {
        "Fetch": {
            "Type": "Task",
            "Resource": "arn:aws:lambda:us-east-1:123456789012:function:Fetch",
            "Next": "Status?",
            "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Give up"}],
        },
        "Status?": {
            "Type": "Choice",
            "Choices": [{"Next": "Wait"}, {"Next": "Both ways"}, {"Next": "Each item"}],
            "Default": "Give up",
        },
        "Wait": {"Type": "Wait", "Seconds": 1, "Next": "Fetch"},
        "Give up": {"Type": "Fail"},
        "Both ways": {
            "Type": "Parallel",
            "Next": "Done",
            "Branches": [
                {
                    "StartAt": "Left",
                    "States": {
                        "Left": {"Type": "Pass", "Next": "Lower left"},
                        "Lower left": {"Type": "Pass", "End": True},
                    },
                },
                {"StartAt": LONG, "States": {LONG: {"Type": "Pass", "End": True}}},
            ],
        },
        "Each item": {
            "Type": "Map",
            "Next": "Again?",
            "ItemProcessor": {"StartAt": "One", "States": {"One": {"Type": "Pass", "End": True}}},
        },
        "Again?": {"Type": "Choice", "Choices": [{"Next": "Again?"}], "Default": "Done"},
        "Done": {"Type": "Succeed"},
    },
}
MAP = {
    "StartAt": "Classify",
    "States": {
        "Classify": {
            "Type": "Map",
            "Label": "Images",
            "End": True,
            "ItemProcessor": {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}, **CHAIN},
        }
    },
}


def history(*lines: str) -> list[dict]:
    """Events from lines "type [name or Map Run][<number of the previous event]", numbered from 1."""
    events = []
    for number, line in enumerate(lines, start=1):
        text, _, previous = line.partition("<")
        kind, _, name = text.partition(" ")
        event = {"id": number, "previousEventId": int(previous or number - 1), "type": kind}
        if kind.endswith(("StateEntered", "StateExited")):
            event["stateEnteredEventDetails" if "Entered" in kind else "stateExitedEventDetails"] = {"name": name}
        if kind == "MapRunStarted":
            event["mapRunStartedEventDetails"] = {"mapRunArn": name}
        if kind == "ExecutionFailed":
            cause = json.dumps(
                {"errorMessage": "THRESHOLD_CONFIDENCE_NOT_MET: 0.6 < 0.9", "errorType": "ThresholdNotMet"}
            )
            event["executionFailedEventDetails"] = {"error": "ThresholdNotMet", "cause": cause}
        events.append(event)
    return events


def passed(name: str) -> list[str]:
    return [f"PassStateEntered {name}", f"PassStateExited {name}"]


WENT_WELL = history("ExecutionStarted", *passed("First"), *passed("Second"), *passed("Third"), "ExecutionSucceeded")
FAILED_SECOND = history(
    "ExecutionStarted", *passed("First"), "TaskStateEntered Second", "TaskScheduled", "TaskFailed", "ExecutionFailed"
)


class StepFunctions:
    """Answers as the API does, from the histories given; the children of RUN are named child 0, child 1, ..."""

    def __init__(self, definition, events, status="SUCCEEDED", counts=None, children=()):
        self.definition, self.status, self.counts = definition, status, counts or {}
        self.histories = {ONE: events, **{f"child {number}": events for number, events in enumerate(children)}}

    def describe_state_machine_for_execution(self, executionArn):
        return {"name": "One", "definition": json.dumps(self.definition)}

    def describe_execution(self, executionArn):
        return {"status": self.status}

    def describe_map_run(self, mapRunArn):
        return {"mapRunArn": mapRunArn, "executionArn": ONE, "status": "SUCCEEDED", "itemCounts": self.counts}

    def get_paginator(self, operation):
        return Pages(self, operation)


class Pages:
    """get_execution_history in pages of two events; list_executions in one page."""

    def __init__(self, client, operation):
        self.client, self.operation = client, operation

    def paginate(self, **call):
        if self.operation == "get_execution_history":
            events = self.client.histories[call["executionArn"]]
            return [{"events": events[start : start + 2]} for start in range(0, len(events), 2)]
        names = [name for name in self.client.histories if name != ONE]
        if not names:
            raise ClientError(
                {"Error": {"Code": "StateMachineTypeNotSupported", "Message": "EXPRESS"}}, "ListExecutions"
            )
        return [{"executions": [{"executionArn": name} for name in names[: call["PaginationConfig"]["MaxItems"]]]}]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def fills(figure, name: str) -> dict[str, float]:
    """outcome -> share of the box that is filled with its colour, of the box around the text name."""
    text = next(text for text in figure.findobj(matplotlib.text.Text) if text.get_text() == name)
    boxes = [
        box
        for box in figure.findobj(FancyBboxPatch)
        if to_hex(box.get_facecolor()) == "#ffffff"
        and box.get_x() < text.get_position()[0] < box.get_x() + box.get_width()
        and box.get_y() < text.get_position()[1] < box.get_y() + box.get_height()
    ]
    box = min(boxes, key=lambda box: box.get_width())
    found = {}
    for patch in figure.findobj(Rectangle):
        inside = box.get_x() <= patch.get_x() + 0.01 <= box.get_x() + box.get_width() and patch.get_y() == box.get_y()
        for outcome, (fill, _) in COLOURS.items():
            if inside and patch.get_width() and to_hex(patch.get_facecolor()) == fill.lower():
                found[outcome] = patch.get_width() / box.get_width()
    return found


def boxes_of(scope, left=0.0, top=0.0):
    """(box, its corner) of every box of a scope, of those inside the boxes too."""
    for box in scope.boxes.values():
        corner = left + box.x - box.width / 2, top + box.y - box.height / 2
        yield box, corner
        for inner in box.scopes:
            yield from boxes_of(inner, corner[0] + inner.x, corner[1] + inner.y)


DEFINITIONS = [
    CHAIN,
    EVERYTHING,
    MAP,
    *(json.loads(path.read_text()) for path in ROOT.glob("*state_machine_definition.json")),
]


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_no_box_lies_over_another_or_sticks_out_of_its_container(definition):
    placed = list(boxes_of(lay_out(definition, lambda path, state: [state["Type"]], lambda path: False)))
    for number, (box, (x, y)) in enumerate(placed):
        for other, (left, top) in placed[:number]:
            apart = x >= left + other.width or left >= x + box.width or y >= top + other.height or top >= y + box.height
            is_inside = box.path[: len(other.path)] == other.path
            if is_inside:
                assert x >= left and y >= top + other.header_height
                assert x + box.width <= left + other.width and y + box.height <= top + other.height
            else:
                assert apart, (box.path, other.path)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_every_edge_leads_down_except_a_way_back_and_passes_through_no_box(definition):
    scope = lay_out(definition, lambda path, state: [state["Type"]], lambda path: False)
    for edge in scope.edges:
        for (x, y), (next_x, next_y) in zip(edge.points, edge.points[1:], strict=False):
            for box in scope.boxes.values():
                within = abs(x - box.x) < box.width / 2 - 1 and abs(next_x - box.x) < box.width / 2 - 1
                crosses = min(y, next_y) < box.y + box.height / 2 - 1 and max(y, next_y) > box.y - box.height / 2 + 1
                assert not (within and crosses), box.path
    assert scope.boxes[START].y < min(box.y for name, box in scope.boxes.items() if name != START)
    assert scope.boxes[END].y > max(box.y for name, box in scope.boxes.items() if name != END)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_no_text_is_cut_or_leaves_its_box(definition):
    figure = drawing.draw_definition(
        definition, "A title that is rather long for such a small picture, but must be shown whole"
    )
    figure.draw_without_rendering()
    frames = [box.get_window_extent() for box in figure.findobj(FancyBboxPatch) if box.get_facecolor()[3]]
    for text in figure.findobj(matplotlib.text.Text):
        if text.get_text():
            extent = text.get_window_extent()
            assert figure.bbox.x0 <= extent.x0 and extent.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= extent.y0 and extent.y1 <= figure.bbox.y1
            middle = (extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2
            around = [frame for frame in frames if frame.contains(*middle)]
            assert all(frame.x0 <= extent.x0 and extent.x1 <= frame.x1 for frame in around), text.get_text()


def test_a_definition_shows_every_state_with_its_type_and_its_function():
    found = texts(drawing.draw_definition(json.dumps(EVERYTHING)))
    for name in (
        "Start",
        "End",
        "Fetch",
        "Status?",
        "Wait",
        "Give up",
        "Both ways",
        "Left",
        "Lower left",
        "Each item",
        "One",
        "Again?",
        "Done",
        "Lambda Fetch",
        "Choice",
        "Parallel",
        "Map",
        "Succeed",
        "Fail",
    ):
        assert found.count(name) >= 1, name
    assert LONG in " ".join(found)
    assert "succeeded" not in found


def test_each_way_of_a_definition_is_one_arrow_and_a_way_on_an_error_is_dashed():
    figure = drawing.draw_definition(EVERYTHING)
    arrows = figure.findobj(FancyArrowPatch)
    assert len(arrows) == 15
    assert sum(arrow.get_linestyle() != "-" and arrow.get_linestyle() != "solid" for arrow in arrows) == 1
    assert "way taken on an error" in texts(figure)


def test_an_execution_that_went_well_is_green_throughout():
    figure = drawing.draw_execution(StepFunctions(CHAIN, WENT_WELL), ONE)
    assert [fills(figure, name) for name in CHAIN["States"]] == [{"succeeded": 1.0}] * 3
    assert "One: SUCCEEDED" in texts(figure)
    assert {"succeeded", "caught", "failed", "in progress", "aborted", "not run"} <= set(texts(figure))


def test_a_failed_execution_shows_the_state_that_failed_what_was_not_run_and_the_error():
    figure = drawing.draw_execution(StepFunctions(CHAIN, FAILED_SECOND, "FAILED"), ONE)
    assert fills(figure, "First") == {"succeeded": 1.0}
    assert fills(figure, "Second") == {"failed": 1.0}
    assert fills(figure, "Third") == {}
    assert "One: FAILED" in texts(figure)
    assert "ThresholdNotMet: THRESHOLD_CONFIDENCE_NOT_MET: 0.6 < 0.9" in texts(figure)


def test_an_outcome_is_told_by_its_symbol_too_not_by_its_colour_alone():
    assert len({SYMBOLS.get(name) for name in COLOURS}) == len(COLOURS)
    found = texts(drawing.draw_execution(StepFunctions(CHAIN, FAILED_SECOND, "FAILED"), ONE))
    assert found.count(SYMBOLS["failed"]) == 2 and found.count(SYMBOLS["succeeded"]) == 2  # a state and the legend


def test_a_running_execution_is_blue_where_it_stands():
    events = history("ExecutionStarted", *passed("First"), "WaitStateEntered Second")
    figure = drawing.draw_execution(StepFunctions(CHAIN, events, "RUNNING"), ONE)
    assert fills(figure, "Second") == {"in progress": 1.0}


def parent(*ending: str) -> list[dict]:
    return history("ExecutionStarted", "MapStateEntered Classify", "MapStateStarted", f"MapRunStarted {RUN}", *ending)


FINISHED = parent("MapRunSucceeded", "MapStateSucceeded", "MapStateExited Classify", "ExecutionSucceeded")


@pytest.mark.parametrize("draw", ["execution", "map run"])
def test_a_map_run_shows_its_item_counts_and_what_became_of_the_children(draw):
    client = StepFunctions(
        MAP,
        FINISHED,
        counts={"total": 4, "succeeded": 3, "failed": 1, "pending": 0},
        children=[WENT_WELL, WENT_WELL, FAILED_SECOND, WENT_WELL],
    )
    figure = drawing.draw_execution(client, ONE) if draw == "execution" else drawing.draw_map_run(client, RUN)
    found = texts(figure)
    assert "4 items: 3 succeeded, 1 failed" in found
    assert "4 succeeded" in found and "3 succeeded, 1 failed" in found and "3 succeeded" in found
    assert fills(figure, "Second") == pytest.approx({"succeeded": 0.75, "failed": 0.25})
    assert fills(figure, "Third") == {"succeeded": 1.0}
    if draw == "map run":
        assert "Map Run of Classify: SUCCEEDED" in found


def test_only_as_many_children_are_read_as_asked_for():
    client = StepFunctions(MAP, FINISHED, counts={"succeeded": 4}, children=[WENT_WELL] * 4)
    assert "2 succeeded" in texts(drawing.draw_map_run(client, RUN, children=2))


def test_children_without_a_history_leave_the_states_inside_white():
    figure = drawing.draw_map_run(StepFunctions(MAP, FINISHED, counts={"succeeded": 4}), RUN)
    assert "4 items: 4 succeeded" in texts(figure)
    assert fills(figure, "Second") == {}


def test_a_map_run_of_another_execution_is_refused():
    with pytest.raises(ValueError, match="does not tell which state started"):
        drawing.draw_map_run(StepFunctions(MAP, WENT_WELL), RUN)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_picture_is_saved_in_the_format_of_its_name(tmp_path, kind):
    path = tmp_path / f"picture.{kind}"
    drawing.draw_definition(CHAIN).savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG" if kind == "png" else b"<?xml")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [
                "TaskStateEntered A",
                "TaskScheduled",
                "TaskFailed",
                "TaskScheduled",
                "TaskSucceeded",
                "TaskStateExited A",
            ],
            {"A": ["succeeded"]},
        ),
        (
            [
                "TaskStateEntered A",
                "TaskScheduled",
                "TaskFailed",
                "TaskStateExited A",
                *passed("B"),
                "ExecutionSucceeded",
            ],
            {"A": ["caught"], "B": ["succeeded"]},
        ),
        (
            ["TaskStateEntered A", "LambdaFunctionScheduled", "LambdaFunctionTimedOut", "ExecutionFailed"],
            {"A": ["failed"]},
        ),
        (["TaskStateEntered A", "TaskScheduled", "TaskFailed", "TaskScheduled"], {"A": ["in progress"]}),
        (["TaskStateEntered A", "TaskScheduled", "ExecutionAborted"], {"A": ["aborted"]}),
        (["ChoiceStateEntered A", "ExecutionFailed"], {"A": ["failed"]}),
        (["TaskStateEntered A", "TaskScheduled", "ExecutionTimedOut"], {"A": ["failed"]}),
        (["FailStateEntered A", "ExecutionFailed"], {"A": ["failed"]}),
        (
            [*passed("A"), *passed("B"), *passed("A"), "ExecutionSucceeded"],
            {"A": ["succeeded"] * 2, "B": ["succeeded"]},
        ),
        # a branch fails, the other is given up, the Parallel is caught
        (
            [
                "ParallelStateEntered P",
                "ParallelStateStarted",
                "PassStateEntered A",
                "PassStateExited A",
                "TaskStateEntered B<3",
                "TaskScheduled",
                "TaskFailed",
                "WaitStateEntered C<3",
                "ParallelStateFailed<7",
                "ParallelStateExited P",
                "ExecutionSucceeded",
            ],
            {"P": ["caught"], "A": ["succeeded"], "B": ["failed"], "C": ["aborted"]},
        ),
        # nobody catches it
        (
            [
                "ParallelStateEntered P",
                "ParallelStateStarted",
                "TaskStateEntered B",
                "TaskScheduled",
                "TaskFailed",
                "WaitStateEntered C<3",
                "ParallelStateFailed<6",
                "ExecutionFailed",
            ],
            {"P": ["failed"], "B": ["failed"], "C": ["aborted"]},
        ),
        # the items of a Map, side by side
        (
            [
                "MapStateEntered M",
                "MapStateStarted",
                "MapIterationStarted",
                "MapIterationStarted<3",
                "PassStateEntered A<4",
                "PassStateEntered A<5",
                "PassStateExited A<7",
                "PassStateExited A<6",
                "MapIterationSucceeded",
                "MapStateSucceeded",
                "MapStateExited M",
                "ExecutionSucceeded",
            ],
            {"M": ["succeeded"], "A": ["succeeded"] * 2},
        ),
        (
            [
                "MapStateEntered M",
                "MapStateStarted",
                f"MapRunStarted {RUN}",
                "MapRunFailed",
                "MapStateFailed",
                "ExecutionFailed",
            ],
            {"M": ["failed"]},
        ),
        ([], {}),
    ],
)
def test_a_history_tells_what_became_of_each_state(lines, expected):
    tallies = read_history(history("ExecutionStarted", *lines)).tallies
    assert tallies == {name: Counter(outcomes) for name, outcomes in expected.items()}


def test_a_history_tells_which_state_started_a_map_run():
    assert read_history(FINISHED).map_runs == {RUN: "Classify"}
    assert read_history([]).tallies == {}
