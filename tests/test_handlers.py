"""The three handlers, each loaded from its file as the Lambda console has it, against moto."""

import base64
import importlib.util
import io
import json
import math
import sys
import uuid

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber
from conftest import ROOT
from moto import mock_aws

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
JPEG = b"\xff\xd8\xff\xe0" + bytes(100)
PATHS = {
    name: ROOT / "lambda_functions" / name / "lambda_function.py"
    for name in ("serialize", "inference", "pass_threshold")
}


def load(name: str):
    """The handler's module, imported anew as a cold start does."""
    spec = importlib.util.spec_from_file_location(f"{name}_{uuid.uuid4().hex}", PATHS[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PATHS)
def test_a_handler_imports_the_standard_library_and_boto3_alone(name):
    imported = {
        line.split()[1].split(".")[0]
        for line in PATHS[name].read_text().splitlines()
        if line.startswith(("import", "from"))
    }
    assert imported <= {"boto3", "botocore"} | sys.stdlib_module_names


@pytest.fixture
def serialize(monkeypatch):
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="images")
        for key, body in {"a.png": PNG, "b.jpg": JPEG, "text.png": b"no image", "empty.png": b""}.items():
            s3.put_object(Bucket="images", Key=key, Body=body)
        s3.put_object(Bucket="images", Key="large.png", Body=PNG + bytes(200_000))
        s3.put_object(Bucket="images", Key="almost.png", Body=PNG + bytes(196_450))
        yield load("serialize")


def image_event(key="a.png", bucket="images") -> dict:
    return {"image_data": "", "s3_bucket": bucket, "s3_key": key, "inferences": []}


@pytest.mark.parametrize(("key", "content"), [("a.png", PNG), ("b.jpg", JPEG)])
def test_serialize_answers_with_the_image_as_base64(serialize, key, content):
    result = serialize.lambda_handler(image_event(key), None)
    assert result["statusCode"] == 200
    assert base64.b64decode(result["body"].pop("image_data")) == content
    assert result["body"] == {"s3_bucket": "images", "s3_key": key, "inferences": []}


def test_serialize_takes_its_event_under_body_as_object_or_as_text(serialize):
    plain = serialize.lambda_handler(image_event(), None)
    assert serialize.lambda_handler({"body": image_event()}, None) == plain
    assert serialize.lambda_handler({"statusCode": 200, "body": json.dumps(image_event())}, None) == plain


def error_name(call, *arguments) -> str:
    with pytest.raises(Exception) as failure:
        call(*arguments)
    return type(failure.value).__name__


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (image_event("missing.png"), "ImageNotFound"),
        (image_event(bucket="no-such-bucket"), "ImageNotFound"),
        (image_event(bucket="not a bucket's name"), "ImageNotFound"),
        (image_event("\udc80"), "ImageNotFound"),
        (image_event("text.png"), "NotAnImage"),
        (image_event("empty.png"), "NotAnImage"),
        (image_event("large.png"), "ImageTooLarge"),
        (image_event("almost.png"), "ImageTooLarge"),
        ({}, "InvalidEvent"),
        ({"s3_bucket": "images"}, "InvalidEvent"),
        ({"s3_bucket": "images", "s3_key": 7}, "InvalidEvent"),
        ({"s3_bucket": "", "s3_key": "a.png"}, "InvalidEvent"),
        ({"body": "no json"}, "InvalidEvent"),
        ({"body": "[" * 100_000}, "InvalidEvent"),
        ({"body": None}, "InvalidEvent"),
        ([], "InvalidEvent"),
        ("text", "InvalidEvent"),
        (None, "InvalidEvent"),
        (7, "InvalidEvent"),
    ],
)
def test_serialize_ends_in_the_error_that_says_what_is_wrong(serialize, event, name):
    assert error_name(serialize.lambda_handler, event, None) == name


def test_serialize_names_a_fault_of_s3_StorageUnavailable(serialize):
    with Stubber(serialize.s3) as stub:
        stub.add_client_error("get_object", "SlowDown", http_status_code=503)
        assert error_name(serialize.lambda_handler, image_event(), None) == "StorageUnavailable"
        torn = StreamingBody(io.BytesIO(PNG[:50]), len(PNG))
        stub.add_response("get_object", {"Body": torn, "ContentLength": len(PNG)})
        assert error_name(serialize.lambda_handler, image_event(), None) == "StorageUnavailable"


@pytest.fixture
def inference(monkeypatch):
    """The handler with its client stubbed: answer(...) and fail(...) say what the endpoint does next."""
    monkeypatch.setenv("ENDPOINT_NAME", "an-endpoint")
    module = load("inference")
    with Stubber(module.runtime) as stub:
        module.stub = stub
        yield module


def answer(inference, body: bytes, content_type: str, image: bytes) -> None:
    expected = {"EndpointName": "an-endpoint", "ContentType": content_type, "Body": image}
    inference.stub.add_response("invoke_endpoint", {"Body": StreamingBody(io.BytesIO(body), len(body))}, expected)


@pytest.mark.parametrize(("image", "content_type"), [(PNG, "image/png"), (JPEG, "image/jpeg")])
def test_inference_fills_in_the_probabilities(inference, image, content_type):
    answer(inference, b"[0.75, 0.25]", content_type, image)
    event = {**image_event(), "image_data": base64.b64encode(image).decode()}
    result = inference.lambda_handler({"statusCode": 200, "body": event}, None)
    assert result == {"statusCode": 200, "body": {**event, "inferences": [0.75, 0.25]}}


@pytest.mark.parametrize(
    "code", ["ValidationError", "ServiceUnavailable", "ThrottlingException", "ModelNotReadyException"]
)
def test_inference_names_a_fault_that_passes_EndpointUnavailable(inference, code):
    inference.stub.add_client_error("invoke_endpoint", code)
    event = {"image_data": base64.b64encode(PNG).decode()}
    assert error_name(inference.lambda_handler, event, None) == "EndpointUnavailable"


@pytest.mark.parametrize(("status", "name"), [(400, "NotAnImage"), (415, "NotAnImage"), (500, "EndpointUnavailable")])
def test_inference_tells_the_model_s_refusal_from_its_failure(inference, status, name):
    inference.stub.add_client_error("invoke_endpoint", "ModelError", modeled_fields={"OriginalStatusCode": status})
    assert error_name(inference.lambda_handler, {"image_data": base64.b64encode(PNG).decode()}, None) == name


@pytest.mark.parametrize("data", ["", "no base64!", "AAA", 7, None, ["AAAA"], "é"])
def test_inference_refuses_what_is_no_base64(inference, data):
    assert error_name(inference.lambda_handler, {"image_data": data}, None) == "InvalidEvent"


@pytest.mark.parametrize("event", [{}, [], None, 7, "text", {"body": "{"}, {"body": []}])
def test_inference_refuses_what_is_no_event(inference, event):
    assert error_name(inference.lambda_handler, event, None) == "InvalidEvent"


@pytest.mark.parametrize("inferences", [[0.9, 0.1], [0.05, 0.95], [1, 0], "[0.93, 0.07]"])
def test_pass_threshold_lets_a_sure_image_pass(inferences):
    result = load("pass_threshold").lambda_handler({"inferences": inferences, "s3_key": "a.png"}, None)
    expected = json.loads(inferences) if isinstance(inferences, str) else inferences
    assert result == {"statusCode": 200, "body": {"inferences": expected, "s3_key": "a.png"}}


def test_pass_threshold_stops_an_unsure_image_with_the_numbers():
    module = load("pass_threshold")
    with pytest.raises(module.ThresholdNotMet, match=r"^THRESHOLD_CONFIDENCE_NOT_MET.*0\.89.*0\.9.*0\.11"):
        module.lambda_handler({"inferences": [0.89, 0.11]}, None)


def test_the_threshold_is_taken_from_the_environment(monkeypatch):
    monkeypatch.setenv("THRESHOLD", "0.5")
    assert load("pass_threshold").lambda_handler({"inferences": [0.51, 0.49]}, None)["statusCode"] == 200


@pytest.mark.parametrize("threshold", ["1.5", "nan", "much"])
def test_a_threshold_that_is_no_probability_ends_the_cold_start(monkeypatch, threshold):
    monkeypatch.setenv("THRESHOLD", threshold)
    with pytest.raises(ValueError):
        load("pass_threshold")


@pytest.mark.parametrize(
    "inferences",
    [
        [],
        [True, False],
        [math.nan, 0.1],
        [1.2, -0.2],
        ["0.9"],
        [None],
        None,
        0.95,
        {},
        "",
        "[",
        "[true]",
        "[NaN]",
        [10**400],
    ],
)
def test_pass_threshold_refuses_what_are_no_probabilities(inferences):
    assert error_name(load("pass_threshold").lambda_handler, {"inferences": inferences}, None) == "InvalidEvent"


@pytest.mark.parametrize("event", [{}, [], None, 7, "text", {"body": "{"}, {"body": []}])
def test_pass_threshold_refuses_what_is_no_event(event):
    assert error_name(load("pass_threshold").lambda_handler, event, None) == "InvalidEvent"


@pytest.mark.parametrize("name", PATHS)
def test_nothing_is_written_to_the_log(name, serialize, capsys):
    serialize.lambda_handler(image_event(), None)
    assert capsys.readouterr() == ("", "")
    assert "print(" not in PATHS[name].read_text()
