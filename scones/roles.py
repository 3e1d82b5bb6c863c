"""The roles of a run: for each part the least that it needs, on its own resources.

Sources: the Service Authorization Reference for which actions take which resources, the SageMaker guide's page on
execution roles, and the Step Functions guide's page on policies for Distributed Maps. What is kept here is enforced by
AWS alone: the local AWS keeps policies and does not apply them.
"""

import json
from dataclasses import dataclass

from boto3 import Session

POLICY_NAME = "what-it-needs"
RESULTS_PREFIX = "workflow_results"  # where parallel_state_machine_definition.json writes


@dataclass(frozen=True)
class Place:
    """The partition, region and account that a session works in, as ARNs name them."""

    partition: str
    region: str
    account: str

    @classmethod
    def of(cls, session: Session) -> "Place":
        identity = session.client("sts").get_caller_identity()
        return cls(identity["Arn"].split(":")[1], session.region_name, identity["Account"])

    def arn(self, service: str, resource: str) -> str:
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    def bucket(self, bucket: str, keys: str = "") -> str:
        return f"arn:{self.partition}:s3:::{bucket}{keys and '/'}{keys}"


def allow(actions: list[str], *resources: str, **conditions) -> dict:
    """A policy statement; a condition is Operator={key: value}."""
    statement: dict = {"Effect": "Allow", "Action": actions, "Resource": list(resources)}
    return {**statement, "Condition": conditions} if conditions else statement


def list_prefix(place: Place, bucket: str, prefix: str) -> dict:
    """To list what is below a prefix and nothing else."""
    return allow(["s3:ListBucket"], place.bucket(bucket), StringLike={"s3:prefix": [f"{prefix}*"]})


def sagemaker_statements(place: Place, bucket: str, prefix: str) -> list[dict]:
    """For training and hosting: the run's channels, model and captures, the algorithm's image, logs and metrics."""
    return [
        list_prefix(place, bucket, prefix),
        allow(["s3:GetObject", "s3:PutObject"], place.bucket(bucket, f"{prefix}*")),
        # The algorithms' images are in accounts of AWS's own, another one in each region
        allow(
            ["ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage"],
            f"arn:{place.partition}:ecr:{place.region}:*:repository/image-classification",
        ),
        allow(["ecr:GetAuthorizationToken"], "*"),
        allow(
            ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"],
            place.arn("logs", "log-group:/aws/sagemaker/*"),
        ),
        allow(
            ["cloudwatch:PutMetricData"],
            "*",
            StringLike={"cloudwatch:namespace": ["/aws/sagemaker/*", "aws/sagemaker/*"]},
        ),
    ]


def log_statements(place: Place, function: str) -> list[dict]:
    """For a function: its own log group."""
    group = place.arn("logs", f"log-group:/aws/lambda/{function}")
    return [allow(["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"], group, f"{group}:*")]


def serialize_statements(place: Place, bucket: str, prefix: str) -> list[dict]:
    """For ImageDataSerialize: to read the images below one prefix."""
    return [allow(["s3:GetObject"], place.bucket(bucket, f"{prefix}*"))]


def inference_statements(place: Place, endpoint: str) -> list[dict]:
    """For ImageDataInference: to invoke one endpoint."""
    return [allow(["sagemaker:InvokeEndpoint"], place.arn("sagemaker", f"endpoint/{endpoint}"))]


def states_statements(place: Place, functions: list[str], machine: str, bucket: str, prefix: str) -> list[dict]:
    """For both state machines: the functions; for the parallel one its child executions, its images, its results."""
    return [
        allow(["lambda:InvokeFunction"], *[place.arn("lambda", f"function:{name}") for name in functions]),
        allow(["states:StartExecution"], place.arn("states", f"stateMachine:{machine}")),
        allow(
            ["states:DescribeExecution", "states:StopExecution"],
            place.arn("states", f"execution:{machine}:*"),
            place.arn("states", f"execution:{machine}/*"),
        ),
        list_prefix(place, bucket, prefix),
        allow(
            ["s3:GetObject", "s3:PutObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"],
            place.bucket(bucket, f"{RESULTS_PREFIX}/*"),
        ),
    ]


def deploy_role(session: Session, name: str, service: str, statements: list[dict], tags: dict[str, str]) -> str:
    """Creates or updates a role that this service may assume and that allows the statements; returns its ARN."""
    iam = session.client("iam")
    trust = _document([{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}])
    tag_list = [{"Key": key, "Value": value} for key, value in tags.items()]
    try:
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust, Tags=tag_list)["Role"]["Arn"]
        iam.get_waiter("role_exists").wait(RoleName=name)
    except iam.exceptions.EntityAlreadyExistsException:
        arn = iam.get_role(RoleName=name)["Role"]["Arn"]
        iam.update_assume_role_policy(RoleName=name, PolicyDocument=trust)
        iam.tag_role(RoleName=name, Tags=tag_list)
    iam.put_role_policy(RoleName=name, PolicyName=POLICY_NAME, PolicyDocument=_document(statements))
    return arn


def _document(statements: list[dict]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def make_sagemaker_role(session: Session, bucket: str, prefix: str, tags: dict[str, str]) -> str:
    """SageMaker's execution role for what is below that prefix; returns its ARN."""
    statements = sagemaker_statements(Place.of(session), bucket, prefix)
    return deploy_role(session, "scones-sagemaker", "sagemaker.amazonaws.com", statements, tags)


def make_roles(
    session: Session,
    functions: dict[str, str],
    endpoint: str,
    machine: str,
    bucket: str,
    prefix: str,
    tags: dict[str, str],
    given: dict[str, str] | None = None,
) -> dict[str, str]:
    """The roles of the functions and of the state machines; the ARNs by part: serialize, inference, ..., states.

    functions: the name of each part's function. machine: the parallel state machine's name. prefix: where the images
    are, "name/" say, in the bucket. given: the ARNs of roles of your own by part; these are taken as they are.
    """
    place = Place.of(session)
    needs = {
        "serialize": serialize_statements(place, bucket, prefix),
        "inference": inference_statements(place, endpoint),
        "pass_threshold": [],
    }
    wanted = {
        part: ("lambda.amazonaws.com", [*log_statements(place, name), *needs[part]]) for part, name in functions.items()
    }
    machines = states_statements(place, list(functions.values()), machine, bucket, prefix)
    wanted["states"] = ("states.amazonaws.com", machines)
    arns = dict(given or {})
    for part, (service, statements) in wanted.items():
        if part not in arns:
            arns[part] = deploy_role(session, f"scones-{part}", service, statements, tags)
    return arns
