"""Deploys the functions and the state machines, runs them, and takes it all down again.

Plain functions over boto3 that work on AWS and on the local AWS alike. Each takes the boto3.Session whose account and
region it works in. What they create carries the tag project=scones-unlimited.
"""

import io
import json
import time
import zipfile
from contextlib import suppress
from pathlib import Path

from boto3 import Session
from botocore.exceptions import ClientError

TAGS = {"project": "scones-unlimited"}
RUNTIME = "python3.12"
HANDLER_FILE = "lambda_function.py"
POLL_SECONDS = 0.5
ROLE_SECONDS = 60


def deploy_function(
    session: Session, name: str, folder: str | Path, role_arn: str, environment: dict[str, str] | None = None
) -> str:
    """Creates or updates a Lambda function from its folder, waits until it is active, and returns its ARN."""
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
        client.get_function(FunctionName=name)
    except client.exceptions.ResourceNotFoundException:
        _while_role_is_new(
            lambda: client.create_function(FunctionName=name, Code={"ZipFile": package}, Tags=TAGS, **settings)
        )
    else:
        client.update_function_code(FunctionName=name, ZipFile=package)
        client.get_waiter("function_updated_v2").wait(FunctionName=name)
        client.update_function_configuration(FunctionName=name, **settings)
        client.get_waiter("function_updated_v2").wait(FunctionName=name)
    client.get_waiter("function_active_v2").wait(FunctionName=name)
    return client.get_function(FunctionName=name)["Configuration"]["FunctionArn"]


def _package(folder: Path) -> bytes:
    """The folder's handler as a zip, the same bytes for the same file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(HANDLER_FILE), (folder / HANDLER_FILE).read_bytes())
    return buffer.getvalue()


def _while_role_is_new(create):
    """Calls create() until Lambda or Step Functions can assume the role: IAM needs some seconds to spread a new one."""
    deadline = time.monotonic() + ROLE_SECONDS
    while True:
        try:
            return create()
        except ClientError as error:
            message = error.response["Error"]["Message"]
            if "assume" not in message.lower() or time.monotonic() > deadline:
                raise
            time.sleep(2)


def deploy_state_machine(session: Session, name: str, definition_file: str | Path, role_arn: str) -> str:
    """Creates or updates a standard state machine from its definition file; returns its ARN."""
    client = session.client("stepfunctions")
    definition = Path(definition_file).read_text()
    arn = _find_state_machine(client, name)
    if arn:
        client.update_state_machine(stateMachineArn=arn, definition=definition, roleArn=role_arn)
        return arn
    tags = [{"key": key, "value": value} for key, value in TAGS.items()]
    created = _while_role_is_new(
        lambda: client.create_state_machine(name=name, definition=definition, roleArn=role_arn, tags=tags)
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


def deploy_role(session: Session, name: str, service: str, statements: list[dict]) -> str:
    """Creates or updates a role that this service may assume and that allows the statements; returns its ARN."""
    iam = session.client("iam")
    trust = _document([{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}])
    tags = [{"Key": key, "Value": value} for key, value in TAGS.items()]
    try:
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust, Tags=tags)["Role"]["Arn"]
    except iam.exceptions.EntityAlreadyExistsException:
        arn = iam.get_role(RoleName=name)["Role"]["Arn"]
    iam.put_role_policy(RoleName=name, PolicyName="what-it-needs", PolicyDocument=_document(statements))
    return arn


def _document(statements: list[dict]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _allow(actions: list[str], *resources: str) -> dict:
    return {"Effect": "Allow", "Action": actions, "Resource": list(resources)}


def make_roles(session: Session, prefix: str, bucket: str, endpoint_name: str, functions: list[str]) -> dict[str, str]:
    """The least privilege that each part needs; the role ARNs by part: serialize, inference, pass_threshold, states.

    The roles are named prefix-part. The state machines' role may start the children of its own Distributed Maps.
    """
    account = session.client("sts").get_caller_identity()["Account"]
    partition = "aws"
    at = f"arn:{partition}:{{}}:{session.region_name}:{account}"
    logs = _allow(
        ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"],
        f"{at.format('logs')}:log-group:/aws/lambda/*",
    )
    listing = _allow(["s3:ListBucket"], f"arn:{partition}:s3:::{bucket}")
    reading = _allow(["s3:GetObject"], f"arn:{partition}:s3:::{bucket}/*")
    inferring = _allow(["sagemaker:InvokeEndpoint"], f"{at.format('sagemaker')}:endpoint/{endpoint_name}")
    chaining = [
        _allow(["lambda:InvokeFunction"], *[f"{at.format('lambda')}:function:{name}" for name in functions]),
        _allow(["states:StartExecution"], f"{at.format('states')}:stateMachine:{prefix}-*"),
        _allow(["states:DescribeExecution", "states:StopExecution"], f"{at.format('states')}:execution:{prefix}-*"),
        listing,
        _allow(["s3:GetObject", "s3:PutObject"], f"arn:{partition}:s3:::{bucket}/*"),
    ]
    return {
        "serialize": deploy_role(session, f"{prefix}-serialize", "lambda.amazonaws.com", [logs, listing, reading]),
        "inference": deploy_role(session, f"{prefix}-inference", "lambda.amazonaws.com", [logs, inferring]),
        "pass_threshold": deploy_role(session, f"{prefix}-pass_threshold", "lambda.amazonaws.com", [logs]),
        "states": deploy_role(session, f"{prefix}-states", "states.amazonaws.com", chaining),
    }


def tear_down(session: Session, functions: list[str], state_machine_arns: list[str], role_arns: list[str]) -> list[str]:
    """Deletes these functions, state machines and roles; returns one text for each that could not be deleted.

    What is gone already is no problem.
    """
    steps = [
        *[(arn, lambda arn=arn: _delete_state_machine(session, arn)) for arn in state_machine_arns],
        *[(name, lambda name=name: _delete_function(session, name)) for name in functions],
        *[(arn, lambda arn=arn: _delete_role(session, arn.rsplit("/", 1)[-1])) for arn in role_arns],
    ]
    problems = []
    for what, delete in steps:
        try:
            delete()
        except ClientError as error:
            if error.response["Error"]["Code"] not in (
                "ResourceNotFoundException",
                "NoSuchEntity",
                "StateMachineDoesNotExist",
            ):
                problems.append(f"{what}: {error}")
    return problems


def _delete_state_machine(session: Session, arn: str) -> None:
    session.client("stepfunctions").delete_state_machine(stateMachineArn=arn)


def _delete_function(session: Session, name: str) -> None:
    session.client("lambda").delete_function(FunctionName=name)
    logs = session.client("logs")
    with suppress(logs.exceptions.ResourceNotFoundException):
        logs.delete_log_group(logGroupName=f"/aws/lambda/{name}")


def _delete_role(session: Session, name: str) -> None:
    iam = session.client("iam")
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)
