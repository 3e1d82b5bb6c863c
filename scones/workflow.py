"""Deploys the functions and the state machines, and runs them.

Plain functions over boto3 that work on AWS and on the local AWS alike. Each takes the boto3.Session whose account and
region it works in. What they create carries the tags that they are given; teardown finds it by them.
"""

import base64
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from boto3 import Session
from botocore.exceptions import ClientError

from scones.checks import NotReady

RUNTIME = "python3.12"
HANDLER_FILE = "lambda_function.py"
POLL_SECONDS = 0.5
ROLE_SECONDS = 60
# From the cheapest up; any GPU kind trains the built-in algorithm, and any CPU kind serves it
TRAINING_KINDS = ("ml.g4dn.xlarge", "ml.g5.xlarge", "ml.p3.2xlarge")
HOSTING_KINDS = ("ml.m5.large", "ml.c5.large", "ml.m5.xlarge")

Created = TypeVar("Created")


class NoQuota(NotReady):
    """The account may use none of the instance kinds; the message says how to ask for one."""


def on_first_allowed(create: Callable[[str], Created], kinds: Sequence[str], use: str) -> Created:
    """What create(kind) returns for the first instance kind whose quota is not used up.

    use is what the quota is called by: "training job" or "endpoint". New accounts have a quota of 0 for most GPU
    kinds, which CreateTrainingJob and CreateEndpoint tell as ResourceLimitExceeded. Raises NoQuota.
    """
    for kind in kinds:
        try:
            return while_role_is_new(partial(create, kind))
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceLimitExceeded":
                raise
    raise NoQuota(
        f"The quotas of this account in this region allow none of {', '.join(kinds)}: in the Service Quotas console, "
        f"under Amazon SageMaker, ask for '{kinds[0]} for {use} usage', and run this cell again."
    )


def while_role_is_new(create: Callable[[], Created]) -> Created:
    """Calls create() until the service can assume the role: IAM needs some seconds to spread a new one."""
    deadline = time.monotonic() + ROLE_SECONDS
    while True:
        try:
            return create()
        except ClientError as error:
            if "assume" not in error.response["Error"]["Message"].lower() or time.monotonic() > deadline:
                raise
            time.sleep(2)


def deploy_function(
    session: Session,
    name: str,
    folder: str | Path,
    role_arn: str,
    environment: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> str:
    """Creates a Lambda function from its folder, or updates what differs; waits until it is active; returns its ARN."""
    client = session.client("lambda")
    package = _package(Path(folder))
    settings = {
        "Role": role_arn,
        "Runtime": RUNTIME,
        "Handler": "lambda_function.lambda_handler",
        "Environment": {"Variables": environment or {}},
        "Timeout": 30,
        "MemorySize": 256,
    }
    try:
        found = client.get_function(FunctionName=name)["Configuration"]
    except client.exceptions.ResourceNotFoundException:
        while_role_is_new(
            lambda: client.create_function(FunctionName=name, Code={"ZipFile": package}, Tags=tags or {}, **settings)
        )
    else:
        _update_function(client, found, package, settings)
        client.tag_resource(Resource=found["FunctionArn"], Tags=tags or {})
    client.get_waiter("function_active_v2").wait(FunctionName=name)
    return client.get_function(FunctionName=name)["Configuration"]["FunctionArn"]


def _update_function(client, found: dict, package: bytes, settings: dict[str, Any]) -> None:
    name = found["FunctionName"]
    if base64.b64encode(hashlib.sha256(package).digest()).decode() != found["CodeSha256"]:
        client.update_function_code(FunctionName=name, ZipFile=package)
        client.get_waiter("function_updated_v2").wait(FunctionName=name)
    if any({"Environment": {"Variables": {}}, **found}.get(key) != value for key, value in settings.items()):
        while_role_is_new(lambda: client.update_function_configuration(FunctionName=name, **settings))
        client.get_waiter("function_updated_v2").wait(FunctionName=name)


def _package(folder: Path) -> bytes:
    """The folder's handler as a zip, the same bytes for the same file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(HANDLER_FILE), (folder / HANDLER_FILE).read_bytes())
    return buffer.getvalue()


def deploy_state_machine(
    session: Session, name: str, definition_file: str | Path, role_arn: str, tags: dict[str, str] | None = None
) -> str:
    """Creates a standard state machine from its definition file, or updates the one of that name; returns its ARN."""
    client = session.client("stepfunctions")
    definition = Path(definition_file).read_text()
    tag_list = [{"key": key, "value": value} for key, value in (tags or {}).items()]
    arn = _find_state_machine(client, name)
    if arn:
        found = client.describe_state_machine(stateMachineArn=arn)
        if (found["definition"], found["roleArn"]) != (definition, role_arn):
            while_role_is_new(
                lambda: client.update_state_machine(stateMachineArn=arn, definition=definition, roleArn=role_arn)
            )
        client.tag_resource(resourceArn=arn, tags=tag_list)
        return arn
    created = while_role_is_new(
        lambda: client.create_state_machine(name=name, definition=definition, roleArn=role_arn, tags=tag_list)
    )
    return created["stateMachineArn"]


def _find_state_machine(client, name: str) -> str | None:
    pages = client.get_paginator("list_state_machines").paginate()
    machines = [machine for page in pages for machine in page["stateMachines"]]
    return next((machine["stateMachineArn"] for machine in machines if machine["name"] == name), None)


def run(session: Session, state_machine_arn: str, event, timeout: float = 900) -> dict:
    """Starts an execution, waits for its end, and returns its description; output and input are parsed.

    Raises TimeoutError after so many seconds; the execution goes on running then.
    """
    client = session.client("stepfunctions")
    arn = client.start_execution(stateMachineArn=state_machine_arn, input=json.dumps(event))["executionArn"]
    deadline = time.monotonic() + timeout
    while True:
        execution = client.describe_execution(executionArn=arn)
        if execution["status"] != "RUNNING":
            for part in ("input", "output"):
                if part in execution:
                    execution[part] = json.loads(execution[part])
            return execution
        if time.monotonic() > deadline:
            raise TimeoutError(f"{arn} still runs after {timeout} s; wait on, or stop it with stop_execution")
        time.sleep(POLL_SECONDS)


def map_results(session: Session, execution: dict) -> list[dict]:
    """What each image of a finished parallel execution ended in, from its output or from the result files in S3.

    Succeeded: what the chain answered. Failed: an object with Status, Error and Cause.
    """
    output = execution["output"]
    if isinstance(output, list):
        return output
    s3 = session.client("s3")
    details = output["ResultWriterDetails"]
    manifest = _read_json(s3, details["Bucket"], details["Key"])
    files = [file for found in manifest["ResultFiles"].values() for file in found]
    records = [record for file in files for record in _read_json(s3, details["Bucket"], file["Key"])]
    return [json.loads(record["Output"]) if record["Status"] == "SUCCEEDED" else record for record in records]


def _read_json(s3, bucket: str, key: str):
    return json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
