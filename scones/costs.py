"""What a run costs on AWS: an estimate before anything is created, and the figures after.

The prices are those of AWS's own Price List API, asked for at the time; none is written down here. The local AWS has no
price list: there the quantities are shown alone. Counted and not priced, because they come to less than a cent: the
functions' invocations. Left out for the same reason: requests to S3, the images' storage and the logs. Source of the
names of the usage types: the Price List's own, such as USE1-Host:ml.m5.large.
"""

import json
from collections.abc import Iterable
from datetime import datetime, timezone

import pandas as pd
from boto3 import Session
from botocore.exceptions import BotoCoreError, ClientError

PRICE_LIST_REGION = "us-east-1"
ON_DEMAND = "OnDemand"
STATES_AN_IMAGE = 3


def estimate(
    session: Session, training_kind: str, hosting_kind: str, images: int, training_minutes: float, endpoint_hours: float
) -> pd.DataFrame:
    """One line a thing that costs: what, quantity, unit, USD a unit, USD.

    A price that is not known is NaN; where none is known, the last two columns are left out.
    """
    quantities = [
        (f"training on {training_kind}", training_minutes / 60, "hours", f"Train:{training_kind}"),
        (f"endpoint on {hosting_kind}", endpoint_hours, "hours", f"Host:{hosting_kind}"),
        (f"{images} images through the workflow", _transitions_of(images), "state transitions", "StateTransition"),
    ]
    return _table(session, quantities)


def _transitions_of(images: int) -> int:
    """Standard executions: their start, three states, their end."""
    return images * (STATES_AN_IMAGE + 2)


def used(session: Session, training_job: str, endpoint: str, executions: Iterable[str]) -> pd.DataFrame:
    """The same lines from what was used: billable seconds, the endpoint's hours until now, transitions.

    executions: ARNs, parents of Map Runs included; their children are counted too, five transitions and three
    invocations for each that ran to its end. Call it before the endpoint is deleted.
    """
    sagemaker = session.client("sagemaker")
    job = sagemaker.describe_training_job(TrainingJobName=training_job)
    created = sagemaker.describe_endpoint(EndpointName=endpoint)
    config = sagemaker.describe_endpoint_config(EndpointConfigName=created["EndpointConfigName"])
    training_kind, seconds = job["ResourceConfig"]["InstanceType"], job["BillableTimeInSeconds"]
    hosting_kind = config["ProductionVariants"][0]["InstanceType"]
    hours = (datetime.now(timezone.utc) - created["CreationTime"]).total_seconds() / 3600
    counts = [transitions_and_invocations(session, arn) for arn in executions]
    entered, invoked = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    quantities = [
        (f"training on {training_kind}, {seconds} billable seconds", seconds / 3600, "hours", f"Train:{training_kind}"),
        (f"endpoint on {hosting_kind}", hours, "hours", f"Host:{hosting_kind}"),
        ("the workflow", entered, "state transitions", "StateTransition"),
        ("the functions", invoked, "invocations", None),
    ]
    return _table(session, quantities)


def transitions_and_invocations(session: Session, execution: str) -> tuple[int, int]:
    """Of an execution and of its Map Runs' children: states entered, with start and end, and functions invoked."""
    client = session.client("stepfunctions")
    pages = client.get_paginator("get_execution_history").paginate(executionArn=execution)
    kinds = [event["type"] for page in pages for event in page["events"]]
    runs = client.list_map_runs(executionArn=execution)["mapRuns"]
    images = sum(client.describe_map_run(mapRunArn=run["mapRunArn"])["executionCounts"]["total"] for run in runs)
    entered = sum(kind.endswith("StateEntered") for kind in kinds)
    return entered + 2 + _transitions_of(images), kinds.count("TaskScheduled") + STATES_AN_IMAGE * images


def _table(session: Session, quantities: list[tuple[str, float, str, str | None]]) -> pd.DataFrame:
    rows = []
    for what, quantity, unit, usage in quantities:
        price = price_of(session, usage) if usage else float("nan")
        rows.append((what, quantity, unit, price, quantity * price))
    table = pd.DataFrame(rows, columns=["what", "quantity", "unit", "USD a unit", "USD"])
    return table.dropna(axis="columns", how="all")


def price_of(session: Session, usage: str) -> float:
    """The on-demand price of a unit in the session's region by AWS's price list; NaN where that does not tell.

    usage is the end of a usage type: "Train:ml.g4dn.xlarge", "Host:ml.m5.large", "StateTransition".
    """
    client = session.client("pricing", region_name=PRICE_LIST_REGION)
    filters = [
        {"Type": "EQUALS", "Field": "regionCode", "Value": session.region_name},
        {"Type": "CONTAINS", "Field": "usagetype", "Value": usage},
    ]
    service = "AmazonStates" if usage == "StateTransition" else "AmazonSageMaker"
    try:
        products = client.get_products(ServiceCode=service, Filters=filters)["PriceList"]
    except (ClientError, BotoCoreError):
        return float("nan")
    return next((price for product in map(json.loads, products) for price in _prices(product, usage)), float("nan"))


def _prices(product: dict, usage: str) -> list[float]:
    """The prices above 0 of a product of exactly this usage: the first units of some are free."""
    if product["product"]["attributes"]["usagetype"].split("-", 1)[-1] != usage:
        return []
    terms = product["terms"].get(ON_DEMAND, {}).values()
    prices = [float(part["pricePerUnit"]["USD"]) for term in terms for part in term["priceDimensions"].values()]
    return [price for price in prices if price > 0]
