"""What became of each state of an execution, read from its history events alone.

An entry into a state ends as one of OUTCOMES. A state that is entered more than once (a loop, the items of a Map) has
one outcome for each entry, so what is told of a state is a tally.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

OUTCOMES = ("succeeded", "caught", "failed", "in progress", "aborted")
ENDINGS = ("ExecutionSucceeded", "ExecutionFailed", "ExecutionTimedOut", "ExecutionAborted")


@dataclass
class _Entry:
    """One entry into a state; outcome is empty as long as the state has neither been left nor given up."""

    name: str
    kind: str
    is_failing: bool = False
    outcome: str = ""


@dataclass(frozen=True)
class ExecutionHistory:
    """tallies: state name -> outcomes counted; map_runs: Map Run ARN -> name of its Map state, in order of their start.

    failure: the error and the cause that ended the execution; None for one that did not fail.
    """

    tallies: dict[str, Counter]
    map_runs: dict[str, str]
    failure: tuple[str, str] | None


def read_history(events: Iterable[dict]) -> ExecutionHistory:
    """The events of get_execution_history, all pages, oldest first."""
    events = list(events)
    previous = {event["id"]: event.get("previousEventId", 0) for event in events}
    kinds = {event["id"]: event["type"] for event in events}
    entries: dict[int, _Entry] = {}
    map_runs: dict[str, str] = {}
    for event in events:
        kind = event["type"]
        if kind.endswith("StateEntered"):
            name = event["stateEnteredEventDetails"]["name"]
            entries[event["id"]] = _Entry(name, kind, is_failing=kind == "FailStateEntered")
        elif kind.endswith("StateExited"):
            entry = _nearest_open(event["id"], previous, entries, name=event["stateExitedEventDetails"]["name"])
            if entry:
                entry.outcome = "caught" if _is_failure(kinds.get(event.get("previousEventId", 0), "")) else "succeeded"
        elif not kind.startswith(("Execution", "MapIteration")):
            entry = _nearest_open(event["id"], previous, entries, kind=_container_kind(kind))
            if entry:
                entry.is_failing = _is_failure(kind)
                if kind == "MapRunStarted":
                    map_runs[event["mapRunStartedEventDetails"]["mapRunArn"]] = entry.name
    _settle(events, previous, entries)
    tallies: dict[str, Counter] = {}
    for entry in entries.values():
        tallies.setdefault(entry.name, Counter())[entry.outcome] += 1
    return ExecutionHistory(tallies, map_runs, _failure(events))


def _settle(events: list[dict], previous: dict[int, int], entries: dict[int, _Entry]) -> None:
    """Gives the entries that were never left their outcome."""
    last: dict = events[-1] if events else {"type": "", "id": 0}
    if last["type"] in ("ExecutionFailed", "ExecutionTimedOut"):
        culprit = _nearest_open(last["id"], previous, entries)
        if culprit:
            culprit.is_failing = True
    otherwise = "aborted" if last["type"] in ENDINGS else "in progress"
    for entry in entries.values():
        entry.outcome = entry.outcome or ("failed" if entry.is_failing else otherwise)


def _nearest_open(
    event: int, previous: dict[int, int], entries: dict[int, _Entry], name: str = "", kind: str = ""
) -> _Entry | None:
    """Up the chain of events, the first entry that is still open and has that name and kind, where one is asked for."""
    while event := previous.get(event, 0):
        entry = entries.get(event)
        if entry and not entry.outcome and name in ("", entry.name) and kind in ("", entry.kind):
            return entry
    return None


def _container_kind(kind: str) -> str:
    """The events of a Map or Parallel come after those of the states inside it, and are none of theirs."""
    for container in ("Map", "Parallel"):
        if kind.startswith(container):
            return f"{container}StateEntered"
    return ""


def _is_failure(kind: str) -> bool:
    return kind.endswith(("Failed", "TimedOut"))


def _failure(events: list[dict]) -> tuple[str, str] | None:
    last: dict = events[-1] if events else {"type": ""}
    key = {"ExecutionFailed": "executionFailedEventDetails", "ExecutionTimedOut": "executionTimedOutEventDetails"}
    if last["type"] not in key:
        return None
    details = last.get(key[last["type"]], {})
    return details.get("error", "States.Timeout" if last["type"] == "ExecutionTimedOut" else ""), details.get(
        "cause", ""
    )
