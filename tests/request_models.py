"""Holds every request to botocore's model of its operation: beside types and names, as botocore itself does, also the
values of enumerations, the patterns and lengths of texts, the ranges of numbers."""

import contextlib
import re
from collections.abc import Iterator
from unittest import mock

from botocore.client import BaseClient
from botocore.model import Shape


def violations(shape: Shape | None, value, path: str = "") -> Iterator[str]:
    """One text for each part of a request that the service's model does not allow."""
    if shape is None:
        return
    if shape.type_name == "structure":
        for name, part in value.items():
            if name in shape.members:  # botocore itself names the others
                yield from violations(shape.members[name], part, f"{path}.{name}")
    elif shape.type_name == "list":
        yield from _out_of_range(shape, len(value), path)
        for place, part in enumerate(value):
            yield from violations(shape.member, part, f"{path}[{place}]")
    elif shape.type_name == "map":
        for key, part in value.items():
            yield from violations(shape.key, key, f"{path} key")
            yield from violations(shape.value, part, f"{path}[{key}]")
    elif isinstance(value, (str, bytes)):
        yield from _out_of_range(shape, len(value), path)
        yield from _of_no_such_text(shape, value, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _out_of_range(shape, value, path)


def _out_of_range(shape: Shape, size: float, path: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if (low is not None and size < low) or (high is not None and size > high):
        yield f"{path}: {size} is not from {low} to {high}"


def _of_no_such_text(shape: Shape, value: str | bytes, path: str) -> Iterator[str]:
    enumeration, pattern = shape.metadata.get("enum"), shape.metadata.get("pattern")
    if enumeration and value not in enumeration:
        yield f"{path}: {value!r} is none of {len(enumeration)} values"
    if pattern and isinstance(value, str):
        with contextlib.suppress(re.error):  # some patterns are of a dialect that Python does not read
            if not re.fullmatch(pattern, value):
                yield f"{path}: {value!r} is not {pattern}"


@contextlib.contextmanager
def held_to_models() -> Iterator[list[tuple[str, dict]]]:
    """Fails the test at the first request that its model does not allow; yields those made: operation, parameters."""
    made: list[tuple[str, dict]] = []
    call = BaseClient._make_api_call

    def checked(client, operation: str, parameters: dict):
        model = client.meta.service_model.operation_model(operation)
        problems = list(violations(model.input_shape, parameters, operation))
        assert not problems, problems
        made.append((operation, parameters))
        return call(client, operation, parameters)

    with mock.patch.object(BaseClient, "_make_api_call", checked):
        yield made
