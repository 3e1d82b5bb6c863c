"""What each role may do: allowed on its own resources, denied on a neighbour's, and nothing beside it."""

import fnmatch
import json
import re

import boto3
import botocore.session
import pytest

from scones import roles

PLACE = roles.Place("aws", "eu-west-1", "111122223333")
BUCKET, PREFIX = "images-of-ours", "scones-1/"
ENDPOINT, MACHINE = "scones-unlimited-classifier", "scones-many-images"
FUNCTIONS = ["ImageDataSerialize", "ImageDataInference", "ImageDataPassThreshold"]
AT = "eu-west-1:111122223333"
# IAM's actions on S3 objects are named for the object, not for the operation
OTHER_NAMES = {
    "s3:ListBucket": "ListObjectsV2",
    "s3:ListMultipartUploadParts": "ListParts",
    "lambda:InvokeFunction": "Invoke",
}
SERVICES = {"states": "stepfunctions", "sagemaker": "sagemaker-runtime"}
ROLES = {
    "serialize": roles.serialize_statements(PLACE, BUCKET, PREFIX),
    "inference": roles.inference_statements(PLACE, ENDPOINT),
    "logs": roles.log_statements(PLACE, "ImageDataSerialize"),
    "states": roles.states_statements(PLACE, FUNCTIONS, MACHINE, BUCKET, PREFIX),
    "sagemaker": roles.sagemaker_statements(PLACE, BUCKET, PREFIX),
}


def is_allowed(role: str, action: str, resource: str, context: dict[str, str] | None = None) -> bool:
    """IAM's evaluation of Allow statements with the one operator that these policies use."""
    for statement in ROLES[role]:
        conditions = statement.get("Condition", {})
        assert set(conditions) <= {"StringLike"}
        wanted = conditions.get("StringLike", {})
        if (
            action in statement["Action"]
            and any(fnmatch.fnmatchcase(resource, pattern) for pattern in statement["Resource"])
            and all(
                key in (context or {}) and any(fnmatch.fnmatchcase(context[key], pattern) for pattern in patterns)
                for key, patterns in wanted.items()
            )
        ):
            return True
    return False


IMAGE = f"arn:aws:s3:::{BUCKET}/{PREFIX}validation/bicycle.png"
MAY = [
    ("serialize", "s3:GetObject", IMAGE),
    ("inference", "sagemaker:InvokeEndpoint", f"arn:aws:sagemaker:{AT}:endpoint/{ENDPOINT}"),
    ("logs", "logs:PutLogEvents", f"arn:aws:logs:{AT}:log-group:/aws/lambda/ImageDataSerialize:log-stream:one"),
    *[("states", "lambda:InvokeFunction", f"arn:aws:lambda:{AT}:function:{name}") for name in FUNCTIONS],
    ("states", "states:StartExecution", f"arn:aws:states:{AT}:stateMachine:{MACHINE}"),
    ("states", "states:DescribeExecution", f"arn:aws:states:{AT}:execution:{MACHINE}/Objects:one"),
    ("states", "states:StopExecution", f"arn:aws:states:{AT}:execution:{MACHINE}:one"),
    ("states", "s3:PutObject", f"arn:aws:s3:::{BUCKET}/workflow_results/one/manifest.json"),
    ("sagemaker", "s3:GetObject", f"arn:aws:s3:::{BUCKET}/{PREFIX}train/bicycle.png"),
    ("sagemaker", "s3:PutObject", f"arn:aws:s3:::{BUCKET}/{PREFIX}models/model.tar.gz"),
    ("sagemaker", "ecr:BatchGetImage", "arn:aws:ecr:eu-west-1:685385470294:repository/image-classification"),
    ("sagemaker", "ecr:GetAuthorizationToken", "*"),
    ("sagemaker", "logs:CreateLogStream", f"arn:aws:logs:{AT}:log-group:/aws/sagemaker/TrainingJobs:log-stream:one"),
]
MAY_NOT = [
    ("serialize", "s3:GetObject", f"arn:aws:s3:::{BUCKET}/another-run/bicycle.png"),
    ("serialize", "s3:GetObject", f"arn:aws:s3:::another-bucket/{PREFIX}bicycle.png"),
    ("serialize", "s3:PutObject", IMAGE),
    ("serialize", "s3:ListBucket", f"arn:aws:s3:::{BUCKET}"),
    ("inference", "sagemaker:InvokeEndpoint", f"arn:aws:sagemaker:{AT}:endpoint/another"),
    ("inference", "s3:GetObject", IMAGE),
    ("logs", "logs:PutLogEvents", f"arn:aws:logs:{AT}:log-group:/aws/lambda/Another:log-stream:one"),
    ("states", "lambda:InvokeFunction", f"arn:aws:lambda:{AT}:function:Another"),
    ("states", "lambda:InvokeFunction", f"arn:aws:lambda:{AT}:function:ImageDataSerializeToo"),
    ("states", "states:StartExecution", f"arn:aws:states:{AT}:stateMachine:another"),
    ("states", "states:StopExecution", f"arn:aws:states:{AT}:execution:another:one"),
    ("states", "s3:PutObject", IMAGE),
    ("states", "s3:GetObject", IMAGE),
    ("sagemaker", "s3:GetObject", f"arn:aws:s3:::{BUCKET}/another-run/train/bicycle.png"),
    ("sagemaker", "s3:DeleteObject", IMAGE),
    ("sagemaker", "ecr:BatchGetImage", f"arn:aws:ecr:{AT}:repository/another"),
    ("sagemaker", "logs:PutLogEvents", f"arn:aws:logs:{AT}:log-group:/aws/lambda/Another:log-stream:one"),
]


# Everything that a role may do at all
ACTIONS = {
    "serialize": {"s3:GetObject"},
    "inference": {"sagemaker:InvokeEndpoint"},
    "logs": {"logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"},
    "states": {
        "lambda:InvokeFunction",
        "states:StartExecution",
        "states:DescribeExecution",
        "states:StopExecution",
        "s3:ListBucket",
        "s3:GetObject",
        "s3:PutObject",
        "s3:ListMultipartUploadParts",
        "s3:AbortMultipartUpload",
    },
    "sagemaker": {
        "s3:ListBucket",
        "s3:GetObject",
        "s3:PutObject",
        "ecr:GetAuthorizationToken",
        "ecr:BatchCheckLayerAvailability",
        "ecr:GetDownloadUrlForLayer",
        "ecr:BatchGetImage",
        "logs:CreateLogGroup",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "logs:DescribeLogStreams",
        "cloudwatch:PutMetricData",
    },
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_these_actions_and_no_other(role):
    assert {action for statement in ROLES[role] for action in statement["Action"]} == ACTIONS[role]
    assert {statement["Effect"] for statement in ROLES[role]} == {"Allow"}


@pytest.mark.parametrize(("role", "action", "resource"), MAY)
def test_a_role_may_do_what_its_part_does(role, action, resource):
    assert is_allowed(role, action, resource)


@pytest.mark.parametrize(("role", "action", "resource"), MAY_NOT)
def test_a_role_may_not_touch_what_is_not_its_own(role, action, resource):
    assert not is_allowed(role, action, resource)


@pytest.mark.parametrize("role", ["states", "sagemaker"])
def test_a_bucket_is_listed_below_the_run_s_prefix_alone(role):
    bucket = f"arn:aws:s3:::{BUCKET}"
    assert is_allowed(role, "s3:ListBucket", bucket, {"s3:prefix": f"{PREFIX}validation/"})
    assert not is_allowed(role, "s3:ListBucket", bucket, {"s3:prefix": "another-run/"})
    assert not is_allowed(role, "s3:ListBucket", bucket)


def test_metrics_go_to_sagemaker_s_own_namespaces_alone():
    assert is_allowed(
        "sagemaker", "cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": "/aws/sagemaker/Endpoints"}
    )
    assert not is_allowed("sagemaker", "cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": "Billing"})


@pytest.mark.parametrize("role", ROLES)
def test_a_statement_is_on_all_resources_only_where_the_action_knows_none(role):
    for statement in ROLES[role]:
        if "*" in statement["Resource"]:
            assert set(statement["Action"]) <= {"ecr:GetAuthorizationToken", "cloudwatch:PutMetricData"}


@pytest.mark.parametrize(
    "action", sorted({action for role in ROLES.values() for statement in role for action in statement["Action"]})
)
def test_each_action_is_an_operation_of_its_service(action):
    service, name = action.split(":")
    model = botocore.session.get_session().get_service_model(SERVICES.get(service, service))
    assert OTHER_NAMES.get(action, name) in model.operation_names


def test_arns_are_of_the_partition_and_region_of_the_session():
    statements = roles.inference_statements(roles.Place("aws-cn", "cn-north-1", "111122223333"), "one")
    assert statements[0]["Resource"] == ["arn:aws-cn:sagemaker:cn-north-1:111122223333:endpoint/one"]
    assert roles.Place("aws-cn", "cn-north-1", "1").bucket("b", "p/*") == "arn:aws-cn:s3:::b/p/*"


def test_roles_are_made_once_and_made_again_the_same(local):
    session = boto3.Session()
    functions = dict(zip(("serialize", "inference", "pass_threshold"), FUNCTIONS, strict=True))
    first = roles.make_roles(session, functions, ENDPOINT, MACHINE, BUCKET, PREFIX, {"run": "roles-1"})
    again = roles.make_roles(session, functions, ENDPOINT, MACHINE, BUCKET, PREFIX, {"run": "roles-2"})
    assert again == first
    assert set(first) == {"serialize", "inference", "pass_threshold", "states"}
    iam = boto3.client("iam")
    policy = iam.get_role_policy(RoleName="scones-serialize", PolicyName=roles.POLICY_NAME)["PolicyDocument"]
    assert [action for statement in policy["Statement"] for action in statement["Action"]] == [
        "logs:CreateLogGroup",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "s3:GetObject",
    ]
    trust = iam.get_role(RoleName="scones-states")["Role"]["AssumeRolePolicyDocument"]
    assert trust["Statement"][0]["Principal"] == {"Service": "states.amazonaws.com"}
    assert {"Key": "run", "Value": "roles-2"} in iam.list_role_tags(RoleName="scones-states")["Tags"]


def test_a_role_of_the_user_s_own_is_taken_as_it_is_and_not_made(local):
    session = boto3.Session()
    functions = dict(zip(("serialize", "inference", "pass_threshold"), FUNCTIONS, strict=True))
    iam = boto3.client("iam")
    before = {role["RoleName"] for role in iam.list_roles()["Roles"]}
    mine = dict.fromkeys([*functions, "states"], "arn:aws:iam::123456789012:role/mine")
    assert roles.make_roles(session, functions, ENDPOINT, MACHINE, BUCKET, PREFIX, {}, given=mine) == mine
    assert {role["RoleName"] for role in iam.list_roles()["Roles"]} == before


def test_sagemaker_s_role_is_trusted_to_sagemaker_alone(local):
    arn = roles.make_sagemaker_role(boto3.Session(), BUCKET, PREFIX, {"run": "roles-3"})
    assert re.fullmatch(r"arn:aws:iam::\d{12}:role/scones-sagemaker", arn)
    document = boto3.client("iam").get_role(RoleName="scones-sagemaker")["Role"]["AssumeRolePolicyDocument"]
    assert json.dumps(document).count("amazonaws.com") == 1
    assert document["Statement"][0]["Principal"] == {"Service": "sagemaker.amazonaws.com"}
