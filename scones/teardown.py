"""Deletes what a run created, found by its tags, and tells what could not be deleted.

Roles and EventBridge rules are looked through one by one, because the tagging API does not tell of the first on AWS and
of the second on the local AWS. Objects in S3 carry no tags: they are deleted by their prefix. A training job is stopped
first, and an endpoint that is being created is waited for.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

from boto3 import Session
from botocore.exceptions import BotoCoreError, ClientError

GONE = ("ResourceNotFound", "NoSuchEntity", "DoesNotExist", "NotFound", "Could not find", "NoSuchBucket")
UNDER_WAY = ("Creating", "Updating", "SystemUpdating", "RollingBack", "InProgress", "Stopping")
POLL_SECONDS = 2
PATIENCE_SECONDS = 1800
# What stands on something else goes before it
ORDER = (
    "events:rule",
    "sagemaker:endpoint",
    "sagemaker:endpoint-config",
    "sagemaker:model",
    "sagemaker:training-job",
    "states:stateMachine",
    "lambda:function",
    "sns",
    "iam:role",
)


class NotDeleted(Exception):
    """Something could not be deleted; the message says why."""


def tear_down(session: Session, run: str, bucket: str, prefixes: list[str]) -> list[str]:
    """Deletes all that is tagged run=<run>, and the objects below the prefixes; one text for each that it could not.

    What is gone already is no problem. The SageMaker log streams of the run's jobs and endpoints go too.
    """
    problems = []
    for arn in sorted(find(session, run), key=_rank):
        problems += _attempt(arn, partial(_delete, session, arn))
    for prefix in prefixes:
        problems += _attempt(f"s3://{bucket}/{prefix}", partial(delete_objects, session, bucket, prefix))
    return problems


def find(session: Session, run: str) -> list[str]:
    """The ARNs of everything that is tagged run=<run> and was not deleted yet."""
    pages = session.client("resourcegroupstaggingapi").get_paginator("get_resources")
    tagged = pages.paginate(TagFilters=[{"Key": "run", "Values": [run]}])
    arns = {mapping["ResourceARN"] for page in tagged for mapping in page["ResourceTagMappingList"]}
    return sorted(arns | set(_roles(session, run)) | set(_rules(session, run)))


def _roles(session: Session, run: str) -> Iterator[str]:
    iam = session.client("iam")
    for page in iam.get_paginator("list_roles").paginate():
        for role in page["Roles"]:
            if role["RoleName"].startswith("scones-"):
                tags = iam.list_role_tags(RoleName=role["RoleName"])["Tags"]
                if {"Key": "run", "Value": run} in tags:
                    yield role["Arn"]


def _rules(session: Session, run: str) -> Iterator[str]:
    events = session.client("events")
    for rule in events.list_rules(NamePrefix="scones-")["Rules"]:
        if {"Key": "run", "Value": run} in events.list_tags_for_resource(ResourceARN=rule["Arn"])["Tags"]:
            yield rule["Arn"]


def _kind(arn: str) -> str:
    """service:type, or the service alone where its ARNs name no type."""
    _, _, service, _, _, resource = arn.split(":", 5)
    separator = min((mark for mark in "/:" if mark in resource), key=resource.index, default="")
    return f"{service}:{resource.split(separator)[0]}" if separator else service


def _name(arn: str) -> str:
    return arn if _kind(arn) in ("states:stateMachine", "sns") else arn.replace("/", ":").rsplit(":", 1)[-1]


def _rank(arn: str) -> int:
    kind = _kind(arn)
    return ORDER.index(kind) if kind in ORDER else len(ORDER)


def _attempt(what: str, delete: Callable[[], None]) -> list[str]:
    try:
        delete()
    except (ClientError, BotoCoreError, NotDeleted) as error:
        if not any(word in str(error) for word in GONE):
            return [f"{what}: {error}"]
    return []


def _delete(session: Session, arn: str) -> None:
    """Raises NotDeleted for a kind of resource that no run creates."""
    if _kind(arn) not in DELETERS:
        raise NotDeleted(f"nothing here knows how to delete a {_kind(arn)}; delete it by hand")
    DELETERS[_kind(arn)](session, _name(arn))


def _delete_rule(session: Session, name: str) -> None:
    events = session.client("events")
    targets = [target["Id"] for target in events.list_targets_by_rule(Rule=name)["Targets"]]
    if targets:
        events.remove_targets(Rule=name, Ids=targets)
    events.delete_rule(Name=name)


def _wait_while_under_way(status: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := status()) in UNDER_WAY:
        if time.monotonic() > deadline:
            raise NotDeleted(f"is {found} for {PATIENCE_SECONDS} s already; try again later")
        time.sleep(POLL_SECONDS)


def _delete_endpoint(session: Session, name: str) -> None:
    client = session.client("sagemaker")
    _wait_while_under_way(lambda: client.describe_endpoint(EndpointName=name)["EndpointStatus"])
    client.delete_endpoint(EndpointName=name)
    client.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 5, "MaxAttempts": 360})
    _delete_log_group(session, f"/aws/sagemaker/Endpoints/{name}")


def _delete_training_job(session: Session, name: str) -> None:
    client = session.client("sagemaker")

    def status() -> str:
        return client.describe_training_job(TrainingJobName=name)["TrainingJobStatus"]

    if status() == "InProgress":
        client.stop_training_job(TrainingJobName=name)
    _wait_while_under_way(status)
    client.delete_training_job(TrainingJobName=name)
    logs = session.client("logs")
    group = "/aws/sagemaker/TrainingJobs"
    for stream in logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")["logStreams"]:
        logs.delete_log_stream(logGroupName=group, logStreamName=stream["logStreamName"])


def _delete_function(session: Session, name: str) -> None:
    session.client("lambda").delete_function(FunctionName=name)
    _delete_log_group(session, f"/aws/lambda/{name}")


def _delete_log_group(session: Session, name: str) -> None:
    session.client("logs").delete_log_group(logGroupName=name)


def _delete_role(session: Session, name: str) -> None:
    iam = session.client("iam")
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)


def delete_objects(session: Session, bucket: str, prefix: str) -> None:
    """Deletes every object below the prefix. Raises NotDeleted where some could not be."""
    s3 = session.client("s3")
    left: list[dict] = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        keys = [{"Key": found["Key"]} for found in page.get("Contents", [])]
        if keys:
            # An object that could not be deleted is no error of the call
            left += s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True}).get("Errors", [])
    if left:
        raise NotDeleted(f"{len(left)} objects are left, the first of them {left[0]['Key']}: {left[0]['Message']}")


DELETERS: dict[str, Callable[[Session, str], None]] = {
    "events:rule": _delete_rule,
    "sagemaker:endpoint": _delete_endpoint,
    "sagemaker:endpoint-config": lambda session, name: session.client("sagemaker").delete_endpoint_config(
        EndpointConfigName=name
    ),
    "sagemaker:model": lambda session, name: session.client("sagemaker").delete_model(ModelName=name),
    "sagemaker:training-job": _delete_training_job,
    "states:stateMachine": lambda session, arn: session.client("stepfunctions").delete_state_machine(
        stateMachineArn=arn
    ),
    "lambda:function": _delete_function,
    "sns": lambda session, arn: session.client("sns").delete_topic(TopicArn=arn),
    "iam:role": _delete_role,
}
