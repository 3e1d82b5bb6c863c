"""Deploying twice is deploying once, a change is deployed and nothing else is, and a quota of 0 is got around."""

import json
import shutil

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from conftest import ROOT
from sagemaker_jobs import ROLE

from scones import workflow

HANDLER = ROOT / "lambda_functions" / "pass_threshold"
DEFINITION = ROOT / "state_machine_definition.json"


class Recorded:
    """A session that notes the calls that its clients make."""

    def __init__(self):
        self.region_name = "us-east-1"
        self.calls: list[str] = []

    def client(self, service: str):
        client = boto3.client(service)
        client.meta.events.register("before-call", lambda model, **_: self.calls.append(model.name))
        return client

    def changes(self) -> list[str]:
        """What was called that is no reading."""
        calls, self.calls = self.calls, []
        return [name for name in calls if not name.startswith(("Get", "List", "Describe"))]


def test_a_function_is_made_once_and_then_left_as_it_is(local):
    session = Recorded()
    first = workflow.deploy_function(session, "deployed-twice", HANDLER, ROLE, {"THRESHOLD": "0.8"}, {"run": "1"})
    assert session.changes() == ["CreateFunction"]
    again = workflow.deploy_function(session, "deployed-twice", HANDLER, ROLE, {"THRESHOLD": "0.8"}, {"run": "2"})
    assert again == first
    assert session.changes() == ["TagResource"]
    assert boto3.client("lambda").list_tags(Resource=first)["Tags"] == {"run": "2"}


def test_a_changed_setting_is_updated_and_takes_effect(local):
    session = Recorded()
    workflow.deploy_function(session, "deployed-set", HANDLER, ROLE, {"THRESHOLD": "0.8"})
    session.changes()
    workflow.deploy_function(session, "deployed-set", HANDLER, ROLE, {"THRESHOLD": "0.5"})
    assert session.changes() == ["UpdateFunctionConfiguration", "TagResource"]
    answer = boto3.client("lambda").invoke(FunctionName="deployed-set", Payload=json.dumps({"inferences": [0.6, 0.4]}))
    assert json.loads(answer["Payload"].read())["statusCode"] == 200


def test_a_changed_handler_is_updated_and_takes_effect(local, tmp_path):
    session = Recorded()
    folder = shutil.copytree(HANDLER, tmp_path / "handler")
    workflow.deploy_function(session, "deployed-code", folder, ROLE)
    session.changes()
    (folder / "lambda_function.py").write_text("def lambda_handler(event, context):\n    return 'changed'\n")
    workflow.deploy_function(session, "deployed-code", folder, ROLE)
    assert session.changes() == ["UpdateFunctionCode", "TagResource"]
    answer = boto3.client("lambda").invoke(FunctionName="deployed-code", Payload=b"{}")
    assert json.loads(answer["Payload"].read()) == "changed"


def test_a_state_machine_is_updated_only_where_it_differs(local, tmp_path):
    session = Recorded()
    workflow.deploy_state_machine(session, "deployed-again", DEFINITION, ROLE, {"run": "1"})
    assert session.changes() == ["CreateStateMachine"]
    workflow.deploy_state_machine(session, "deployed-again", DEFINITION, ROLE, {"run": "1"})
    assert session.changes() == ["TagResource"]
    changed = json.loads(DEFINITION.read_text())
    changed["Comment"] = "changed"
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    arn = workflow.deploy_state_machine(session, "deployed-again", tmp_path / "changed.json", ROLE, {"run": "1"})
    assert session.changes() == ["UpdateStateMachine", "TagResource"]
    described = boto3.client("stepfunctions").describe_state_machine(stateMachineArn=arn)
    assert json.loads(described["definition"])["Comment"] == "changed"


def test_a_state_machine_of_that_name_is_updated_and_not_made_again(local):
    session = boto3.Session()
    first = workflow.deploy_state_machine(session, "deployed-machine", DEFINITION, ROLE, {"run": "1"})
    assert workflow.deploy_state_machine(session, "deployed-machine", DEFINITION, ROLE, {"run": "2"}) == first
    tags = boto3.client("stepfunctions").list_tags_for_resource(resourceArn=first)["tags"]
    assert tags == [{"key": "run", "value": "2"}]
    described = boto3.client("stepfunctions").describe_state_machine(stateMachineArn=first)
    assert json.loads(described["definition"]) == json.loads(DEFINITION.read_text())


def refused(code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "CreateTrainingJob")


def test_the_next_instance_kind_is_taken_where_a_quota_is_0():
    tried = []

    def create(kind: str) -> str:
        tried.append(kind)
        if kind == "ml.g4dn.xlarge":
            raise refused("ResourceLimitExceeded", "The account-level service limit is 0 Instances")
        return f"job on {kind}"

    assert workflow.on_first_allowed(create, workflow.TRAINING_KINDS, "training job") == "job on ml.g5.xlarge"
    assert tried == ["ml.g4dn.xlarge", "ml.g5.xlarge"]


def test_a_quota_of_0_for_every_kind_says_how_to_ask_for_more():
    def create(kind: str):
        raise refused("ResourceLimitExceeded", "The account-level service limit is 0 Instances")

    with pytest.raises(workflow.NoQuota) as failure:
        workflow.on_first_allowed(create, workflow.TRAINING_KINDS, "training job")
    assert "Service Quotas" in str(failure.value)
    assert "ml.g4dn.xlarge for training job usage" in str(failure.value)


def test_another_error_is_not_taken_for_a_quota():
    def create(kind: str):
        raise refused("ValidationException", "image_shape")

    with pytest.raises(ClientError, match="image_shape"):
        workflow.on_first_allowed(create, workflow.TRAINING_KINDS, "training job")


def test_a_role_that_is_new_is_tried_again(monkeypatch):
    monkeypatch.setattr(workflow.time, "sleep", lambda seconds: None)
    answers = [refused("InvalidParameterValueException", "The role cannot be assumed by Lambda."), None]

    def create() -> str:
        error = answers.pop(0)
        if error:
            raise error
        return "made"

    assert workflow.while_role_is_new(create) == "made"


def test_an_execution_that_outlasts_the_time_is_named(local):
    states = boto3.client("stepfunctions")
    definition = json.dumps({"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 60, "End": True}}})
    arn = states.create_state_machine(name="deployed-waits", definition=definition, roleArn=ROLE)["stateMachineArn"]
    with pytest.raises(TimeoutError, match="stop_execution"):
        workflow.run(boto3.Session(), arn, {}, timeout=0.2)


def test_results_are_read_from_a_map_run_s_files():
    s3 = boto3.client("s3", aws_access_key_id="any", aws_secret_access_key="any")
    records = [
        {"Status": "SUCCEEDED", "Output": '{"inferences": [0.9, 0.1]}'},
        {"Status": "FAILED", "Error": "ThresholdNotMet", "Cause": "0.6"},
    ]
    manifest = {"ResultFiles": {"SUCCEEDED": [{"Key": "s.json"}], "FAILED": [{"Key": "f.json"}], "PENDING": []}}
    with Stubber(s3) as stubber:
        for key, content in (("manifest.json", manifest), ("s.json", records[:1]), ("f.json", records[1:])):
            body = json.dumps(content).encode()
            stubber.add_response("get_object", {"Body": _Body(body)}, {"Bucket": "b", "Key": key})
        session = type("Session", (), {"client": staticmethod(lambda service: s3)})()
        execution = {"output": {"ResultWriterDetails": {"Bucket": "b", "Key": "manifest.json"}}}
        assert workflow.map_results(session, execution) == [{"inferences": [0.9, 0.1]}, records[1]]


class _Body:
    def __init__(self, content: bytes):
        self._content = content

    def read(self) -> bytes:
        return self._content
