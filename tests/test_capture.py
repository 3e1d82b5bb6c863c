"""Data capture by its rules: sampling, modes, content types, files of several records, and faults of S3."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import pytest
from sagemaker_jobs import until

from local_aws import capture
from local_aws.capture import Capture

CONFIG = {
    "EnableCapture": True,
    "InitialSamplingPercentage": 100,
    "DestinationS3Uri": "s3://bucket/some/prefix",
    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"], "CsvContentTypes": ["text/csv"]},
}


class Bucket:
    """Stands for S3: keeps what is put, and fails as often as it is told to."""

    def __init__(self, failures: int = 0):
        self.failures = failures
        self.gate = threading.Event()
        self.gate.set()
        self.objects: dict[str, bytes] = {}

    def put_object(self, Bucket, Key, Body):
        self.gate.wait(10)
        if self.failures:
            self.failures -= 1
            raise OSError("S3 answers 500")
        self.objects[Key] = Body

    def records(self) -> list[dict]:
        return [json.loads(line) for body in self.objects.values() for line in body.splitlines()]


def record(capturing: Capture, inference_id: str | None = None, answer_type: str = "application/json") -> None:
    capturing.record(b"\x89PNG", "image/png", b"[0.9, 0.1]", answer_type, inference_id)


def capture_calls(
    calls: int, bucket: Bucket, answer_type="application/json", inference_id=None, **changes
) -> list[dict]:
    capturing = Capture(bucket, {**CONFIG, **changes}, "endpoint", "AllTraffic")
    for _ in range(calls):
        record(capturing, inference_id, answer_type)
    capturing.close()
    return bucket.records()


def test_close_writes_every_record_that_was_made_in_few_files():
    bucket = Bucket()
    assert len(capture_calls(250, bucket)) == 250
    assert len(bucket.objects) == 3


def test_a_file_s_key_tells_endpoint_variant_and_hour():
    bucket = Bucket()
    capture_calls(1, bucket)
    [key] = bucket.objects
    assert re.fullmatch(
        r"some/prefix/endpoint/AllTraffic/\d{4}/\d\d/\d\d/\d\d/\d\d-\d\d-\d{3}-[0-9a-f-]{36}\.jsonl", key
    )


@pytest.mark.parametrize(
    ("answer_type", "encoding", "data"),
    [
        ("application/json", "JSON", "[0.9, 0.1]"),
        ("application/json; charset=utf-8", "JSON", "[0.9, 0.1]"),
        ("text/csv", "CSV", "[0.9, 0.1]"),
        ("application/jsonlines", "BASE64", "WzAuOSwgMC4xXQ=="),
    ],
)
def test_the_content_type_decides_the_encoding(answer_type, encoding, data):
    [found] = capture_calls(1, Bucket(), answer_type)
    output = found["captureData"]["endpointOutput"]
    assert (output["encoding"], output["data"], output["observedContentType"]) == (encoding, data, answer_type)


def test_without_named_content_types_everything_is_base64():
    [found] = capture_calls(1, Bucket(), CaptureContentTypeHeader=None)
    assert found["captureData"]["endpointOutput"]["encoding"] == "BASE64"


@pytest.mark.parametrize(
    ("modes", "sides"),
    [
        (["Input"], {"endpointInput"}),
        (["Output"], {"endpointOutput"}),
        (["InputAndOutput"], {"endpointInput", "endpointOutput"}),
    ],
)
def test_only_the_sides_asked_for_are_captured(modes, sides):
    [found] = capture_calls(1, Bucket(), CaptureOptions=[{"CaptureMode": mode} for mode in modes])
    assert set(found["captureData"]) == sides


def test_the_sampling_percentage_decides_how_many_are_captured(monkeypatch):
    draws = iter([number / 100 for number in range(100)])
    monkeypatch.setattr(capture.random, "random", lambda: next(draws))
    assert len(capture_calls(100, Bucket(), InitialSamplingPercentage=30)) == 30


def test_an_inference_id_is_kept():
    [found] = capture_calls(1, Bucket(), inference_id="order-7")
    assert found["eventMetadata"]["inferenceId"] == "order-7"


def test_a_passing_fault_of_s3_loses_no_record():
    assert len(capture_calls(120, Bucket(failures=3))) == 120


def test_the_record_tells_when_the_call_was_made_and_has_an_id_of_its_own():
    started = datetime.now(timezone.utc).replace(microsecond=0)
    first, second = capture_calls(2, Bucket())
    moment = datetime.strptime(first["eventMetadata"]["inferenceTime"], "%Y-%m-%dT%H:%M:%S%z")
    assert started <= moment <= datetime.now(timezone.utc)
    assert first["eventMetadata"]["eventId"] != second["eventMetadata"]["eventId"]
    assert first["eventVersion"] == "0"


def test_what_was_recorded_is_written_after_a_short_time_without_another_call():
    bucket = Bucket()
    capturing = Capture(bucket, CONFIG, "endpoint", "AllTraffic")
    for _ in range(3):
        record(capturing)
    until(lambda: len(bucket.records()) == 3, 5)
    assert len(bucket.objects) == 1
    capturing.close()


def test_a_slow_bucket_delays_no_call():
    bucket = Bucket()
    bucket.gate.clear()
    capturing = Capture(bucket, CONFIG, "endpoint", "AllTraffic")
    started = time.perf_counter()
    for _ in range(500):
        record(capturing)
    assert time.perf_counter() - started < 0.5
    assert bucket.objects == {}
    bucket.gate.set()
    capturing.close()
    assert len(bucket.records()) == 500


def test_a_bucket_that_is_gone_fails_no_call_and_is_said_to_have_lost_records(monkeypatch, capsys):
    monkeypatch.setattr(capture, "ATTEMPTS", 2)
    assert capture_calls(3, Bucket(failures=1000)) == []
    assert "3 captured records could not be written to s3://bucket/some/prefix" in capsys.readouterr().err


def test_none_is_lost_when_32_threads_record_at_once():
    bucket = Bucket()
    capturing = Capture(bucket, CONFIG, "endpoint", "AllTraffic")
    with ThreadPoolExecutor(32) as callers:
        list(callers.map(lambda number: record(capturing, f"call-{number}"), range(3200)))
    capturing.close()
    identifiers = {found["eventMetadata"]["inferenceId"] for found in bucket.records()}
    assert identifiers == {f"call-{number}" for number in range(3200)}
    assert len(bucket.records()) == 3200
