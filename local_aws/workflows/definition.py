"""Checks a state machine's definition when it is created, as the service does, so that no execution meets its faults.

Codes and locations are those of ValidateStateMachineDefinition. What the service does that this does not: it warns
(NO_DOLLAR and the like), and it checks the arguments of other services than Lambda and S3.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from local_aws.workflows import jsonata
from local_aws.workflows.item_reader import DELIMITERS, INPUT_TYPES
from local_aws.workflows.templates import is_expression

BOTH, JSONPATH, JSONATA = "JSONPath or JSONata", "JSONPath", "JSONata"
MACHINE_FIELDS = {"Comment", "QueryLanguage", "StartAt", "States", "TimeoutSeconds", "Version"}
PROCESSOR_FIELDS = {"Comment", "QueryLanguage", "StartAt", "States", "ProcessorConfig"}
EVERY_STATE = {"Type": BOTH, "Comment": BOTH, "QueryLanguage": BOTH}
GOES_ON = {"Next": BOTH, "End": BOTH, "Assign": BOTH}
DATA = {"InputPath": JSONPATH, "OutputPath": JSONPATH, "Output": JSONATA}
WORKS = {"Retry": BOTH, "Catch": BOTH, "ResultPath": JSONPATH, "ResultSelector": JSONPATH}
TAKES_ARGUMENTS = {"Parameters": JSONPATH, "Arguments": JSONATA}
TOLERANCE = {
    "ToleratedFailureCount": BOTH,
    "ToleratedFailureCountPath": JSONPATH,
    "ToleratedFailurePercentage": BOTH,
    "ToleratedFailurePercentagePath": JSONPATH,
}
DISTRIBUTED_ONLY = {"ItemReader": BOTH, "ItemBatcher": BOTH, "ResultWriter": BOTH, "Label": BOTH, **TOLERANCE}
STATE_FIELDS = {
    "Task": {
        **GOES_ON,
        **DATA,
        **WORKS,
        **TAKES_ARGUMENTS,
        "Resource": BOTH,
        "Credentials": BOTH,
        "TimeoutSeconds": BOTH,
        "TimeoutSecondsPath": JSONPATH,
        "HeartbeatSeconds": BOTH,
        "HeartbeatSecondsPath": JSONPATH,
    },
    "Pass": {**GOES_ON, **DATA, "Result": JSONPATH, "ResultPath": JSONPATH, "Parameters": JSONPATH},
    "Choice": {**DATA, "Assign": BOTH, "Choices": BOTH, "Default": BOTH},
    "Wait": {
        **GOES_ON,
        **DATA,
        "Seconds": BOTH,
        "Timestamp": BOTH,
        "SecondsPath": JSONPATH,
        "TimestampPath": JSONPATH,
    },
    "Succeed": DATA,
    "Fail": {"Error": BOTH, "Cause": BOTH, "ErrorPath": JSONPATH, "CausePath": JSONPATH},
    "Parallel": {**GOES_ON, **DATA, **WORKS, **TAKES_ARGUMENTS, "Branches": BOTH},
    "Map": {
        **GOES_ON,
        **DATA,
        **WORKS,
        **DISTRIBUTED_ONLY,
        "ItemProcessor": BOTH,
        "Iterator": JSONPATH,
        "Items": JSONATA,
        "ItemsPath": JSONPATH,
        "ItemSelector": BOTH,
        "Parameters": JSONPATH,
        "MaxConcurrency": BOTH,
        "MaxConcurrencyPath": JSONPATH,
    },
}
NESTED = ("ItemProcessor", "Iterator", "Branches")
REQUIRED = {"Task": ["Resource"], "Choice": ["Choices"], "Parallel": ["Branches"]}
RETRIER_FIELDS = {
    "ErrorEquals",
    "IntervalSeconds",
    "MaxAttempts",
    "BackoffRate",
    "MaxDelaySeconds",
    "JitterStrategy",
    "Comment",
}
CATCHER_FIELDS = {"ErrorEquals", "Next", "ResultPath", "Output", "Assign", "Comment"}
STATE_ERRORS = re.compile(r"States\.\w+")
KNOWN_ERRORS = {
    "States.ALL",
    "States.DataLimitExceeded",
    "States.HeartbeatTimeout",
    "States.Timeout",
    "States.TaskFailed",
    "States.Permissions",
    "States.ResultPathMatchFailure",
    "States.ParameterPathFailure",
    "States.BranchFailed",
    "States.NoChoiceMatched",
    "States.IntrinsicFailure",
    "States.ExceedToleratedFailureThreshold",
    "States.ItemReaderFailed",
    "States.ResultWriterFailed",
    "States.Runtime",
    "States.QueryEvaluationError",
}
READERS = ("arn:aws:states:::s3:getObject", "arn:aws:states:::s3:listObjectsV2")
WRITER = "arn:aws:states:::s3:putObject"
READER_FIELDS = {"Resource", "Parameters", "Arguments", "ReaderConfig"}
READER_CONFIG_FIELDS = {
    "InputType",
    "MaxItems",
    "MaxItemsPath",
    "CSVHeaderLocation",
    "CSVHeaders",
    "CSVDelimiter",
}
BATCHER_FIELDS = {
    "MaxItemsPerBatch",
    "MaxItemsPerBatchPath",
    "MaxInputBytesPerBatch",
    "MaxInputBytesPerBatchPath",
    "BatchInput",
}
WRITER_FIELDS = {"Resource", "Parameters", "Arguments", "WriterConfig"}
MAX_DEFINITION_BYTES = 1 << 20


@dataclass(frozen=True)
class Fault:
    code: str
    message: str
    location: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message} at {self.location}"


def faults(text: str, machine_type: str = "STANDARD") -> list[Fault]:
    """What is wrong with a definition; nothing if it can be executed here."""
    try:
        definition = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [Fault("INVALID_JSON_DESCRIPTION", f"JSON syntax problem found: {error}", "/")]
    if not isinstance(definition, dict):
        return [_schema("A definition is a JSON object", "/")]
    if len(text.encode()) > MAX_DEFINITION_BYTES:
        return [_schema(f"A definition has at most {MAX_DEFINITION_BYTES} bytes", "/")]
    checker = _Checker(is_express=machine_type == "EXPRESS")
    try:
        return list(checker.machine(definition, "", definition.get("QueryLanguage", JSONPATH), MACHINE_FIELDS))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a list where an object belongs, and so on
        return [_schema(f"A value is of the wrong type: {error}", "/")]


def _schema(message: str, location: str) -> Fault:
    return Fault("SCHEMA_VALIDATION_FAILED", message, location or "/")


def _missing(field: str, target: str, path: str) -> Fault:
    message = f"Missing '{field.rsplit('/', 1)[-1]}' target: {target}"
    return Fault("MISSING_TRANSITION_TARGET", message, f"{path}/{field}")


class _Checker:
    """Walks through one definition; remembers the names that must be unique in all of it."""

    def __init__(self, is_express: bool):
        self._is_express = is_express
        self._names: set[str] = set()
        self._labels: set[str] = set()

    def machine(self, machine: dict, path: str, language: str, fields: set[str]) -> Iterator[Fault]:
        if language not in (JSONPATH, JSONATA):
            yield _schema(f"QueryLanguage is {JSONPATH} or {JSONATA}, not {language!r}", f"{path}/QueryLanguage")
            return
        yield from _unknown_fields(machine, fields, path)
        missing = [name for name in ("StartAt", "States") if name not in machine]
        if missing:
            yield _schema(f"These fields are required: {missing}", path)
            return
        states = machine["States"]
        if not isinstance(states, dict) or not states or not all(isinstance(each, dict) for each in states.values()):
            yield _schema("States is an object of states, with at least one", f"{path}/States")
            return
        if machine["StartAt"] not in states:
            yield _missing("StartAt", machine["StartAt"], path)
        for name, state in states.items():
            place = f"{path}/States/{name}"
            if name in self._names:
                yield Fault("DUPLICATE_STATE_NAME", f"Duplicate State name: {name}", place)
            self._names.add(name)
            if not name or len(name) > 80:
                yield Fault("INVALID_STATE_NAME", "A state's name has 1 to 80 characters", place)
            yield from self._state(state, place, language)
            for field, target in _targets(state):
                if target not in states:
                    yield _missing(field, target, place)
        yield from _unreachable(machine["StartAt"], states, path)

    def _state(self, state: dict, path: str, machine_language: str) -> Iterator[Fault]:
        kind = state.get("Type")
        if kind not in STATE_FIELDS:
            yield _schema(f"Type is one of {', '.join(STATE_FIELDS)}, not {kind!r}", f"{path}/Type")
            return
        language = state.get("QueryLanguage", machine_language)
        if language not in (JSONPATH, JSONATA) or (machine_language == JSONATA and language == JSONPATH):
            yield _schema(f"QueryLanguage {language!r} cannot be used here", f"{path}/QueryLanguage")
            return
        known = {**EVERY_STATE, **STATE_FIELDS[kind]}
        for field in state:
            if field not in known:
                yield _schema(f"Field {field!r} is not supported in a {kind} state", f"{path}/{field}")
            elif known[field] not in (BOTH, language):
                yield _schema(f"Field {field!r} is not supported when QueryLanguage is {language}", f"{path}/{field}")
        missing = [field for field in REQUIRED.get(kind, []) if field not in state]
        if missing:
            yield _schema(f"These fields are required: {missing}", path)
            return
        if "Next" in known and ("Next" in state) == (state.get("End") is True):
            yield _schema('A state has either Next or "End": true', path)
        yield from _error_handlers(state, path)
        if language == JSONATA:
            yield from _expressions({name: value for name, value in state.items() if name not in NESTED}, path)
        yield from getattr(self, f"_{kind.lower()}", _nothing)(state, path, language)

    def _task(self, state: dict, path: str, language: str) -> Iterator[Fault]:
        resource = state["Resource"]
        if not isinstance(resource, str) or not resource.startswith("arn:"):
            yield Fault("INVALID_RESOURCE", f"Resource is an ARN, not {resource!r}", f"{path}/Resource")
        elif ":activity:" in resource:
            yield Fault("INVALID_RESOURCE", "The local AWS does not support activities", f"{path}/Resource")
        elif self._is_express and re.search(r"\.(sync|waitForTaskToken)", resource):
            yield _schema(f"An EXPRESS state machine does not wait, as {resource} does", f"{path}/Resource")

    def _choice(self, state: dict, path: str, language: str) -> Iterator[Fault]:
        if not isinstance(state["Choices"], list) or not state["Choices"]:
            yield _schema("Choices is an array of rules, with at least one", f"{path}/Choices")
            return
        for number, rule in enumerate(state["Choices"]):
            place = f"{path}/Choices[{number}]"
            if not isinstance(rule, dict) or "Next" not in rule:
                yield _schema("These fields are required: ['Next']", place)
            elif ("Condition" in rule) != (language == JSONATA):
                word = "needs a" if language == JSONATA else "has no"
                yield _schema(f"A rule {word} Condition when QueryLanguage is {language}", place)

    def _wait(self, state: dict, path: str, language: str) -> Iterator[Fault]:
        given = [name for name in ("Seconds", "SecondsPath", "Timestamp", "TimestampPath") if name in state]
        if len(given) != 1:
            yield _schema(f"A Wait state has exactly one of Seconds and Timestamp, not {given}", path)

    def _parallel(self, state: dict, path: str, language: str) -> Iterator[Fault]:
        for number, branch in enumerate(state["Branches"]):
            yield from self.machine(branch, f"{path}/Branches[{number}]", language, MACHINE_FIELDS - {"Version"})

    def _map(self, state: dict, path: str, language: str) -> Iterator[Fault]:
        field = "Iterator" if "Iterator" in state else "ItemProcessor"
        processor = state.get(field)
        if not isinstance(processor, dict):
            yield _schema("These fields are required: ['ItemProcessor']", path)
            return
        config = processor.get("ProcessorConfig", {})
        mode, kind = config.get("Mode", "INLINE"), config.get("ExecutionType")
        place = f"{path}/{field}/ProcessorConfig"
        if self._is_express and mode == "DISTRIBUTED":
            yield _schema("An EXPRESS state machine has no distributed Map", f"{place}/Mode")
        around, self._is_express = self._is_express, self._is_express or kind == "EXPRESS"
        inner = processor.get("QueryLanguage", language)
        yield from self.machine(processor, f"{path}/{field}", inner, PROCESSOR_FIELDS)
        self._is_express = around
        if mode == "INLINE":
            for name in sorted(DISTRIBUTED_ONLY.keys() & state.keys()):
                yield _schema(f"Field {name!r} is only supported when Mode is DISTRIBUTED", f"{path}/{name}")
        elif mode != "DISTRIBUTED":
            yield _schema(f"Mode is INLINE or DISTRIBUTED, not {mode!r}", f"{place}/Mode")
        elif kind not in ("STANDARD", "EXPRESS"):
            yield _schema(f"ExecutionType is STANDARD or EXPRESS, not {kind!r}", f"{place}/ExecutionType")
        elif field == "Iterator":
            yield _schema("A distributed Map has an ItemProcessor, no Iterator", f"{path}/Iterator")
        else:
            yield from self._distributed(state, path)

    def _distributed(self, state: dict, path: str) -> Iterator[Fault]:
        if "Parameters" in state:
            yield _schema("The local AWS does not support Parameters of a Map; use ItemSelector", f"{path}/Parameters")
        label = state.get("Label")
        if label is not None and not re.fullmatch(r"[^\s?*<>{}\[\]:;,\\|^~$#%&`\"/]{1,40}", str(label)):
            yield Fault("INVALID_LABEL_NAME", "A label has 1 to 40 characters, none of them special", f"{path}/Label")
        if label is not None and label in self._labels:
            yield Fault("DUPLICATE_LABEL_NAME", f"Duplicate label: {label}", f"{path}/Label")
        self._labels.add(label)
        yield from _number(state, "ToleratedFailurePercentage", path, highest=100)
        yield from _number(state, "ToleratedFailureCount", path)
        yield from _number(state, "MaxConcurrency", path)
        yield from _reader(state, path)
        yield from _batcher(state, path)
        yield from _writer(state, path)


def _nothing(state: dict, path: str, language: str) -> Iterator[Fault]:
    return iter(())


def _unknown_fields(value: dict, known: set[str], path: str) -> Iterator[Fault]:
    for field in value:
        if field not in known:
            yield _schema(f"Field {field!r} is not one of {', '.join(sorted(known))}", f"{path}/{field}")


def _targets(state: dict) -> Iterator[tuple[str, str]]:
    """(path of the field, name of the state) of each transition."""
    if "Next" in state:
        yield "Next", state["Next"]
    if "Default" in state:
        yield "Default", state["Default"]
    for field in ("Choices", "Catch"):
        for number, rule in enumerate(state.get(field) or []):
            if isinstance(rule, dict) and "Next" in rule:
                yield f"{field}[{number}]/Next", rule["Next"]


def _unreachable(start: str, states: dict, path: str) -> Iterator[Fault]:
    reached, found = set(), [start]
    while found:
        name = found.pop()
        if name in states and name not in reached:
            reached.add(name)
            found.extend(target for _, target in _targets(states[name]))
    for name in states:
        if name not in reached and start in states:
            yield Fault("MISSING_TRANSITION_TARGET", f'State "{name}" is not reachable.', f"{path}/States/{name}")


def _error_handlers(state: dict, path: str) -> Iterator[Fault]:
    for field, known in (("Retry", RETRIER_FIELDS), ("Catch", CATCHER_FIELDS)):
        handlers = state.get(field, [])
        if not isinstance(handlers, list):
            yield _schema(f"{field} is an array", f"{path}/{field}")
            continue
        for number, handler in enumerate(handlers):
            place = f"{path}/{field}[{number}]"
            yield from _unknown_fields(handler, known, place)
            errors = handler.get("ErrorEquals")
            if not isinstance(errors, list) or not errors or not all(isinstance(name, str) for name in errors):
                yield _schema("ErrorEquals is an array of error names, with at least one", f"{place}/ErrorEquals")
                continue
            if field == "Catch" and "Next" not in handler:
                yield _schema("These fields are required: ['Next']", place)
            if "States.ALL" in errors and (len(errors) > 1 or number < len(handlers) - 1):
                yield _schema("States.ALL stands alone, in the last place", f"{place}/ErrorEquals")
            for name in errors:
                if STATE_ERRORS.fullmatch(name) and name not in KNOWN_ERRORS:
                    yield _schema(f"There is no error {name}", f"{place}/ErrorEquals")


def _expressions(value, path: str) -> Iterator[Fault]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _expressions(item, f"{path}/{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _expressions(item, f"{path}[{number}]")
    elif is_expression(value):
        try:
            jsonata.check(value[2:-2].strip())
        except jsonata.EvaluationFailed as error:
            yield _schema(str(error), path)


def _number(state: dict, name: str, path: str, highest: int | None = None) -> Iterator[Fault]:
    value = state.get(name, 0)
    if is_expression(value):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or (highest and value > highest):
        limit = f" to {highest}" if highest else ""
        yield _schema(f"{name} is a number from 0{limit}, not {value!r}", f"{path}/{name}")


def _reader(state: dict, path: str) -> Iterator[Fault]:
    if "ItemReader" not in state:
        return
    place, reader = f"{path}/ItemReader", state["ItemReader"]
    if not isinstance(reader, dict):
        yield _schema("ItemReader is an object", place)
        return
    yield from _unknown_fields(reader, READER_FIELDS, place)
    resource, config = reader.get("Resource"), reader.get("ReaderConfig", {})
    if resource not in READERS:
        message = f"ItemReader reads with {' or '.join(READERS)}, not {resource!r}"
        yield Fault("INVALID_RESOURCE", message, f"{place}/Resource")
        return
    yield from _unknown_fields(config, READER_CONFIG_FIELDS, f"{place}/ReaderConfig")
    input_type = config.get("InputType")
    if resource.endswith("getObject") and input_type not in INPUT_TYPES:
        known = ", ".join(INPUT_TYPES)
        yield _schema(f"The local AWS reads InputType {known}, not {input_type!r}", f"{place}/ReaderConfig/InputType")
    if input_type == "CSV" and config.get("CSVHeaderLocation") not in ("FIRST_ROW", "GIVEN"):
        yield _schema("CSVHeaderLocation is FIRST_ROW or GIVEN", f"{place}/ReaderConfig/CSVHeaderLocation")
    elif config.get("CSVHeaderLocation") == "GIVEN" and not config.get("CSVHeaders"):
        yield _schema("CSVHeaders are required where CSVHeaderLocation is GIVEN", f"{place}/ReaderConfig")
    if config.get("CSVDelimiter", "COMMA") not in DELIMITERS:
        yield _schema(f"There is no CSVDelimiter {config['CSVDelimiter']!r}", f"{place}/ReaderConfig/CSVDelimiter")


def _batcher(state: dict, path: str) -> Iterator[Fault]:
    if "ItemBatcher" not in state:
        return
    batcher, place = state["ItemBatcher"], f"{path}/ItemBatcher"
    yield from _unknown_fields(batcher, BATCHER_FIELDS, place)
    if not any(name.startswith("Max") for name in batcher):
        yield _schema("ItemBatcher needs MaxItemsPerBatch or MaxInputBytesPerBatch", place)


def _writer(state: dict, path: str) -> Iterator[Fault]:
    if "ResultWriter" not in state:
        return
    writer, place = state["ResultWriter"], f"{path}/ResultWriter"
    yield from _unknown_fields(writer, WRITER_FIELDS, place)
    if "Resource" in writer and writer["Resource"] != WRITER:
        yield Fault("INVALID_RESOURCE", f"ResultWriter writes with {WRITER}, not {writer['Resource']!r}", place)
    if "Resource" in writer and not writer.get("Arguments", writer.get("Parameters")):
        yield _schema("ResultWriter needs the Bucket and the Prefix of its files", place)
    config = writer.get("WriterConfig", {})
    for name, known in (("Transformation", ("NONE", "COMPACT", "FLATTEN")), ("OutputType", ("JSON", "JSONL"))):
        if config.get(name, known[0]) not in known:
            yield _schema(f"{name} is one of {', '.join(known)}, not {config[name]!r}", f"{place}/WriterConfig/{name}")
