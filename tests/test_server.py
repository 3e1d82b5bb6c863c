"""The door of the local AWS, its life, and that nothing outlives it."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import boto3
import pytest
from botocore.exceptions import ClientError
from conftest import ROOT, children_of, is_alive

import local_aws
from local_aws.run_folder import RunFolder


def status_of(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def bucket_names() -> list[str]:
    return [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]]


def test_the_server_starts_with_the_sdk_s_default_bucket_and_a_role(local):
    assert bucket_names()[0] == "sagemaker-us-east-1-123456789012"
    role = boto3.client("iam").get_role(RoleName="LocalRole")["Role"]["Arn"]
    assert role == local.environment["SAGEMAKER_ROLE"]


def test_an_unsigned_request_is_refused_and_does_nothing(local):
    before = bucket_names()
    request = urllib.request.Request(f"{local.url}/an-unsigned-bucket", method="PUT")
    assert status_of(request) == 403
    assert bucket_names() == before


def test_a_request_with_another_key_is_refused_and_does_nothing(local):
    stranger = boto3.client("s3", aws_access_key_id="AKIAANOTHERKEY", aws_secret_access_key="secret")
    with pytest.raises(ClientError) as refusal:
        stranger.create_bucket(Bucket="a-strangers-bucket")
    assert refusal.value.response["Error"]["Code"] == "UnrecognizedClientException"
    assert "a-strangers-bucket" not in bucket_names()


@pytest.mark.parametrize(
    "header", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Host": "evil.example:80"}]
)
def test_a_web_page_or_a_rebound_name_is_refused_even_with_the_key(local, header):
    key = local.environment["AWS_ACCESS_KEY_ID"]
    signature = f"AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1/s3/aws4_request, Signature=0"
    request = urllib.request.Request(
        f"{local.url}/a-rebound-bucket", method="PUT", headers={"Authorization": signature, **header}
    )
    assert status_of(request) == 403
    assert "a-rebound-bucket" not in bucket_names()


def test_moto_s_control_api_is_behind_the_same_door(local):
    assert status_of(urllib.request.Request(f"{local.url}/moto-api/reset", method="POST")) == 403
    assert bucket_names()


def test_no_answer_invites_other_origins(local):
    answer = boto3.client("s3").list_buckets()
    assert not [name for name in answer["ResponseMetadata"]["HTTPHeaders"] if name.startswith("access-control")]


def test_a_key_that_the_local_sts_issued_may_come_in(local):
    session = boto3.client("sts").assume_role(RoleArn=local.environment["SAGEMAKER_ROLE"], RoleSessionName="somebody")
    keys = session["Credentials"]
    client = boto3.client(
        "sts",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    assert client.get_caller_identity()["Arn"].endswith(":assumed-role/LocalRole/somebody")


@pytest.fixture
def own_server(monkeypatch):
    """A server process of the test's own, started as python -m local_aws, with the lines that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "local_aws"], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("#"):
            break
    yield process, "".join(lines)
    process.kill()
    process.wait()
    process.stdout.close()


def exports(printed: str) -> dict[str, str]:
    return dict(re.findall(r"^export (\w+)=(.*)$", printed, re.MULTILINE))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_what_to_export_and_ends_on_ctrl_c_and_on_sigterm(own_server, number):
    process, printed = own_server
    environment = exports(printed)
    folder = os.path.dirname(environment["SAGEMAKER_USER_CONFIG_OVERRIDE"])
    assert os.stat(folder).st_mode & 0o777 == 0o700
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    assert len(client.list_buckets()["Buckets"]) == 1
    process.send_signal(number)
    assert process.wait(timeout=20) == 0
    assert not os.path.exists(folder)


def test_two_servers_run_side_by_side_and_share_nothing(local, own_server):
    _, printed = own_server
    environment = exports(printed)
    assert environment["AWS_ENDPOINT_URL"] != local.url
    with pytest.raises(ClientError, match="UnrecognizedClientException"):
        boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"]).list_buckets()


def test_the_server_ends_with_the_program_that_started_it_even_when_that_is_killed():
    program = "import local_aws, time; aws = local_aws.start(); print(aws._process.pid, flush=True); time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    server = int(parent.stdout.readline())
    assert is_alive(server)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while is_alive(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(server)
    assert children_of(server) == []


def test_the_folder_of_a_killed_server_is_swept_up_by_the_next_one(own_server):
    process, printed = own_server
    folder = os.path.dirname(exports(printed)["SAGEMAKER_USER_CONFIG_OVERRIDE"])
    process.kill()
    process.wait()
    assert os.path.exists(folder)
    other = RunFolder()
    assert not os.path.exists(folder)
    assert other.path.exists()
    other.remove()


def test_connect_says_what_to_do_when_the_named_server_does_not_answer(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(RuntimeError, match="python -m local_aws"):
        local_aws.connect()


def test_a_service_that_is_not_there_is_refused_by_name_and_at_once(local):
    with pytest.raises(ClientError) as failure:
        boto3.client("pricing").get_products(ServiceCode="AmazonStates")
    assert failure.value.response["Error"]["Code"] == "UnknownService"
    assert failure.value.response["ResponseMetadata"]["RetryAttempts"] == 0
