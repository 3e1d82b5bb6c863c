"""What is counted is what was used, and a price is the price list's or none."""

import json
import math
from datetime import datetime, timedelta, timezone

import boto3
import pytest
from botocore.stub import Stubber
from sagemaker_jobs import ROLE

from scones import costs


def product(usage: str, *prices: str) -> str:
    dimensions = {str(place): {"pricePerUnit": {"USD": price}} for place, price in enumerate(prices)}
    terms = {"OnDemand": {"term": {"priceDimensions": dimensions}}}
    return json.dumps({"product": {"attributes": {"usagetype": usage}}, "terms": terms})


class Priced:
    """A session of Ireland's whose price list answers with these products; each request is held to botocore's model."""

    region_name = "eu-west-1"

    def __init__(self, *products: str, calls: int = 1):
        self._client = boto3.client("pricing", "us-east-1", aws_access_key_id="any", aws_secret_access_key="any")
        self._stubber = Stubber(self._client)
        for _ in range(calls):
            self._stubber.add_response("get_products", {"PriceList": list(products)})
        self._stubber.activate()

    def client(self, service: str, region_name: str):
        assert (service, region_name) == ("pricing", "us-east-1")
        return self._client


def test_a_price_is_that_of_exactly_this_usage():
    session = Priced(product("EUW1-Host:ml.m5.large-extra", "9.0"), product("EUW1-Host:ml.m5.large", "0.128"))
    assert costs.price_of(session, "Host:ml.m5.large") == 0.128


def test_the_first_free_units_are_no_price():
    assert costs.price_of(Priced(product("EUW1-StateTransition", "0", "0.000025")), "StateTransition") == 0.000025


def test_a_price_that_the_list_does_not_tell_is_no_number():
    assert math.isnan(costs.price_of(Priced(), "Train:ml.g4dn.xlarge"))


def test_an_estimate_is_quantity_times_price():
    products = (
        product("EUW1-Train:ml.g4dn.xlarge", "0.8"),
        product("EUW1-Host:ml.m5.large", "0.1"),
        product("EUW1-StateTransition", "0.00002"),
    )
    table = costs.estimate(Priced(*products, calls=3), "ml.g4dn.xlarge", "ml.m5.large", 100, 15, 2)
    assert table["quantity"].tolist() == [0.25, 2, 500]
    assert table["USD"].tolist() == pytest.approx([0.2, 0.2, 0.01])


def test_transitions_and_invocations_of_an_execution_and_of_its_children_are_counted(local):
    child = {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
        "StartAt": "Child",
        "States": {"Child": {"Type": "Pass", "End": True}},
    }
    states = {
        "First": {"Type": "Pass", "Next": "Invoke"},
        "Invoke": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Parameters": {"FunctionName": "no-such-function"},
            "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": None, "Next": "Each"}],
            "Next": "Each",
        },
        "Each": {"Type": "Map", "ItemProcessor": child, "End": True},
    }
    client = boto3.client("stepfunctions")
    definition = json.dumps({"StartAt": "First", "States": states})
    arn = client.create_state_machine(name="counted", definition=definition, roleArn=ROLE)["stateMachineArn"]
    execution = client.start_execution(stateMachineArn=arn, input="[1, 2, 3]")["executionArn"]
    while client.describe_execution(executionArn=execution)["status"] == "RUNNING":
        pass
    assert costs.transitions_and_invocations(boto3.Session(), execution) == (3 + 2 + 3 * 5, 1 + 3 * 3)


def test_without_a_price_list_the_quantities_are_told_all_the_same(local):
    table = costs.estimate(boto3.Session(), "ml.g4dn.xlarge", "ml.m5.large", 10, 6, 1)
    assert table["quantity"].tolist() == [0.1, 1, 50]
    assert "USD" not in table


class Answering:
    """A session whose SageMaker answers so; its other clients are the local AWS's."""

    region_name = "us-east-1"

    def __init__(self, answers: dict[str, dict]):
        self._answers = answers

    def client(self, service: str, **options):
        return self if service == "sagemaker" else boto3.client(service, **options)

    def __getattr__(self, operation: str):
        return lambda **_: self._answers[operation]


def test_what_was_used_is_told_by_the_services_themselves(local):
    now = datetime.now(timezone.utc)
    answers = {
        "describe_training_job": {"ResourceConfig": {"InstanceType": "ml.g5.xlarge"}, "BillableTimeInSeconds": 360},
        "describe_endpoint": {"EndpointConfigName": "one", "CreationTime": now - timedelta(hours=2)},
        "describe_endpoint_config": {"ProductionVariants": [{"InstanceType": "ml.c5.large"}]},
    }
    table = costs.used(Answering(answers), "job", "endpoint", [])
    assert table["what"].tolist() == [
        "training on ml.g5.xlarge, 360 billable seconds",
        "endpoint on ml.c5.large",
        "the workflow",
        "the functions",
    ]
    assert table["quantity"].tolist() == [0.1, pytest.approx(2, abs=0.01), 0, 0]
