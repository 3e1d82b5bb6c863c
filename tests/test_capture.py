"""Data capture by its rules: sampling, modes, content types, files of several records, and faults of S3."""

import json
import re

import pytest

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
        self.objects: dict[str, bytes] = {}

    def put_object(self, Bucket, Key, Body):
        if self.failures:
            self.failures -= 1
            raise OSError("S3 answers 500")
        self.objects[Key] = Body

    def records(self) -> list[dict]:
        return [json.loads(line) for body in self.objects.values() for line in body.splitlines()]


def capture_calls(
    calls: int, bucket: Bucket, answer_type="application/json", inference_id=None, **changes
) -> list[dict]:
    capturing = Capture(bucket, {**CONFIG, **changes}, "endpoint", "AllTraffic")
    for _ in range(calls):
        capturing.record(b"\x89PNG", "image/png", b"[0.9, 0.1]", answer_type, inference_id)
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
    [record] = capture_calls(1, Bucket(), answer_type)
    output = record["captureData"]["endpointOutput"]
    assert (output["encoding"], output["data"], output["observedContentType"]) == (encoding, data, answer_type)


def test_without_named_content_types_everything_is_base64():
    [record] = capture_calls(1, Bucket(), CaptureContentTypeHeader=None)
    assert record["captureData"]["endpointOutput"]["encoding"] == "BASE64"


@pytest.mark.parametrize(
    ("modes", "sides"),
    [
        (["Input"], {"endpointInput"}),
        (["Output"], {"endpointOutput"}),
        (["InputAndOutput"], {"endpointInput", "endpointOutput"}),
    ],
)
def test_only_the_sides_asked_for_are_captured(modes, sides):
    [record] = capture_calls(1, Bucket(), CaptureOptions=[{"CaptureMode": mode} for mode in modes])
    assert set(record["captureData"]) == sides


def test_the_sampling_percentage_decides_how_many_are_captured(monkeypatch):
    draws = iter([number / 100 for number in range(100)])
    monkeypatch.setattr(capture.random, "random", lambda: next(draws))
    assert len(capture_calls(100, Bucket(), InitialSamplingPercentage=30)) == 30


def test_an_inference_id_is_kept():
    [record] = capture_calls(1, Bucket(), inference_id="order-7")
    assert record["eventMetadata"]["inferenceId"] == "order-7"


def test_a_passing_fault_of_s3_loses_no_record():
    assert len(capture_calls(120, Bucket(failures=3))) == 120
