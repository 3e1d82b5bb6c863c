"""Endpoints of the local SageMaker: their life, their answers, their captured data, and how they fail."""

import base64
import io
import json
import re
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import boto3
import numpy as np
import psutil
import pytest
import urllib3
from botocore.exceptions import ClientError
from PIL import Image
from sagemaker_jobs import (
    BUCKET,
    create_config,
    create_model,
    png,
    training_request,
    until,
    upload_channels,
    wait_for_endpoint,
    wait_for_training,
)

from local_aws.image_classification.features import SHIPPED
from local_aws.image_classification.server_key import KEY_HEADER, KEY_VARIABLE


@pytest.fixture(scope="module")
def model(local):
    """The name of a model that was trained for this module."""
    channels = upload_channels("test-hosting")
    boto3.client("sagemaker").create_training_job(**training_request("hosting-job", channels))
    job = wait_for_training("hosting-job")
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    create_model("hosting-model", job["ModelArtifacts"]["S3ModelArtifacts"])
    return "hosting-model"


@pytest.fixture(scope="module")
def endpoint(model):
    """The name of an endpoint in service, with everything captured."""
    create_config("captured", model, capture_to=f"s3://{BUCKET}/captures")
    boto3.client("sagemaker").create_endpoint(EndpointName="captured", EndpointConfigName="captured")
    wait_for_endpoint("captured")
    return "captured"


def invoke(name: str, body: bytes, content_type: str = "image/png", **options) -> dict:
    return boto3.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=name, Body=body, ContentType=content_type, **options
    )


def captured(name: str, prefix: str = "captures") -> list[dict]:
    s3 = boto3.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/{name}/")
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    bodies = [s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode() for key in keys]
    return [json.loads(line) for body in bodies for line in body.splitlines()]


def model_servers(local) -> list[psutil.Process]:
    server = psutil.Process(local._process.pid)
    return [child for child in server.children() if "serve" in child.cmdline()]


def test_a_model_server_answers_to_its_endpoint_only(local, endpoint):
    process = next(iter(model_servers(local)))
    port = next(each.laddr.port for each in process.net_connections() if each.status == psutil.CONN_LISTEN)
    for headers in ({}, {KEY_HEADER: "another"}, {KEY_HEADER: "\u00e9"}):
        for method, path in (("GET", "/ping"), ("POST", "/invocations")):
            answer = urllib3.request(method, f"http://127.0.0.1:{port}{path}", body=png(0, 1), headers=headers)
            assert answer.status == 403
    headers = {KEY_HEADER: process.environ()[KEY_VARIABLE]}
    assert urllib3.request("GET", f"http://127.0.0.1:{port}/ping", headers=headers).status == 200
    assert headers[KEY_HEADER] not in " ".join(process.cmdline())


def test_an_endpoint_tells_the_classes_apart(endpoint):
    for label in (0, 1):
        answer = invoke(endpoint, png(label, seed=5000 + label))
        probabilities = json.loads(answer["Body"].read())
        assert answer["ContentType"] == "application/json"
        assert answer["InvokedProductionVariant"] == "AllTraffic"
        assert len(probabilities) == 2
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert probabilities[label] > 0.5


def test_json_lines_are_given_to_who_accepts_them(endpoint):
    answer = invoke(endpoint, png(0, seed=6000), Accept="application/jsonlines")
    assert set(json.loads(answer["Body"].read())) == {"prediction"}


def test_each_call_is_captured_once_as_it_was_sent_and_answered(endpoint):
    image = png(1, seed=7000)
    answer = json.loads(invoke(endpoint, image, InferenceId="call-7000")["Body"].read())

    def of_this_call():
        return [r for r in captured(endpoint) if r["eventMetadata"].get("inferenceId") == "call-7000"]

    [record] = until(of_this_call, 10)
    given, got = record["captureData"]["endpointInput"], record["captureData"]["endpointOutput"]
    assert base64.b64decode(given["data"]) == image
    assert (given["observedContentType"], given["encoding"], given["mode"]) == ("image/png", "BASE64", "INPUT")
    assert json.loads(got["data"]) == answer
    assert (got["observedContentType"], got["encoding"], got["mode"]) == ("application/json", "JSON", "OUTPUT")
    assert record["eventVersion"] == "0"


def test_no_captured_record_is_lost_under_32_clients(endpoint):
    before = len(captured(endpoint))
    images = [png(number % 2, seed=number) for number in range(320)]
    client = boto3.client("sagemaker-runtime")

    def call(image):
        return client.invoke_endpoint(EndpointName=endpoint, Body=image, ContentType="image/png")["Body"].read()

    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(call, images))
    assert len(answers) == 320
    until(lambda: len(captured(endpoint)) == before + 320, 15)


def picture(size: tuple[int, int], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (picture((32, 32), "PNG"), "image/png"),
        (picture((32, 32), "JPEG"), "image/jpeg"),
        (picture((32, 32), "JPEG"), "application/x-image"),
        (picture((500, 90), "PNG"), "application/x-image"),
        (picture((7, 11), "JPEG"), "image/jpeg"),
    ],
)
def test_png_and_jpeg_images_of_any_size_are_answered_under_each_content_type(endpoint, body, content_type):
    assert sum(json.loads(invoke(endpoint, body, content_type)["Body"].read())) == pytest.approx(1, abs=1e-5)


def test_a_large_image_gets_the_answer_of_the_same_image_in_the_model_s_size(endpoint):
    small = png(1, seed=8000)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(small)).resize((96, 64), Image.Resampling.NEAREST).save(buffer, "PNG")
    answers = [json.loads(invoke(endpoint, body)["Body"].read()) for body in (small, buffer.getvalue())]
    assert answers[0] == pytest.approx(answers[1], abs=0.1)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"not an image at all", "image/png"),
        (b"a,b,c", "text/csv"),
        (png(0, 1), "application/octet-stream"),
        (b"", "image/png"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (picture((32, 32), "GIF"), "image/png"),
    ],
)
def test_what_is_no_image_is_a_ModelError_of_status_415_and_not_captured(endpoint, body, content_type):
    failure = model_error(endpoint, body, content_type, InferenceId="no-image")
    assert failure["OriginalStatusCode"] == 415
    assert failure["OriginalMessage"] in failure["Error"]["Message"]
    assert f"/aws/sagemaker/Endpoints/{endpoint}:log-stream:AllTraffic/" in failure["LogStreamArn"]
    assert any("status 415" in message for message in log_of(endpoint))
    invoke(endpoint, png(0, 1), InferenceId=f"after {content_type} {len(body)}")
    identifiers = until(lambda: captured_up_to(endpoint, f"after {content_type} {len(body)}"), 10)
    assert "no-image" not in identifiers


def test_an_answer_of_another_kind_than_JSON_is_a_ModelError(endpoint):
    failure = model_error(endpoint, png(0, 1), "image/png", Accept="text/csv")
    assert failure["OriginalStatusCode"] == 406
    assert "application/jsonlines" in failure["OriginalMessage"]


def model_error(name: str, body: bytes, content_type: str = "image/png", **options) -> dict:
    """The response of a call that ends in a ModelError."""
    with pytest.raises(ClientError) as failure:
        invoke(name, body, content_type, **options)
    assert failure.value.response["Error"]["Code"] == "ModelError"
    return failure.value.response


def captured_up_to(name: str, last: str) -> list[str]:
    """The inference ids captured so far once the last one is among them, else nothing."""
    identifiers = [record["eventMetadata"].get("inferenceId", "") for record in captured(name)]
    return identifiers if last in identifiers else []


def log_of(name: str) -> list[str]:
    logs = boto3.client("logs")
    group = f"/aws/sagemaker/Endpoints/{name}"
    streams = [stream["logStreamName"] for stream in logs.describe_log_streams(logGroupName=group)["logStreams"]]
    pages = [logs.get_log_events(logGroupName=group, logStreamName=stream)["events"] for stream in streams]
    return [event["message"] for events in pages for event in events]


def test_an_unknown_endpoint_is_a_ValidationError(local):
    with pytest.raises(ClientError) as failure:
        invoke("no-such-endpoint", png(0, 1))
    assert failure.value.response["Error"]["Code"] == "ValidationError"
    assert "no-such-endpoint" in failure.value.response["Error"]["Message"]


def test_a_variant_that_there_is_not_is_a_ValidationError(endpoint):
    with pytest.raises(ClientError, match="Variant Other of endpoint") as failure:
        invoke(endpoint, png(0, 1), TargetVariant="Other")
    assert failure.value.response["Error"]["Code"] == "ValidationError"


def test_when_the_model_server_dies_the_call_in_flight_fails_and_the_next_one_is_answered(local, model):
    client = boto3.client("sagemaker")
    create_config("killed", model)
    before = model_servers(local)
    client.create_endpoint(EndpointName="killed", EndpointConfigName="killed")
    wait_for_endpoint("killed")
    [victim] = [process for process in model_servers(local) if process not in before]
    invoke("killed", png(0, 1))
    victim.suspend()
    with ThreadPoolExecutor(1) as caller:
        in_flight = caller.submit(model_error, "killed", png(0, 1))
        assert wait([in_flight], timeout=2).not_done  # by now it has reached the model server, which stands still
        victim.kill()
        assert in_flight.result(30)["OriginalStatusCode"] == 503
    assert json.loads(invoke("killed", png(0, 1))["Body"].read())
    assert any("starting it again" in message for message in log_of("killed"))
    client.delete_endpoint(EndpointName="killed")


def test_an_update_never_fails_a_call_and_changes_the_config(local, model, endpoint):
    client = boto3.client("sagemaker")
    create_config("uncaptured", model)
    client.create_endpoint(EndpointName="updated", EndpointConfigName="uncaptured")
    wait_for_endpoint("updated")
    create_config("updated-config", model, capture_to=f"s3://{BUCKET}/captures")
    failures, stop = [], threading.Event()

    def keep_calling():
        while not stop.is_set():
            try:
                invoke("updated", png(0, 1))
            except ClientError as error:
                failures.append(error)

    caller = threading.Thread(target=keep_calling, daemon=True)
    caller.start()
    client.update_endpoint(EndpointName="updated", EndpointConfigName="updated-config")
    assert client.describe_endpoint(EndpointName="updated")["EndpointStatus"] == "Updating"
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        client.update_endpoint(EndpointName="updated", EndpointConfigName="uncaptured")
    description = wait_for_endpoint("updated")
    stop.set()
    caller.join()
    assert failures == []
    assert description["EndpointConfigName"] == "updated-config"
    assert description["DataCaptureConfig"]["CaptureStatus"] == "Started"
    client.delete_endpoint(EndpointName="updated")


def test_an_update_to_a_broken_model_leaves_the_old_one_in_service_with_the_reason(model):
    client = boto3.client("sagemaker")
    create_config("kept", model)
    client.create_endpoint(EndpointName="kept", EndpointConfigName="kept")
    wait_for_endpoint("kept")
    create_model("nowhere", f"s3://{BUCKET}/nowhere/model.tar.gz")
    create_config("to-nowhere", "nowhere")
    client.update_endpoint(EndpointName="kept", EndpointConfigName="to-nowhere")
    description = wait_for_endpoint("kept")
    assert f"s3://{BUCKET}/nowhere/model.tar.gz" in description["FailureReason"]
    assert description["EndpointConfigName"] == "kept"
    assert invoke("kept", png(0, 1))["Body"].read()
    client.delete_endpoint(EndpointName="kept")


def test_an_endpoint_that_is_unknown_or_has_failed_is_not_updated(local):
    client = boto3.client("sagemaker")
    with pytest.raises(ClientError, match="Could not find endpoint"):
        client.update_endpoint(EndpointName="no-such-endpoint", EndpointConfigName="x")
    failure_reason("not-updated", b"this is no archive")
    with pytest.raises(ClientError, match="it has failed, delete it"):
        client.update_endpoint(EndpointName="not-updated", EndpointConfigName="not-updated")


def test_an_endpoint_deleted_while_it_is_creating_leaves_no_process(local, model):
    client = boto3.client("sagemaker")
    create_config("too-early", model)
    before = model_servers(local)
    client.create_endpoint(EndpointName="too-early", EndpointConfigName="too-early")
    [started] = until(lambda: [process for process in model_servers(local) if process not in before])
    client.delete_endpoint(EndpointName="too-early")
    until(lambda: not started.is_running())


def test_deleting_an_endpoint_ends_its_process_and_writes_what_was_captured(local, model):
    client = boto3.client("sagemaker")
    create_config("deleted", model, capture_to=f"s3://{BUCKET}/captures")
    before = {process.pid for process in model_servers(local)}
    client.create_endpoint(EndpointName="deleted", EndpointConfigName="deleted")
    wait_for_endpoint("deleted")
    [started] = {process.pid for process in model_servers(local)} - before
    invoke("deleted", png(0, 1))
    client.delete_endpoint(EndpointName="deleted")
    assert not psutil.pid_exists(started)
    assert len(captured("deleted")) == 1
    with pytest.raises(ClientError):
        invoke("deleted", png(0, 1))


def failure_reason(name: str, artifact: bytes | None) -> str:
    """Why an endpoint on such an artifact fails."""
    if artifact is not None:
        boto3.client("s3").put_object(Bucket=BUCKET, Key=f"broken/{name}/model.tar.gz", Body=artifact)
    create_model(name, f"s3://{BUCKET}/broken/{name}/model.tar.gz")
    create_config(name, name)
    boto3.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=name)
    return wait_for_endpoint(name, "Failed")["FailureReason"]


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_a_missing_artifact_fails_the_endpoint_with_its_location(local):
    assert f"s3://{BUCKET}/broken/missing/model.tar.gz" in failure_reason("missing", None)


def test_an_artifact_that_is_no_archive_fails_the_endpoint(local):
    assert "not a readable" in failure_reason("garbage", b"this is no archive")


def test_an_artifact_that_leads_outside_of_its_folder_fails_the_endpoint(local):
    hostile = archive((tarfile.TarInfo("../../escaped.txt"), b"out"))
    assert "../../escaped.txt" in failure_reason("hostile", hostile)


def test_an_artifact_with_a_link_fails_the_endpoint(local):
    link = tarfile.TarInfo("model.onnx")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    assert "model.onnx" in failure_reason("linked", archive((link, b"")))


def test_an_artifact_without_a_model_fails_the_endpoint_s_health_check(local):
    assert "ping health check" in failure_reason("empty", archive((tarfile.TarInfo("readme.txt"), b"no model")))


def test_an_artifact_with_a_pickle_fails_the_endpoint_unread_and_its_log_says_why(local):
    arrays = io.BytesIO()
    np.savez(arrays, mean=np.array([{"a pickled": "object"}], dtype=object))
    network = (tarfile.TarInfo("backbone.onnx"), SHIPPED.read_bytes())
    pickled = archive(network, (tarfile.TarInfo("classifier.npz"), arrays.getvalue()))
    assert "ping health check" in failure_reason("pickled", pickled)
    assert any("allow_pickle=False" in message for message in log_of("pickled"))


def test_an_endpoint_of_the_same_name_is_refused(endpoint):
    with pytest.raises(ClientError, match="already existing"):
        boto3.client("sagemaker").create_endpoint(EndpointName=endpoint, EndpointConfigName="captured")


def test_an_endpoint_of_an_unknown_config_is_refused(local):
    with pytest.raises(ClientError, match="no-such-config"):
        boto3.client("sagemaker").create_endpoint(EndpointName="x", EndpointConfigName="no-such-config")


def test_an_endpoint_that_is_still_creating_answers_no_call(model):
    create_config("creating", model)
    client = boto3.client("sagemaker")
    client.create_endpoint(EndpointName="creating", EndpointConfigName="creating")
    status = client.describe_endpoint(EndpointName="creating")["EndpointStatus"]
    with pytest.raises(ClientError) as failure:
        invoke("creating", png(0, 1))
    assert status == "Creating"
    assert failure.value.response["Error"]["Code"] == "ValidationError"
    wait_for_endpoint("creating")
    assert invoke("creating", png(0, 1))["Body"].read()
    client.delete_endpoint(EndpointName="creating")


def test_a_body_of_over_25_MB_is_refused_with_its_size(endpoint):
    too_much = b"\x89PNG\r\n\x1a\n" + bytes(25 * 1024**2)
    with pytest.raises(ClientError, match=str(len(too_much))):
        invoke(endpoint, too_much)


def test_several_endpoints_answer_side_by_side_and_capture_apart(model, endpoint):
    client = boto3.client("sagemaker")
    create_config("second", model, capture_to=f"s3://{BUCKET}/captures")
    client.create_endpoint(EndpointName="second", EndpointConfigName="second")
    wait_for_endpoint("second")
    for name in (endpoint, "second"):
        invoke(name, png(0, 1), InferenceId=f"side-by-side-{name}")
    for name in (endpoint, "second"):
        identifiers = until(lambda name=name: side_by_side(name), 10)
        assert identifiers == [f"side-by-side-{name}"]
    client.delete_endpoint(EndpointName="second")


def side_by_side(name: str) -> list[str]:
    identifiers = [record["eventMetadata"].get("inferenceId", "") for record in captured(name)]
    return [identifier for identifier in identifiers if identifier.startswith("side-by-side")]


def test_each_invocation_is_in_the_endpoint_s_log_with_its_size_status_and_latency(endpoint):
    image = png(0, seed=9000, size=48)
    invoke(endpoint, image)
    [line] = [message for message in log_of(endpoint) if f"invocation image/png {len(image)} bytes in" in message]
    assert "status 200" in line
    assert re.search(r"ModelLatency \d+ us", line)
