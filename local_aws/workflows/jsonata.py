"""JSONata expressions of state machines, evaluated by jsonata-python.

moto's interpreter has no JSONata engine and would splice all data into an expression's text as literals. Here the data
is bound to the variables that the expression names, so a quote in a value is nothing but a quote.

What Step Functions does that this does not: it stops an expression after one second, and it forbids $eval.
"""

import collections
import datetime
import functools
import hashlib
import json
import math
import random
import re
import uuid

from jsonata import Jsonata
from jsonata.utils import Utils

REFERENCE = re.compile(r"\$(\w+)((?:\.[A-Za-z_]\w*)*)")
HASHES = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}


class EvaluationFailed(Exception):
    """The expression has no value that a state could use; the message says why, in the service's words."""


def check(expression: str) -> None:
    """Raises EvaluationFailed where the text is not JSONata."""
    try:
        Jsonata(expression)
    except Exception as error:
        raise EvaluationFailed(f"The JSONata expression '{expression}' is not valid: {error}") from error


def evaluate(expression: str, variables: dict):
    """The value of the expression as plain JSON types.

    variables: JSON values by the names the expression has for them, without the dollar sign.
    Raises EvaluationFailed for an expression that is wrong, has no value, or has one that JSON cannot hold.
    """
    try:
        references = _references(expression)
        bound = {name: _pick(variables[name], paths) for name, paths in references.items() if name in variables}
        result = _evaluate(expression, bound)
    except Exception as error:
        raise EvaluationFailed(f"The JSONata expression '{expression}' threw an error: {error}") from error
    if result is None:
        raise EvaluationFailed(f"The JSONata expression '{expression}' returned nothing (undefined).")
    try:
        return _plain(result)
    except TypeError as error:
        raise EvaluationFailed(f"The JSONata expression '{expression}' returned an unsupported result type.") from error


@functools.lru_cache(maxsize=4096)
def _references(expression: str) -> dict[str, set[tuple[str, ...]]]:
    """The variables in an expression, each with the paths of names that follow it, () for the whole."""
    found = collections.defaultdict(set)
    for name, path in REFERENCE.findall(expression):
        # % may ask for the parent of what a path leads to
        found[name].add(() if "%" in expression else tuple(path.split(".")[1:]))
    return dict(found)


def _pick(value, paths: set[tuple[str, ...]]):
    """What the paths lead to in a JSON value: a large one is not copied for the sake of a small part of it."""
    if () in paths or not isinstance(value, dict):
        return _bindable(value)
    names = {path[0] for path in paths if path[0] in value}
    return {name: _pick(value[name], {path[1:] for path in paths if path[0] == name}) for name in names}


# Compiled expressions that no thread is using at the moment: one keeps the state of its evaluation, so it cannot be
# shared, and compiling it takes longer than evaluating it.
_idle: dict[str, list[Jsonata]] = collections.defaultdict(list)


def _evaluate(expression: str, variables: dict):
    try:
        compiled = _idle[expression].pop()
    except IndexError:
        compiled = _compile(expression)
    try:
        Jsonata.CURRENT.jsonata = compiled  # where the engine's own functions look for $now() and for callbacks
        return compiled.evaluate(None, variables)
    finally:
        _idle[expression].append(compiled)


def _compile(expression: str) -> Jsonata:
    compiled = Jsonata(expression)
    compiled.set_output_convert_nulls(False)  # keeps null apart from undefined
    for name, function in FUNCTIONS.items():
        compiled.assign(name, Jsonata.JLambda(function))
    return compiled


def _bindable(value):
    """A JSON value as the engine wants it: with its own null, and dates as text."""
    if isinstance(value, dict):
        return {key: _bindable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_bindable(item) for item in value]
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return Utils.NULL_VALUE if value is None else value


def _plain(value):
    """What the engine returned as plain JSON types. Raises TypeError for a function."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Utils.RangeList):
        return list(range(value.a, value.b + 1))
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or value is Utils.NULL_VALUE:
        return None
    if isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"{type(value).__name__} is not a JSON type")


def _partition(array, size):
    if size < 1:
        raise ValueError("$partition needs a chunk size of at least 1")
    return [array[start : start + int(size)] for start in range(0, len(array), int(size))]


def _range(first, last, step):
    if step == 0:
        raise ValueError("$range needs a step other than 0")
    return [first + index * step for index in range(max(0, math.floor((last - first) / step) + 1))]


def _hash(text, algorithm):
    if algorithm not in HASHES:
        raise ValueError(f"$hash knows {', '.join(HASHES)}, not {algorithm!r}")
    return hashlib.new(HASHES[algorithm], text.encode()).hexdigest()


def _random(seed=None):
    return random.random() if seed is None else random.Random(seed).random()


def _uuid():
    return str(uuid.uuid4())


def _parse(text):
    return _bindable(json.loads(text))


# The functions that Step Functions adds to JSONata's own.
FUNCTIONS = {
    "partition": _partition,
    "range": _range,
    "hash": _hash,
    "random": _random,
    "uuid": _uuid,
    "parse": _parse,
}
