"""The door of the local AWS, its life, and that nothing outlives it."""

import io
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import boto3
import psutil
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


STRANGERS = {
    "unsigned": {},
    "with another key": {
        "Authorization": "AWS4-HMAC-SHA256 Credential=AKIAANOTHERKEY/20260101/us-east-1/s3/aws4_request"
    },
    "from a web page": {"Authorization": "own", "Origin": "http://evil.example"},
    "from a sandboxed page": {"Authorization": "own", "Origin": "null"},
    "by a rebound name": {"Authorization": "own", "Host": "evil.example"},
}


def from_stranger(
    local, kind: str, path: str, method: str = "POST", body: bytes | None = b"{}"
) -> urllib.request.Request:
    own = f"AWS4-HMAC-SHA256 Credential={local.environment['AWS_ACCESS_KEY_ID']}/20260101/us-east-1/s3/aws4_request"
    headers = {name: own if value == "own" else value for name, value in STRANGERS[kind].items()}
    return urllib.request.Request(f"{local.url}{path}", data=body, method=method, headers=headers)


@pytest.fixture(scope="module")
def writing_function(local, tmp_path_factory):
    """A Lambda function that writes a file when it runs; the file."""
    written = tmp_path_factory.mktemp("written") / "it-ran"
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr(
            "lambda_function.py", f"def lambda_handler(event, context):\n    open({str(written)!r}, 'w')\n"
        )
    boto3.client("lambda").create_function(
        FunctionName="writes",
        Runtime="python3.12",
        Role=local.environment["SAGEMAKER_ROLE"],
        Handler="lambda_function.lambda_handler",
        Code={"ZipFile": package.getvalue()},
    )
    return written


@pytest.mark.parametrize("kind", STRANGERS)
def test_nothing_is_executed_for_a_stranger(local, writing_function, kind):
    path = "/2015-03-31/functions/writes/invocations"
    assert status_of(from_stranger(local, kind, path)) == 403
    assert not writing_function.exists()


def test_what_a_stranger_could_not_run_the_user_can(local, writing_function):
    boto3.client("lambda").invoke(FunctionName="writes")
    assert writing_function.exists()
    writing_function.unlink()


@pytest.mark.parametrize("kind", STRANGERS)
def test_moto_s_control_api_is_behind_the_same_door(local, kind):
    for path in ("/moto-api/reset", "/moto-api/seed?a=1", "/moto-api/state-manager/set-transition"):
        assert status_of(from_stranger(local, kind, path)) == 403
    assert bucket_names()


def test_a_web_page_s_preflight_is_refused_without_a_word_of_consent(local):
    request = from_stranger(local, "from a web page", "/a-bucket", method="OPTIONS", body=None)
    request.add_header("Access-Control-Request-Method", "PUT")
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=10)
    assert refusal.value.code == 403
    assert not [name for name in refusal.value.headers if name.lower().startswith("access-control")]
    refusal.value.close()


def test_a_presigned_address_of_another_key_is_refused_and_one_s_own_is_not(local):
    s3 = boto3.client("s3")
    s3.put_object(Bucket=bucket_names()[0], Key="presigned", Body=b"content")
    given = {"Bucket": bucket_names()[0], "Key": "presigned"}
    stranger = boto3.client("s3", aws_access_key_id="AKIAANOTHERKEY", aws_secret_access_key="secret")
    for client, status in ((s3, 200), (stranger, 403)):
        assert status_of(urllib.request.Request(client.generate_presigned_url("get_object", given))) == status


def test_it_listens_on_loopback_alone(local):
    processes = [psutil.Process(pid) for pid in (local.pid, *children_of(local.pid))]
    connections = [each for process in processes for each in process.net_connections("inet")]
    listening = {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_every_server_has_a_key_and_a_port_of_its_own(local, own_server):
    _, printed = own_server
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        assert exports(printed)[name] != local.environment[name]
    assert len(local.environment["AWS_ACCESS_KEY_ID"]) >= 32


def test_what_it_writes_is_for_its_user_alone(local, writing_function):
    boto3.client("lambda").invoke(FunctionName="writes")
    writing_function.unlink()
    folder = Path(local.environment["SAGEMAKER_USER_CONFIG_OVERRIDE"]).parent
    paths = [folder, *(path for path in folder.rglob("*") if not path.is_symlink() and path.exists())]
    assert any(path.name == "lambda_function.py" for path in paths)
    own = {path: path.stat().st_mode & 0o777 for path in paths if path.exists() and not path.is_socket()}
    assert {str(path): oct(mode) for path, mode in own.items() if mode & 0o077} == {}


def test_no_process_shows_the_key_in_its_command_line(local):
    secrets = {local.environment["AWS_ACCESS_KEY_ID"], local.environment["AWS_SECRET_ACCESS_KEY"]}
    lines = [" ".join(psutil.Process(pid).cmdline()) for pid in (local.pid, *children_of(local.pid))]
    assert not [line for line in lines if any(secret in line for secret in secrets)]


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
