"""What a distributed Map iterates over: items read from S3, and items put together to batches."""

import csv
import io
import json
from collections.abc import Iterator

from botocore.exceptions import ClientError
from moto.stepfunctions.parser.asl.eval.environment import Environment

from local_aws.workflows import templates
from local_aws.workflows.execution import MAX_PAYLOAD_BYTES
from local_aws.workflows.failures import query_failed

DELIMITERS = {"COMMA": ",", "PIPE": "|", "SEMICOLON": ";", "SPACE": " ", "TAB": "\t"}


class ReadFailed(Exception):
    """The items cannot be had; the message says why, in the service's words."""


def read_items(state, env: Environment, server) -> list:
    """The items of a Map state's ItemReader. Raises ReadFailed."""
    reader = state.fields["ItemReader"]
    arguments = templates.evaluate(env, reader.get("Arguments", reader.get("Parameters", {})), state.language)
    config = templates.evaluate(env, reader.get("ReaderConfig", {}), state.language)
    try:
        if reader["Resource"].endswith(":listObjectsV2"):
            items = _list_objects(server.client("s3"), arguments)
        else:
            items = _get_object(server.client("s3"), arguments, config)
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        raise ReadFailed(f"Attempting to read from S3 failed: {message} (Service: S3, Error Code: {code})") from error
    limit = _limit(env, config)
    return items if limit is None else items[:limit]


def _limit(env: Environment, config: dict) -> int | None:
    if "MaxItemsPath" in config:
        return int(templates.evaluate_path(env, config["MaxItemsPath"]))
    return int(config["MaxItems"]) if "MaxItems" in config else None


def _list_objects(s3, arguments: dict) -> list[dict]:
    pages = s3.get_paginator("list_objects_v2").paginate(**arguments)
    return [_object_item(found) for page in pages for found in page.get("Contents", [])]


def _object_item(found: dict) -> dict:
    return {
        "Etag": found["ETag"],
        "Key": found["Key"],
        "LastModified": int(found["LastModified"].timestamp()),
        "Size": found["Size"],
        "StorageClass": found.get("StorageClass", "STANDARD"),
    }


def _get_object(s3, arguments: dict, config: dict) -> list:
    text = s3.get_object(**arguments)["Body"].read().decode("utf-8-sig")
    where = f"s3://{arguments['Bucket']}/{arguments['Key']}"
    try:
        return INPUT_TYPES[config["InputType"]](text, config)
    except (ValueError, csv.Error) as error:
        raise ReadFailed(f"{where} is not {config['InputType']} that a Map state could read: {error}") from error


def _json_items(text: str, config: dict) -> list:
    items = json.loads(text)
    if not isinstance(items, list):
        raise ValueError("its top level is no array")
    return items


def _json_lines_items(text: str, config: dict) -> list:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _csv_items(text: str, config: dict) -> list[dict]:
    rows = csv.reader(io.StringIO(text), delimiter=DELIMITERS[config.get("CSVDelimiter", "COMMA")])
    names = config["CSVHeaders"] if config.get("CSVHeaderLocation") == "GIVEN" else next(rows, [])
    return [dict(zip(names, row, strict=False)) for row in rows if row]


INPUT_TYPES = {"JSON": _json_items, "JSONL": _json_lines_items, "CSV": _csv_items}


def batches(state, env: Environment, inputs: list) -> list[tuple[int, dict]]:
    """(number of items, input) of each batch of a Map state's ItemBatcher."""
    batcher = state.fields["ItemBatcher"]
    most_items = _batcher_number(state, env, batcher, "MaxItemsPerBatch") or len(inputs)
    most_bytes = _batcher_number(state, env, batcher, "MaxInputBytesPerBatch") or MAX_PAYLOAD_BYTES
    common = {}
    if "BatchInput" in batcher:
        common = {"BatchInput": templates.evaluate(env, batcher["BatchInput"], state.language)}
    return [
        (len(items), {**common, "Items": items})
        for items in _split(inputs, most_items, most_bytes - len(_to_json({**common, "Items": []})), env)
    ]


def _batcher_number(state, env: Environment, batcher: dict, field: str) -> int | None:
    if f"{field}Path" in batcher:
        return int(templates.evaluate_path(env, batcher[f"{field}Path"]))
    return int(templates.evaluate(env, batcher[field], state.language)) if field in batcher else None


def _split(inputs: list, most_items: int, most_bytes: int, env: Environment) -> Iterator[list]:
    batch: list = []
    size = 0
    for item in inputs:
        item_size = len(_to_json(item)) + 1  # and the comma
        if item_size > most_bytes:
            raise query_failed(env, f"An item has {item_size} bytes; a batch may have {most_bytes} bytes of items")
        if batch and (len(batch) == most_items or size + item_size > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item_size
    if batch:
        yield batch


def _to_json(value) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
