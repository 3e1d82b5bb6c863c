"""Reads an endpoint's captured data from S3 into one DataFrame.

    <prefix>/<endpoint>/<variant>/YYYY/MM/DD/HH/MM-SS-mmm-<uuid>.jsonl

A file holds one or more records, one JSON object a line. SageMaker writes it some minutes after the calls.
"""

import base64
import json
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

log = logging.getLogger(__name__)

KEY = re.compile(r"(?:.*/)?(?P<endpoint>[^/]+)/(?P<variant>[^/]+)/\d{4}/\d\d/\d\d/\d\d/[^/]+\.jsonl")
MAX_FILE_BYTES = 64 * 1024**2
READERS = 8
COLUMNS = ["time", "endpoint", "variant", "image", "probabilities", "predicted", "confidence", "threshold_met", "key"]


def read_captures(
    s3,
    uri: str,
    classes: Sequence[str] = ("bicycle", "motorcycle"),
    threshold: float = 0.9,
    earlier: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Every captured record below an s3:// location, and what could not be read, one text a file or line.

    Columns: time (UTC), endpoint, variant, image (bytes, or None), probabilities (floats, one a class), predicted (a
    class), confidence (the highest probability), threshold_met, key (of its file in S3). Sorted by time.
    earlier is the frame of a former call: its rows are kept, and its files are not read again.
    What is half-written or foreign is skipped, and named in the log as well.
    """
    known = set() if earlier is None else set(earlier["key"])
    problems: list[str] = []
    records = []
    with ThreadPoolExecutor(READERS) as pool:
        for found, wrong in pool.map(
            lambda key: _read_file(s3, key[0], key[1], classes), _new_keys(s3, uri, known, problems)
        ):
            records += found
            problems += wrong
    for problem in problems:
        log.warning("%s; it is skipped", problem)
    frame = pd.DataFrame(records, columns=[name for name in COLUMNS if name != "threshold_met"])
    frame["time"] = pd.to_datetime(frame["time"], utc=True)
    frame["confidence"] = frame["confidence"].astype(float)
    frame = pd.concat([part for part in (earlier, frame) if part is not None and len(part)] or [frame])
    frame["threshold_met"] = frame["confidence"] >= threshold
    return frame.sort_values("time", kind="stable", ignore_index=True)[COLUMNS], problems


def _new_keys(s3, uri: str, known: Collection[str], problems: list[str]) -> Iterator[tuple[str, str]]:
    """(bucket, key) of every capture file that is not known yet; names the others in problems."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise ValueError(f"{uri!r} is not an S3 location; it must read s3://bucket/prefix")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for found in page.get("Contents", []):
            if found["Key"] in known:
                continue
            if not KEY.fullmatch(found["Key"]):
                problems.append(f"s3://{bucket}/{found['Key']} is no capture file by its name")
            elif found["Size"] > MAX_FILE_BYTES:
                problems.append(f"s3://{bucket}/{found['Key']} is larger than {MAX_FILE_BYTES} bytes")
            else:
                yield bucket, found["Key"]


def _read_file(s3, bucket: str, key: str, classes: Sequence[str]) -> tuple[list[dict], list[str]]:
    """The records of one file, and the lines that are none."""
    body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    place = KEY.fullmatch(key).groupdict()
    records, problems = [], []
    for number, line in enumerate(body.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append({**place, "key": key, **_record(line, classes)})
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            problems.append(
                f"s3://{bucket}/{key} line {number} is no captured record ({type(error).__name__}: {error})"
            )
    return records, problems


def _record(line: bytes, classes: Sequence[str]) -> dict:
    """One line -> the columns that it gives. Another line raises ValueError, TypeError, LookupError, AttributeError."""
    captured = json.loads(line)
    sides = captured["captureData"]
    probabilities = _probabilities(_decode(sides["endpointOutput"]), classes)
    image = sides.get("endpointInput")
    best = max(range(len(classes)), key=probabilities.__getitem__)
    return {
        "time": _time(captured["eventMetadata"]["inferenceTime"]),
        "image": None if image is None else _decode(image),
        "probabilities": probabilities,
        "predicted": classes[best],
        "confidence": probabilities[best],
    }


def _decode(side: dict) -> bytes:
    """What went over the wire. JSON and CSV stand in the file as they are, everything else in base64."""
    encoding, data = side["encoding"], side["data"]
    if encoding in ("JSON", "CSV"):
        return data.encode()
    if encoding != "BASE64":
        raise ValueError(f"the encoding {encoding!r} is not known; it is JSON, CSV or BASE64")
    return base64.b64decode(data, validate=True)


def _probabilities(answer: bytes, classes: Sequence[str]) -> list[float]:
    """A JSON list, a JSON line {"prediction": [...]}, or comma-separated numbers."""
    text = answer.decode().strip()
    found = json.loads(text) if text[:1] in ("[", "{") else [float(part) for part in text.split(",")]
    found = found["prediction"] if isinstance(found, dict) else found
    if len(found) != len(classes):
        raise ValueError(f"it has {len(found)} probabilities for {len(classes)} classes")
    wrong = [number for number in found if not _is_probability(number)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no probability")
    return [float(number) for number in found]


def _is_probability(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= 1


def _time(text: str) -> pd.Timestamp:
    time = pd.Timestamp(text)
    if time is pd.NaT:
        raise ValueError(f"{text!r} is no time")
    time = time.tz_localize("UTC") if time.tzinfo is None else time.tz_convert("UTC")
    return time.as_unit("ns")  # a year that a column of times cannot hold is a ValueError here, not later
