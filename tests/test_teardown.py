"""Everything that a run makes carries its tag, and teardown leaves nothing of it."""

import json

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber
from conftest import ROOT, own_server
from request_models import held_to_models
from sagemaker_jobs import (
    BUCKET,
    ROLE,
    create_config,
    create_model,
    png,
    training_request,
    upload_channels,
    wait_for_endpoint,
    wait_for_training,
)

from scones import notifications, roles, teardown, workflow

RUN, PREFIX = "teardown-run", "teardown/"
TAGS = {"project": "scones-unlimited", "run": RUN}
TAG_LIST = [{"Key": key, "Value": value} for key, value in TAGS.items()]
MACHINE = "teardown-machine"
PARTS = {"serialize": "TeardownSerialize", "inference": "TeardownInference", "pass_threshold": "TeardownThreshold"}


def make_everything() -> None:
    session, sagemaker = boto3.Session(), boto3.client("sagemaker")
    request = training_request("teardown-job", upload_channels("teardown"))
    sagemaker.create_training_job(**request, Tags=TAG_LIST)
    model = wait_for_training("teardown-job")["ModelArtifacts"]["S3ModelArtifacts"]
    image = request["AlgorithmSpecification"]["TrainingImage"]
    container = {"Image": image, "ModelDataUrl": model}
    sagemaker.create_model(ModelName=RUN, ExecutionRoleArn=ROLE, PrimaryContainer=container, Tags=TAG_LIST)
    variant = {"VariantName": "AllTraffic", "ModelName": RUN, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName=RUN, ProductionVariants=[variant], Tags=TAG_LIST)
    sagemaker.create_endpoint(EndpointName=RUN, EndpointConfigName=RUN, Tags=TAG_LIST)
    wait_for_endpoint(RUN)
    made = roles.make_roles(session, PARTS, RUN, MACHINE, BUCKET, PREFIX, TAGS)
    roles.make_sagemaker_role(session, BUCKET, PREFIX, TAGS)
    for part, name in PARTS.items():
        workflow.deploy_function(session, name, ROOT / "lambda_functions" / part, made[part], {}, TAGS)
    definition = ROOT / "state_machine_definition.json"
    machine = workflow.deploy_state_machine(session, MACHINE, definition, made["states"], TAGS)
    notifications.notify_failures(session, [machine], TAGS)
    boto3.client("s3").put_object(Bucket=BUCKET, Key=f"{PREFIX}captured.jsonl", Body=b"{}")
    boto3.client("lambda").invoke(FunctionName=PARTS["pass_threshold"], Payload=json.dumps({"inferences": [0.99]}))
    boto3.client("sagemaker-runtime").invoke_endpoint(EndpointName=RUN, Body=png(0, 1), ContentType="image/png")


def what_is_left() -> dict[str, list]:
    """By each service's own listing, not by the tags that teardown looks for."""
    sagemaker, iam, events = boto3.client("sagemaker"), boto3.client("iam"), boto3.client("events")
    functions = [each["FunctionName"] for each in boto3.client("lambda").list_functions()["Functions"]]
    groups = [each["logGroupName"] for each in boto3.client("logs").describe_log_groups()["logGroups"]]
    machines = boto3.client("stepfunctions").list_state_machines()["stateMachines"]
    topics = [each["TopicArn"] for each in boto3.client("sns").list_topics()["Topics"]]
    found = {
        "training jobs": [each["TrainingJobName"] for each in sagemaker.list_training_jobs()["TrainingJobSummaries"]],
        "models": [each["ModelName"] for each in sagemaker.list_models()["Models"]],
        "configs": [each["EndpointConfigName"] for each in sagemaker.list_endpoint_configs()["EndpointConfigs"]],
        "endpoints": [each["EndpointName"] for each in sagemaker.list_endpoints()["Endpoints"]],
        "functions": functions,
        "log groups": groups,
        "machines": [each["name"] for each in machines],
        "roles": [each["RoleName"] for each in iam.list_roles()["Roles"] if each["RoleName"].startswith("scones-")],
        "rules": [each["Name"] for each in events.list_rules()["Rules"] if each["Name"].startswith("scones-")],
        "topics": [arn for arn in topics if arn.endswith(notifications.NAME)],
    }
    ours = ("eardown", "scones-")
    return {kind: [name for name in names if any(word in name for word in ours)] for kind, names in found.items()}


@pytest.fixture(scope="module")
def everything():
    """What a run makes, on a server that holds nothing else; every request here is held to its service's model."""
    with own_server(), held_to_models():
        make_everything()
        made = what_is_left()
        assert all(made.values()), made
        yield made


def test_everything_that_was_made_is_found_by_the_run_s_tag(everything):
    kinds = [teardown._kind(arn) for arn in teardown.find(boto3.Session(), RUN)]
    assert sorted(kinds) == sorted(
        [
            "events:rule",
            "iam:role",
            "iam:role",
            "iam:role",
            "iam:role",
            "iam:role",
            "lambda:function",
            "lambda:function",
            "lambda:function",
            "sagemaker:endpoint",
            "sagemaker:endpoint-config",
            "sagemaker:model",
            "sagemaker:training-job",
            "sns",
            "states:stateMachine",
        ]
    )


def test_another_run_s_teardown_deletes_nothing_of_it(everything):
    assert teardown.tear_down(boto3.Session(), "another-run", BUCKET, []) == []
    assert what_is_left() == everything


def test_teardown_leaves_nothing_and_may_be_called_again(everything):
    session = boto3.Session()
    assert teardown.tear_down(session, RUN, BUCKET, [PREFIX]) == []
    assert not any(what_is_left().values()), what_is_left()
    assert boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=PREFIX)["KeyCount"] == 0
    assert teardown.tear_down(session, RUN, BUCKET, [PREFIX]) == []


class StatusAtDeletion:
    """A session that notes, for each call that deletes an endpoint or a training job, what status that has then."""

    def __init__(self):
        self.statuses: list[str] = []

    def client(self, service: str):
        client = boto3.client(service)
        client.meta.events.register("before-call.sagemaker", self._note)
        return client

    def _note(self, model, params, **_):
        asked = json.loads(params["body"])
        if model.name == "DeleteEndpoint":
            self.statuses.append(boto3.client("sagemaker").describe_endpoint(**asked)["EndpointStatus"])
        if model.name == "DeleteTrainingJob":
            self.statuses.append(boto3.client("sagemaker").describe_training_job(**asked)["TrainingJobStatus"])


def test_a_job_that_still_trains_is_stopped_before_it_is_deleted(local):
    request = training_request("teardown-running", upload_channels("teardown-running"))
    boto3.client("sagemaker").create_training_job(**request, Tags=[{"Key": "run", "Value": "teardown-running"}])
    session = StatusAtDeletion()
    assert teardown.tear_down(session, "teardown-running", BUCKET, ["teardown-running/"]) == []
    assert session.statuses == ["Stopped"]
    assert teardown.find(boto3.Session(), "teardown-running") == []


def test_an_endpoint_that_is_still_created_is_waited_for(local):
    sagemaker, name = boto3.client("sagemaker"), "teardown-creating"
    boto3.client("sagemaker").create_training_job(**training_request(name, upload_channels(name)))
    create_model(name, wait_for_training(name)["ModelArtifacts"]["S3ModelArtifacts"])
    create_config(name, name)
    tags = [{"Key": "run", "Value": name}]
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name, Tags=tags)
    assert sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] == "Creating"
    session = StatusAtDeletion()
    assert teardown.tear_down(session, name, BUCKET, []) == []
    assert session.statuses == ["InService"]


def test_objects_that_could_not_be_deleted_are_counted_and_one_is_named():
    s3 = boto3.client("s3", aws_access_key_id="any", aws_secret_access_key="any")
    with Stubber(s3) as stubber:
        stubber.add_response("list_objects_v2", {"Contents": [{"Key": "run/one"}, {"Key": "run/two"}]})
        refusals = [{"Key": key, "Code": "AccessDenied", "Message": "Access Denied"} for key in ("run/one", "run/two")]
        stubber.add_response("delete_objects", {"Errors": refusals})
        session = type("Session", (), {"client": staticmethod(lambda service: s3)})()
        with pytest.raises(teardown.NotDeleted, match="2 objects are left, the first of them run/one: Access Denied"):
            teardown.delete_objects(session, "b", "run/")


def test_one_thing_that_cannot_be_deleted_keeps_nothing_else(local, monkeypatch):
    session = boto3.Session()
    boto3.client("sns").create_topic(Name="teardown-kept", Tags=[{"Key": "run", "Value": "teardown-kept"}])
    statements = [roles.allow(["s3:GetObject"], f"arn:aws:s3:::{BUCKET}/*")]
    role = roles.deploy_role(session, "scones-kept", "lambda.amazonaws.com", statements, {"run": "teardown-kept"})

    def unreachable(session, name):
        raise EndpointConnectionError(endpoint_url="https://sns.example")

    with monkeypatch.context() as patched:
        patched.setitem(teardown.DELETERS, "sns", unreachable)
        [problem] = teardown.tear_down(session, "teardown-kept", BUCKET, [])
    assert "teardown-kept" in problem and "sns.example" in problem
    assert role not in teardown.find(session, "teardown-kept")
    assert teardown.tear_down(session, "teardown-kept", BUCKET, []) == []


def test_what_could_not_be_deleted_is_named_with_the_reason(local):
    queue = boto3.client("sqs")
    url = queue.create_queue(QueueName="teardown-left", tags={"run": "teardown-left"})["QueueUrl"]
    [problem] = teardown.tear_down(boto3.Session(), "teardown-left", BUCKET, [])
    assert "teardown-left" in problem
    assert "delete it by hand" in problem
    queue.delete_queue(QueueUrl=url)
