"""What the notebook asks AWS for is what the services' own models allow: instance kinds, names, lengths, ranges."""

import json
import time

import boto3
import nbformat
import pytest
from conftest import ROOT
from request_models import held_to_models, violations
from sagemaker.core import image_uris, resources, shapes
from sagemaker_jobs import BUCKET, ROLE, TRAIN, upload_channels
from test_notifications import machine

from scones import costs, notifications, workflow

CELLS = ("hyperparameters = {", "TrainingJob.create(", "Model.create(", "DataCaptureConfig(", "Endpoint.create(")


def cells_with(*words: str) -> list[str]:
    """The notebook's code cells that hold one of these words, in their order; each word stands in one of them."""
    notebook = nbformat.read(ROOT / "starter.ipynb", as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    found = [source for source in sources if any(word in source for word in words)]
    assert all(any(word in source for source in found) for word in words)
    return found


class Problem:
    """What the notebook's cells read of its data set and its session."""

    classes = ("bicycle", "motorcycle")
    train = range(TRAIN)
    boto_region_name = "us-east-1"


def notebook_names(run: str) -> dict:
    """The names that the notebook's earlier cells give."""
    return {
        "json": json,
        "image_uris": image_uris,
        "shapes": shapes,
        **{name: getattr(resources, name) for name in ("Endpoint", "EndpointConfig", "Model", "TrainingJob")},
        "dataset": Problem,
        "session": Problem,
        "workflow": workflow,
        "bucket": BUCKET,
        "run_name": run,
        "endpoint_name": run,
        "role": ROLE,
        "sdk_tags": [{"key": "run", "value": run}],
        "channels": dict.fromkeys(("train", "validation", "train_lst", "validation_lst")),
        "TARGET": "local",
    }


@pytest.fixture(scope="module")
def requests(local):
    """The requests of the notebook's cells on training and hosting, which a small problem is really trained with."""
    run = "requests-" + time.strftime("%H%M%S")
    upload_channels(run)
    names = notebook_names(run)
    channel = cells_with("def channel(")
    with held_to_models() as made:
        for source in sorted([*cells_with(*CELLS), *channel], key=[*cells_with("")].index):
            exec(compile(source, "starter.ipynb", "exec"), names)
    yield made
    boto3.client("sagemaker").delete_endpoint(EndpointName=run)


def asked(requests: list[tuple[str, dict]], operation: str) -> dict:
    [parameters] = [parameters for name, parameters in requests if name == operation]
    return parameters


def test_the_notebook_asks_for_a_gpu_kind_that_training_knows(requests):
    kind = asked(requests, "CreateTrainingJob")["ResourceConfig"]["InstanceType"]
    assert kind == workflow.TRAINING_KINDS[0]


def test_the_notebook_asks_for_everything_to_be_captured_with_answers_as_json(requests):
    capture = asked(requests, "CreateEndpointConfig")["DataCaptureConfig"]
    assert capture["EnableCapture"] is True
    assert capture["InitialSamplingPercentage"] == 100
    assert capture["CaptureContentTypeHeader"] == {"JsonContentTypes": ["application/json"]}


@pytest.mark.parametrize("operation", ["CreateTrainingJob", "CreateModel", "CreateEndpointConfig", "CreateEndpoint"])
def test_what_the_notebook_creates_carries_the_run_s_tag(requests, operation):
    assert "run" in [tag["Key"] for tag in asked(requests, operation)["Tags"]]


def shape(service: str, name: str):
    return boto3.client(service, "us-east-1").meta.service_model.shape_for(name)


@pytest.mark.parametrize("kind", workflow.TRAINING_KINDS)
def test_each_training_kind_is_one_of_the_service_s(kind):
    assert list(violations(shape("sagemaker", "TrainingInstanceType"), kind)) == []


@pytest.mark.parametrize("kind", workflow.HOSTING_KINDS)
def test_each_hosting_kind_is_one_of_the_service_s(kind):
    assert list(violations(shape("sagemaker", "ProductionVariantInstanceType"), kind)) == []


@pytest.mark.parametrize(
    ("service", "name", "value"),
    [
        ("sagemaker", "ResourceConfig", {"InstanceType": "ml.g9.none"}),
        ("sagemaker", "ResourceConfig", {"InstanceType": "ml.g5.xlarge", "InstanceCount": -1}),
        ("sagemaker", "CreateEndpointInput", {"EndpointName": "no_underscores", "EndpointConfigName": "one"}),
        ("sagemaker", "CreateEndpointInput", {"EndpointName": "n" * 64, "EndpointConfigName": "one"}),
        ("pricing", "GetProductsRequest", {"Filters": [{"Type": "BEGINS_WITH"}]}),
    ],
)
def test_a_request_that_a_model_does_not_allow_is_found(service, name, value):
    assert list(violations(shape(service, name), value))


def test_costs_and_notifications_ask_for_what_their_models_allow(local):
    with held_to_models() as made:
        costs.estimate(boto3.Session(), workflow.TRAINING_KINDS[0], workflow.HOSTING_KINDS[0], 10, 5, 1)
        arn = machine("requests-notified", {"Type": "Succeed"})
        notifications.notify_failures(boto3.Session(), [arn], {"run": "requests"}, email="someone@example.com")
        execution = workflow.run(boto3.Session(), arn, {})
        costs.transitions_and_invocations(boto3.Session(), execution["executionArn"])
    operations = [operation for operation, _ in made]
    assert {"GetProducts", "PutRule", "PutTargets", "Subscribe", "StartExecution"} <= set(operations)
    assert json.loads(dict(made)["PutRule"]["EventPattern"])["source"] == ["aws.states"]
