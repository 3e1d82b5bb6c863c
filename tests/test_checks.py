"""What an account lacks is said in one sentence that says what to do."""

import subprocess
import sys

import boto3
import pytest
from botocore.exceptions import ClientError, NoCredentialsError, NoRegionError
from botocore.stub import Stubber
from conftest import ROOT
from sagemaker_jobs import BUCKET

from scones import checks, workflow


def answer(code: str, message: str = "the service's message", operation: str = "CreateRole") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (NoCredentialsError(), "aws configure"),
        (NoRegionError(), "AWS_DEFAULT_REGION"),
        (answer("ExpiredToken"), "sign in again"),
        (answer("InvalidClientTokenId"), "access key"),
        (answer("AccessDenied"), "may not do CreateRole"),
        (answer("AccessDeniedException", operation="CreateTrainingJob"), "may not do CreateTrainingJob"),
        (answer("ValidationException", "Could not assume role arn:x", "CreateTrainingJob"), "trust policy"),
        (answer("AccessDeniedException", "no one is authorized to assume the provided role"), "trust policy"),
        (answer("AccessDenied", "not authorized to perform: sts:AssumeRole"), "may not do CreateRole"),
        (answer("StateMachineDeleting", operation="UpdateStateMachine"), "wait a minute"),
        (workflow.NoQuota("Ask for a quota."), "Ask for a quota."),
        (answer("PermanentRedirect"), "another region"),
        (answer("ResourceLimitExceeded"), "Service Quotas"),
        (answer("ValidationError", "Endpoint one is Creating", "InvokeEndpoint"), "wait until it is InService"),
        (answer("ValidationError", "Endpoint one not found", "InvokeEndpoint"), "cannot be called"),
    ],
)
def test_an_error_is_explained_in_one_sentence_that_says_what_to_do(error, advice):
    sentence = checks.explain(error)
    assert advice in sentence
    assert sentence.endswith((".", ")"))
    assert "\n" not in sentence


def test_an_error_that_is_not_known_is_left_to_its_own_words():
    assert checks.explain(ValueError("no")) is None
    assert checks.explain(answer("ValidationException", "image_shape")) is None


def test_a_session_without_credentials_is_not_ready(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(checks.NotReady, match="aws configure"):
        checks.check_account(boto3.Session(region_name="us-east-1"))


def test_a_session_without_a_region_is_not_ready(monkeypatch, tmp_path):
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(checks.NotReady, match="AWS_DEFAULT_REGION"):
        checks.check_account(boto3.Session())


def test_a_session_that_is_ready_tells_account_caller_and_region(local):
    found = checks.check_account(boto3.Session())
    assert found["account"] == "123456789012"
    assert found["region"] == "us-east-1"
    assert found["caller"].startswith("arn:aws:")


class Session:
    """A session whose S3 answers HeadBucket so."""

    region_name = "us-east-1"

    def __init__(self, status: int, region: str | None = None):
        self._s3 = boto3.client("s3", "us-east-1", aws_access_key_id="any", aws_secret_access_key="any")
        stubber = Stubber(self._s3)
        if status == 200:
            stubber.add_response("head_bucket", {"BucketRegion": region})
        else:
            stubber.add_client_error("head_bucket", str(status), "any", status)
        stubber.activate()

    def client(self, service: str):
        return self._s3


@pytest.mark.parametrize(
    ("session", "advice"),
    [
        (Session(301), "another region"),
        (Session(200, "eu-west-1"), "another region"),
        (Session(403), "not yours"),
        (Session(404), "no bucket"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_named_with_what_to_do(session, advice):
    with pytest.raises(checks.NotReady, match=advice) as failure:
        checks.check_bucket(session, "images")
    assert "images" in str(failure.value)


def test_a_bucket_of_the_session_s_region_is_ready(local):
    assert checks.check_bucket(boto3.Session(), BUCKET) is None


def test_the_reminder_names_an_endpoint_that_is_still_there_and_no_other(monkeypatch, capfd):
    at_exit = []
    monkeypatch.setattr(checks.atexit, "register", at_exit.append)
    client = boto3.client("sagemaker", "us-east-1", aws_access_key_id="any", aws_secret_access_key="any")
    session = type("Session", (), {"client": staticmethod(lambda service: client)})()
    checks.remind_of(session, "one")
    described = {
        "EndpointName": "one",
        "EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/one",
        "EndpointStatus": "InService",
        "CreationTime": 0,
        "LastModifiedTime": 0,
    }
    with Stubber(client) as stubber:
        stubber.add_response("describe_endpoint", described)
        stubber.add_client_error("describe_endpoint", "ValidationException")
        at_exit[0]()
        assert "one is InService and costs money" in capfd.readouterr().err
        at_exit[0]()
        assert capfd.readouterr().err == ""


def test_the_reminder_of_a_notebook_that_failed_reaches_the_terminal():
    program = """
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

REMIND = '''
from scones import checks

class Running:
    def client(self, service):
        return self

    def describe_endpoint(self, EndpointName):
        return {"EndpointStatus": "InService"}

checks.remind_of(Running(), "still-there")
'''
notebook = new_notebook(cells=[new_code_cell(REMIND), new_code_cell("1 / 0")])
client = NotebookClient(notebook, allow_errors=True, timeout=60)
client.create_kernel_manager().transport = "ipc"
client.execute()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert "The endpoint still-there is InService and costs money for every hour" in result.stderr


def test_a_notebook_shows_the_sentence_in_place_of_the_stack_trace():
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    source = """
from scones import checks
checks.use_one_sentence()
"""
    failing = """
from botocore.exceptions import ClientError
raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no right"}}, "CreateRole")
"""
    notebook = new_notebook(cells=[new_code_cell(source), new_code_cell(failing)])
    client = NotebookClient(notebook, allow_errors=True, timeout=60)
    client.create_kernel_manager().transport = "ipc"
    client.execute()
    [shown] = notebook.cells[1].outputs
    assert shown.output_type == "error"
    [line] = shown.traceback
    assert line.startswith("You or the role in use may not do CreateRole")
