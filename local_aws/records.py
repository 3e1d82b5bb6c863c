"""moto's records, each reached through one small function, so that a new moto breaks one place and a named test.

moto is pinned exactly in requirements.txt because of this module.
"""

from collections.abc import Callable

from moto.awslambda.exceptions import UnknownFunctionException
from moto.awslambda.models import LambdaFunction, lambda_backends
from moto.events.models import events_backends
from moto.iam.models import iam_backends
from moto.logs.models import logs_backends
from moto.sagemaker.models import FakeEndpointConfig, sagemaker_backends
from moto.stepfunctions.parser.models import stepfunctions_parser_backends
from moto.sts.models import sts_backends

ACCOUNT = "123456789012"


def sagemaker(region: str):
    """moto's SageMaker backend of a region: .training_jobs, .models, .endpoint_configs, .endpoints by name."""
    return sagemaker_backends[ACCOUNT][region]


def function(region: str, name: str, qualifier: str | None):
    """moto's record of a Lambda function's version or alias, of its latest state without one; None if there is none."""
    try:
        return lambda_backends[ACCOUNT][region].get_function(name, qualifier)
    except UnknownFunctionException:
        return None


def step_functions(region: str):
    """moto's Step Functions backend of a region: .state_machines, each with .versions and .aliases."""
    return stepfunctions_parser_backends[ACCOUNT][region]


def run_triggered_functions_with(run: Callable[[str, str, bytes], tuple[bytes, str | None]]) -> None:
    """Has moto's triggers (S3, SNS, SQS, EventBridge ...) call run(ARN, region, event) -> (payload, error or None)."""

    def invoke(record: LambdaFunction, event: str, request_headers: dict, response_headers: dict) -> bytes:
        payload, error = run(record.function_arn, record.region, event.encode())
        if error:
            response_headers["x-amz-function-error"] = error
        return payload

    LambdaFunction.invoke = invoke


def give_endpoint_configs_one_arn() -> None:
    """moto keeps that ARN in a tuple, whose text the tagging API would answer with."""
    FakeEndpointConfig.arn = property(lambda config: config.endpoint_config_arn, lambda config, _: None)


def has_access_key(access_key_id: str) -> bool:
    """Whether this server's IAM or STS issued that key."""
    return access_key_id in iam_backends[ACCOUNT]["aws"].access_keys


def assume_role(role_arn: str, session_name: str, region: str) -> dict[str, str]:
    """The environment variables of a session of that role, as STS would issue it."""
    session = sts_backends[ACCOUNT]["aws"].assume_role(
        region_name=region, role_session_name=session_name, role_arn=role_arn, policy="", duration=43200, external_id=""
    )
    return {
        "AWS_ACCESS_KEY_ID": session.access_key_id,
        "AWS_SECRET_ACCESS_KEY": session.secret_access_key,
        "AWS_SESSION_TOKEN": session.session_token,
    }


def put_log_lines(region: str, group: str, stream: str, lines: list[tuple[int, str]]) -> None:
    """Appends (milliseconds since 1970, text) lines to a CloudWatch log stream, made where it does not exist."""
    logs = logs_backends[ACCOUNT][region]
    logs.ensure_log_group(group)
    logs.ensure_log_stream(group, stream)
    logs.put_log_events(group, stream, [{"timestamp": moment, "message": text} for moment, text in lines])


def event_rules(region: str) -> list:
    """The enabled rules of EventBridge's default bus: .event_pattern, .targets, .send_to_targets(event)."""
    rules = events_backends[ACCOUNT][region].event_buses["default"].rules.values()
    return [rule for rule in rules if rule.state == "ENABLED"]
