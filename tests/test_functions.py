"""Lambda functions, invoked through boto3: what AWS answers to good and bad handlers, and what is left behind."""

import base64
import io
import itertools
import json
import os
import re
import signal
import stat
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from conftest import children_of, is_alive

import local_aws
from local_aws.functions.function import FunctionVersion
from local_aws.functions.invocation import Invocation, new_trace
from local_aws.functions.outcome import PathsOfAws
from local_aws.functions.package import UNPACKED_LIMIT, BadPackage, TaskRoots
from local_aws.functions.pool import Pool
from local_aws.functions.worker import Starter, Worker, new_starter
from local_aws.json_protocol import ServiceError

HANDLER = "def lambda_handler(event, context):\n"
ECHO = f"{HANDLER}    return event\n"
WHOAMI = f"import os\n{HANDLER}    return os.getpid()\n"
SLEEP = f"import time\n{HANDLER}    time.sleep(event)\n    return event\n"
RESPONSE_LIMIT = 6291556
ACCOUNT = "123456789012"
NUMBERS = itertools.count()


def zip_of(files: dict[str, str]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in files.items():
            file.writestr(name, text)
    return archive.getvalue()


@pytest.fixture
def client(local):
    config = Config(retries={"total_max_attempts": 1}, max_pool_connections=300, read_timeout=120)
    return boto3.client("lambda", config=config)


@pytest.fixture
def create(client, local):
    """create(source, **settings) makes a function of that source and returns its name; it is deleted after the test."""
    names = set()

    def create_function(source: str | dict[str, str], **settings) -> str:
        files = source if isinstance(source, dict) else {"lambda_function.py": source}
        options = {
            "FunctionName": f"function-{next(NUMBERS)}",
            "Runtime": "python3.12",
            "Handler": "lambda_function.lambda_handler",
            "Role": local.environment["SAGEMAKER_ROLE"],
            "Timeout": 20,
            **settings,
        }
        client.create_function(Code={"ZipFile": zip_of(files)}, **options)
        names.add(options["FunctionName"])
        return options["FunctionName"]

    yield create_function
    for name in names:
        client.delete_function(FunctionName=name)


def result_of(client, name: str, event: object = None, **options):
    """The handler's result; fails where the function did."""
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event), **options)
    payload = json.load(answer["Payload"])
    assert "FunctionError" not in answer, payload
    return payload


def error_of(client, name: str, event: object = None) -> dict:
    """The error that a function ended in."""
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event))
    assert answer["FunctionError"] == "Unhandled"
    return json.load(answer["Payload"])


def refusal_of(client, **arguments) -> dict:
    """What the service answers to an Invoke that it refuses: Code, Message, status."""
    with pytest.raises(ClientError) as refusal:
        client.invoke(**arguments)
    response = refusal.value.response
    return {**response["Error"], "status": response["ResponseMetadata"]["HTTPStatusCode"]}


def log_of(name: str, contains: str, timeout: float = 5) -> list[str]:
    """The lines in /aws/lambda/<name>, once one of them contains that text."""
    logs = boto3.client("logs")
    deadline = time.monotonic() + timeout
    lines: list[str] = []
    while time.monotonic() < deadline:
        try:
            events = logs.filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
        except logs.exceptions.ResourceNotFoundException:
            events = []
        lines = [event["message"] for event in events]
        if any(contains in line for line in lines):
            return lines
        time.sleep(0.05)
    raise AssertionError(f"{contains!r} is not in the log within {timeout} s: {lines}")


def wait_until(condition, timeout: float = 10) -> bool:
    deadline = time.monotonic() + timeout
    while not (done := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(done)


# What a handler gives and gets


def test_a_handler_s_result_comes_back(client, create):
    answer = client.invoke(FunctionName=create(ECHO), Payload=json.dumps({"k": 1}))
    assert json.load(answer["Payload"]) == {"k": 1}
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert "FunctionError" not in answer and "LogResult" not in answer


def test_a_handler_called_without_a_payload_gets_an_empty_object(client, create):
    assert json.load(client.invoke(FunctionName=create(ECHO))["Payload"]) == {}


@pytest.mark.parametrize("event", ["text", '{"k": 1}', [1, None], 1.5, "é✓", {"deep": [{"k": "v"}]}, False])
def test_any_json_goes_through_unchanged(client, create, event):
    assert result_of(client, create(ECHO), event) == event


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("b'raw'", b"raw"),
        ("{'a': b'x'}", b'{"a": "x"}'),
        ("{'price': decimal.Decimal('1.10')}", b'{"price": 1.10}'),
        ("'é✓'", '"é✓"'.encode()),
        ("None", b"null"),
        ("float('nan')", b"NaN"),
    ],
)
def test_results_are_marshalled_as_by_aws_s_runtime(client, create, expression, result):
    answer = client.invoke(FunctionName=create(f"import decimal\n{HANDLER}    return {expression}\n"))
    assert (answer["Payload"].read(), answer.get("FunctionError")) == (result, None)


@pytest.mark.parametrize("expression", ["{1, 2}", "datetime.datetime.now()", "object()"])
def test_a_result_that_is_not_json_is_a_MarshalError(client, create, expression):
    error = error_of(client, create(f"import datetime\n{HANDLER}    return {expression}\n"))
    assert error["errorType"] == "Runtime.MarshalError"
    assert error["errorMessage"].startswith("Unable to marshal response: ")


def test_the_largest_response_passes_and_one_byte_more_does_not(client, create):
    name = create(f"{HANDLER}    return 'x' * (event - 2)\n")
    assert len(result_of(client, name, RESPONSE_LIMIT)) == RESPONSE_LIMIT - 2
    assert error_of(client, name, RESPONSE_LIMIT + 1) == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
    }


def test_the_context_tells_the_handler_who_it_is(client, create):
    name = create(
        f"import time\n{HANDLER}    time.sleep(0.1)\n    c = context\n"
        "    return [c.function_name, c.function_version, c.memory_limit_in_mb, c.invoked_function_arn,\n"
        "            c.log_group_name, c.log_stream_name, c.aws_request_id, c.get_remaining_time_in_millis(),\n"
        "            c.client_context.custom if c.client_context else None]\n",
        MemorySize=256,
    )
    custom = "eyJjdXN0b20iOiB7ImsiOiAxfX0="  # {"custom": {"k": 1}}
    answer = client.invoke(FunctionName=name, ClientContext=custom)
    *told, remaining, client_context = json.load(answer["Payload"])
    arn = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:{name}"
    assert told[:5] == [name, "$LATEST", "256", arn, f"/aws/lambda/{name}"]
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", told[5])
    assert told[6] == answer["ResponseMetadata"]["RequestId"]
    assert 15_000 < remaining < 19_950
    assert client_context == {"k": 1}


def test_the_environment_is_the_function_s_and_holds_none_of_the_server_s_keys(client, create, local):
    source = f"import os\n{HANDLER}    return dict(os.environ)\n"
    variables = {"THRESHOLD": "0.9", "AWS_LAMBDA_FUNCTION_NAME": "a lie"}
    name = create(source, Environment={"Variables": variables})
    environment = result_of(client, name)
    assert environment["THRESHOLD"] == "0.9"
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == name
    assert environment["AWS_ENDPOINT_URL"] == local.url
    assert environment["AWS_REGION"] == environment["AWS_DEFAULT_REGION"] == "us-east-1"
    assert environment["AWS_EXECUTION_ENV"] == "AWS_Lambda_python3.12"
    secrets = {local.environment["AWS_ACCESS_KEY_ID"], local.environment["AWS_SECRET_ACCESS_KEY"]}
    assert not secrets & set(environment.values())


def test_the_worker_s_process_and_its_parent_were_started_without_the_server_s_keys(client, create, local):
    source = (
        f"import os\n{HANDLER}"
        "    return [open(f'/proc/{pid}/environ').read() for pid in (os.getpid(), os.getppid())]\n"
    )
    if not os.path.exists("/proc/self/environ"):
        pytest.skip("there is no /proc here")
    for environment in result_of(client, create(source)):
        assert local.environment["AWS_ACCESS_KEY_ID"] not in environment


def test_a_handler_acts_in_its_function_s_role(client, create):
    role = boto3.client("iam").create_role(RoleName="scones-reader", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    source = f"import boto3\n{HANDLER}    return boto3.client('sts').get_caller_identity()['Arn']\n"
    name = create(source, Role=role)
    assert result_of(client, name) == f"arn:aws:sts::{ACCOUNT}:assumed-role/scones-reader/{name}"


def test_only_what_aws_s_runtime_ships_can_be_imported(client, create):
    name = create(f"import importlib\n{HANDLER}    return importlib.import_module(event).__name__\n")
    for module in ("boto3", "botocore", "urllib3", "dateutil", "awslambdaric", "simplejson", "json"):
        assert result_of(client, name, module) == module
    for module in ("flask", "moto", "numpy", "pandas", "local_aws", "pip"):
        assert error_of(client, name, module)["errorType"] == "ModuleNotFoundError"


def test_a_package_in_the_zip_is_used_and_goes_before_the_runtime_s(client, create):
    files = {
        "lambda_function.py": (
            f"import boto3, helper.names\n{HANDLER}    return [boto3.__version__, helper.names.NAME]\n"
        ),
        "boto3/__init__.py": "__version__ = 'of the zip'\n",
        "helper/__init__.py": "",
        "helper/names.py": "NAME = 'scone'\n",
    }
    assert result_of(client, create(files)) == ["of the zip", "scone"]


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_a_forked_worker_has_boto3_loaded_before_the_function_is_imported(client, create):
    source = f"import sys\nloaded = 'boto3' in sys.modules\n{HANDLER}    return loaded\n"
    first = create(source)
    assert result_of(client, first)
    client.update_function_configuration(FunctionName=first, MemorySize=256)  # a second worker on the same folder
    assert result_of(client, first)


def test_the_handler_s_folder_is_the_working_directory_and_temporary_files_are_the_worker_s_own(client, create):
    source = (
        f"import os, tempfile\n{HANDLER}"
        "    return [os.getcwd(), os.environ['LAMBDA_TASK_ROOT'], os.listdir('.'), tempfile.mkdtemp()]\n"
    )
    first, second = (result_of(client, create({"lambda_function.py": source, "label.txt": n})) for n in "ab")
    assert first[0] == first[1] != second[0]
    assert {"lambda_function.py", "label.txt"} <= set(first[2])
    assert os.path.dirname(first[3]) != os.path.dirname(second[3])
    assert stat.S_IMODE(os.stat(os.path.dirname(first[3])).st_mode) == 0o700


# What goes wrong in a handler


def test_an_exception_is_answered_with_its_class_and_where_it_was_raised(client, create):
    name = create(
        "class NotAnImage(Exception):\n    pass\n\n\ndef read(event):\n    raise NotAnImage(f'bad {event}')\n\n\n"
        f"{HANDLER}    read(event)\n"
    )
    answer = client.invoke(FunctionName=name, Payload='"key"')
    error = json.load(answer["Payload"])
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert (error["errorType"], error["errorMessage"]) == ("NotAnImage", "bad key")
    assert error["requestId"] == answer["ResponseMetadata"]["RequestId"]
    assert error["stackTrace"] == [
        '  File "/var/task/lambda_function.py", line 10, in lambda_handler\n    read(event)\n',
        "  File \"/var/task/lambda_function.py\", line 6, in read\n    raise NotAnImage(f'bad {event}')\n",
    ]


@pytest.mark.parametrize(
    ("source", "settings", "error_type", "message"),
    [
        ("import nosuchmodule\n" + ECHO, {}, "Runtime.ImportModuleError", "No module named 'nosuchmodule'"),
        ("def lambda_handler(event, context)\n", {}, "Runtime.UserCodeSyntaxError", "Syntax error in module"),
        ("def other():\n    pass\n", {}, "Runtime.HandlerNotFound", "Handler 'lambda_handler' missing on module"),
        (ECHO, {"Handler": "nodot"}, "Runtime.MalformedHandlerName", "Bad handler 'nodot'"),
        (ECHO, {"Handler": "nosuchfile.f"}, "Runtime.ImportModuleError", "No module named 'nosuchfile'"),
        ("raise ValueError('at import')\n", {}, "ValueError", "at import"),
        ("def lambda_handler(event):\n    pass\n", {}, "TypeError", "takes 1 positional argument but 2 were given"),
    ],
)
def test_a_function_that_cannot_be_called_says_why(client, create, source, settings, error_type, message):
    name = create(source, **settings)
    for _ in range(2):  # each try starts a new worker, with the same answer
        error = error_of(client, name)
        assert error["errorType"] == error_type
        assert message in error["errorMessage"]
    assert "/var/task" in json.dumps(error) or "stackTrace" in error
    assert "local-aws-" not in json.dumps(error)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("sys.exit(0)", "exited without providing a reason"),
        ("sys.exit(1)", "exited with error: exit status 1"),
        ("sys.exit('a reason')", "exited with error: exit status 1"),
        ("os._exit(3)", "exited with error: exit status 3"),
        ("os.abort()", "exited with error: signal: aborted (core dumped)"),
        ("os.kill(os.getpid(), 9)", "exited with error: signal: killed"),
        ("os.closerange(3, 100)", "exited with error: exit status 1"),
    ],
)
@pytest.mark.parametrize("place", ["handler", "module"])
def test_a_process_that_ends_is_a_Runtime_ExitError(client, create, statement, reason, place):
    source = f"import os, sys\n{HANDLER}    {statement}\n" if place == "handler" else f"import os, sys\n{statement}\n"
    answer = client.invoke(FunctionName=create(source + ("" if place == "handler" else ECHO)))
    error = json.load(answer["Payload"])
    assert answer["FunctionError"] == "Unhandled"
    assert error["errorType"] == "Runtime.ExitError"
    assert error["errorMessage"] == f"RequestId: {answer['ResponseMetadata']['RequestId']} Error: Runtime {reason}"


@pytest.mark.parametrize(
    "statement", ["while True: pass", "sum(range(10**12))", "__import__('subprocess').run(['sleep', '78'])"]
)
def test_a_handler_that_takes_too_long_is_killed_with_all_it_started(client, create, local, statement):
    name = create(f"import os\n{HANDLER}    if event: return os.getpid()\n    {statement}\n", Timeout=1)
    pid = result_of(client, name, "pid")
    started = time.monotonic()
    error = error_of(client, name)
    assert 0.9 < time.monotonic() - started < 5
    assert error["errorType"] == "Sandbox.Timedout"
    assert re.fullmatch(r"RequestId: [0-9a-f-]{36} Error: Task timed out after 1\.00 seconds", error["errorMessage"])
    assert wait_until(lambda: not is_alive(pid))
    assert not [child for child in all_commands(local) if "sleep 78" in child]
    assert result_of(client, name, "pid") != pid


def all_commands(aws) -> list[str]:
    """The command lines of the processes that a local AWS has started."""
    commands = []
    for pid in children_of(aws._process.pid):
        try:
            commands.append(" ".join(psutil.Process(pid).cmdline()))
        except psutil.NoSuchProcess:
            continue
    return commands


def test_the_time_zone_is_utc_unless_the_function_says_otherwise(client, create):
    source = f"import time\n{HANDLER}    return time.localtime(0).tm_hour\n"
    assert result_of(client, create(source)) == 0
    assert result_of(client, create(source, Environment={"Variables": {"TZ": "Asia/Tokyo"}})) == 9


def test_a_failure_leaves_the_function_usable(client, create):
    name = create(f"import os\n{HANDLER}    return {{'exit': lambda: os._exit(1), 'raise': lambda: 1 / 0}}[event]()\n")
    assert error_of(client, name, "exit")["errorType"] == "Runtime.ExitError"
    assert error_of(client, name, "raise")["errorType"] == "ZeroDivisionError"
    assert error_of(client, name, "other")["errorType"] == "KeyError"


# What the service refuses


def test_an_unknown_function_is_a_ResourceNotFoundException(client):
    refusal = refusal_of(client, FunctionName="nobody")
    assert (refusal["Code"], refusal["status"]) == ("ResourceNotFoundException", 404)
    assert refusal["Message"] == f"Function not found: arn:aws:lambda:us-east-1:{ACCOUNT}:function:nobody"


def test_an_unknown_version_or_alias_is_a_ResourceNotFoundException(client, create):
    name = create(ECHO)
    refusal = refusal_of(client, FunctionName=name, Qualifier="nowhere")
    assert refusal["Code"] == "ResourceNotFoundException"
    assert refusal["Message"].endswith(f":function:{name}:nowhere")


@pytest.mark.parametrize("payload", ["{bad", "{'k': 1}", b"\xff\xfe"])
def test_a_payload_that_is_not_json_is_an_InvalidRequestContentException(client, create, payload):
    refusal = refusal_of(client, FunctionName=create(ECHO), Payload=payload)
    assert (refusal["Code"], refusal["status"]) == ("InvalidRequestContentException", 400)
    assert refusal["Message"].startswith("Could not parse request body into json")


@pytest.mark.parametrize("client_context", ["not base64", "bm90IEpTT04="])
def test_a_client_context_that_is_not_json_in_base64_is_refused(client, create, client_context):
    refusal = refusal_of(client, FunctionName=create(ECHO), ClientContext=client_context)
    assert refusal["Code"] == "InvalidRequestContentException"
    assert refusal["Message"] == "Client context must be a valid Base64-encoded JSON object."


@pytest.mark.parametrize(("invocation_type", "limit"), [("RequestResponse", 6291456), ("Event", 1048576)])
def test_a_payload_that_is_too_large_is_refused(client, create, invocation_type, limit):
    payload = json.dumps("x" * (limit - 1))
    refusal = refusal_of(client, FunctionName=create(ECHO), Payload=payload, InvocationType=invocation_type)
    assert (refusal["Code"], refusal["status"]) == ("RequestEntityTooLargeException", 413)
    assert f"limit {limit} bytes" in refusal["Message"]


@pytest.mark.parametrize("runtime", ["nodejs20.x", "java21", "provided.al2023", "python2.7"])
def test_a_runtime_other_than_python_is_refused_by_name(client, create, runtime):
    refusal = refusal_of(client, FunctionName=create(ECHO, Runtime=runtime))
    assert refusal["Code"] == "InvalidRuntimeException"
    assert runtime in refusal["Message"]


def test_a_function_with_a_layer_is_refused_by_name(client, create):
    layer = client.publish_layer_version(LayerName="tools", Content={"ZipFile": zip_of({"python/tools.py": ""})})
    refusal = refusal_of(client, FunctionName=create(ECHO, Layers=[layer["LayerVersionArn"]]))
    assert refusal["Code"] == "InvalidRuntimeException"
    assert "layer:tools:1" in refusal["Message"]


def test_code_that_is_not_a_zip_is_refused(client, create):
    name = create(ECHO)
    client.update_function_code(FunctionName=name, ZipFile=b"not a zip")
    refusal = refusal_of(client, FunctionName=name)
    assert refusal["Code"] == "InvalidZipFileException"


# Names, versions, updates


@pytest.mark.parametrize(
    "form",
    [
        "{name}",
        "{name}:$LATEST",
        "arn:aws:lambda:us-east-1:123456789012:function:{name}",
        "arn:aws:lambda:us-east-1:123456789012:function:{name}:$LATEST",
        "123456789012:function:{name}",
        "function:{name}",
    ],
)
def test_a_function_is_found_by_each_form_of_its_name(client, create, form):
    assert result_of(client, form.format(name=create(ECHO)), 1) == 1


def test_an_arn_of_another_region_or_account_is_not_found(client, create):
    name = create(ECHO)
    elsewhere = refusal_of(client, FunctionName=f"arn:aws:lambda:eu-west-1:{ACCOUNT}:function:{name}")
    assert elsewhere["Code"] == "ResourceNotFoundException"
    assert elsewhere["Message"] == "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')"
    foreign = refusal_of(client, FunctionName=f"arn:aws:lambda:us-east-1:999999999999:function:{name}")
    assert foreign["Code"] == "ResourceNotFoundException"


def test_two_qualifiers_that_differ_are_refused(client, create):
    refusal = refusal_of(client, FunctionName=f"{create(ECHO)}:$LATEST", Qualifier="1")
    assert refusal["Code"] == "InvalidParameterValueException"


def test_versions_and_aliases_run_the_code_that_they_name(client, create):
    source = f"{HANDLER}    return [%r, context.function_version, context.invoked_function_arn.split(':')[7:]]\n"
    name = create(source % "old")
    version = client.publish_version(FunctionName=name)["Version"]
    client.create_alias(FunctionName=name, Name="live", FunctionVersion=version)
    client.update_function_code(FunctionName=name, ZipFile=zip_of({"lambda_function.py": source % "new"}))
    assert result_of(client, name) == ["new", "$LATEST", []]
    assert result_of(client, name, Qualifier=version) == ["old", version, [version]]
    assert result_of(client, f"{name}:live") == ["old", version, ["live"]]
    assert client.invoke(FunctionName=name, Qualifier="live")["ExecutedVersion"] == version


def test_new_code_and_new_settings_take_effect_on_the_next_invoke(client, create):
    source = f"import os\n{HANDLER}    return [%r, os.environ.get('V'), context.memory_limit_in_mb]\n"
    name = create(source % "first")
    assert result_of(client, name) == ["first", None, "128"]
    client.update_function_code(FunctionName=name, ZipFile=zip_of({"lambda_function.py": source % "second"}))
    assert result_of(client, name) == ["second", None, "128"]
    client.update_function_configuration(FunctionName=name, MemorySize=512, Environment={"Variables": {"V": "1"}})
    assert result_of(client, name) == ["second", "1", "512"]


def test_a_function_made_anew_does_not_get_the_old_one_s_workers(client, create):
    name = create(WHOAMI)
    first = result_of(client, name)
    client.delete_function(FunctionName=name)
    create(WHOAMI, FunctionName=name)
    assert result_of(client, name) != first


# DryRun and Event


def test_a_dry_run_runs_nothing(client, create):
    answer = client.invoke(FunctionName=create("raise Exception('ran')\n"), InvocationType="DryRun")
    assert answer["StatusCode"] == 204
    assert answer["Payload"].read() == b""


def test_an_event_is_accepted_at_once_and_runs_afterwards(client, create):
    bucket = boto3.client("s3")
    bucket.create_bucket(Bucket="events")
    name = create(
        f"import boto3, time\n{HANDLER}    time.sleep(0.5)\n"
        "    boto3.client('s3').put_object(Bucket='events', Key=event['key'], Body=b'ran')\n"
    )
    started = time.monotonic()
    answer = client.invoke(FunctionName=name, InvocationType="Event", Payload='{"key": "one"}')
    assert time.monotonic() - started < 0.5
    assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
    assert wait_until(lambda: bucket.list_objects_v2(Bucket="events")["KeyCount"] == 1)


def test_an_event_whose_handler_fails_is_tried_three_times_under_one_request_id(client, create):
    name = create(f"{HANDLER}    print('try', context.aws_request_id)\n    raise ValueError(event)\n")
    client.invoke(FunctionName=name, InvocationType="Event", Payload="1")
    tries = lambda: [line for line in log_of(name, "try") if line.startswith("try")]  # noqa: E731
    assert wait_until(lambda: len(tries()) == 3)
    time.sleep(0.3)
    assert len(tries()) == 3
    assert len(set(tries())) == 1


def test_an_object_put_into_a_bucket_runs_the_function_that_its_notification_names(client, create):
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="watched")
    name = create(f"{HANDLER}    print('key', event['Records'][0]['s3']['object']['key'])\n")
    arn = client.get_function(FunctionName=name)["Configuration"]["FunctionArn"]
    notification = {"LambdaFunctionArn": arn, "Events": ["s3:ObjectCreated:*"]}
    s3.put_bucket_notification_configuration(
        Bucket="watched", NotificationConfiguration={"LambdaFunctionConfigurations": [notification]}
    )
    s3.put_object(Bucket="watched", Key="bicycle.png", Body=b"")
    assert "key bicycle.png\n" in log_of(name, "REPORT")


# Logs


def test_the_log_holds_what_was_printed_between_START_END_and_REPORT(client, create):
    name = create(
        "import logging, sys\nprint('at import')\nlogging.getLogger().setLevel('INFO')\n"
        f"{HANDLER}    print('printed é✓')\n    print('to stderr', file=sys.stderr)\n    logging.info('logged %s', 1)\n"
    )
    answer = client.invoke(FunctionName=name)
    request_id = answer["ResponseMetadata"]["RequestId"]
    lines = log_of(name, "REPORT", timeout=1.5)
    assert lines[:4] == [
        "at import\n",
        f"START RequestId: {request_id} Version: $LATEST\n",
        "printed é✓\n",
        "to stderr\n",
    ]
    assert re.fullmatch(rf"\[INFO\]\t[\dT:.-]+Z\t{request_id}\tlogged 1\n", lines[4])
    assert lines[5] == f"END RequestId: {request_id}\n"
    assert re.fullmatch(
        rf"REPORT RequestId: {request_id}\tDuration: [\d.]+ ms\tBilled Duration: \d+ ms\tMemory Size: 128 MB\t"
        r"Max Memory Used: \d+ MB\tInit Duration: [\d.]+ ms\n",
        lines[6],
    )
    assert len(lines) == 7


def test_an_exception_is_one_event_in_the_log_with_its_trace(client, create):
    name = create(f"{HANDLER}    raise ValueError('bad key')\n")
    error_of(client, name)
    [event] = [line for line in log_of(name, "REPORT") if "[ERROR]" in line]
    assert event.startswith("[ERROR] ValueError: bad key\nTraceback (most recent call last):\n")
    assert '/var/task/lambda_function.py", line 2, in lambda_handler' in event.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("statement", "said", "status"),
    [
        ("time.sleep(9)", "Task timed out after 1.00 seconds", "Status: timeout"),
        ("sys.exit(2)", "Runtime exited with error: exit status 2", "Status: error\tError Type: Runtime.ExitError"),
    ],
)
def test_the_log_says_how_an_invocation_ended(client, create, statement, said, status):
    name = create(f"import sys, time\n{HANDLER}    print('before')\n    {statement}\n", Timeout=1)
    error_of(client, name)
    lines = log_of(name, "REPORT")
    assert "before\n" in lines
    assert any(said in line for line in lines)
    assert lines[-1].endswith(f"{status}\n")


def test_workers_of_a_function_write_a_stream_each_and_warm_invocations_the_same(client, create):
    name = create(f"{HANDLER}    return context.log_stream_name\n")
    streams = {result_of(client, name) for _ in range(3)}
    log_of(name, "REPORT")
    described = boto3.client("logs").describe_log_streams(logGroupName=f"/aws/lambda/{name}")["logStreams"]
    assert [stream["logStreamName"] for stream in described] == list(streams)


def test_LogType_Tail_brings_the_last_4_KB_of_the_log(client, create):
    name = create(f"{HANDLER}    for number in range(event): print('line', number)\n")
    few = base64.b64decode(client.invoke(FunctionName=name, Payload="1", LogType="Tail")["LogResult"]).decode()
    assert few.startswith("START RequestId: ") and "\nline 0\nEND RequestId: " in few
    many = base64.b64decode(client.invoke(FunctionName=name, Payload="1000", LogType="Tail")["LogResult"])
    assert len(many) == 4096 and b"line 999\n" in many and b"line 0\n" not in many


# Concurrency


def test_a_warm_worker_is_used_again_and_keeps_its_state(client, create):
    name = create(f"import os\nseen = []\n{HANDLER}    seen.append(event)\n    return [os.getpid(), seen]\n")
    pid, _ = result_of(client, name, 1)
    assert result_of(client, name, 2) == [pid, [1, 2]]


def test_a_warm_worker_that_something_killed_is_replaced_unseen(client, create):
    name = create(WHOAMI)
    pid = result_of(client, name)
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not is_alive(pid))
    assert result_of(client, name) != pid


def test_a_worker_killed_at_work_is_that_invocation_s_error_only(client, create):
    name = create(f"import os, time\n{HANDLER}    print(os.getpid())\n    time.sleep(event)\n    return os.getpid()\n")
    pid = result_of(client, name, 0)
    with ThreadPoolExecutor(1) as executor:
        pending = executor.submit(error_of, client, name, 15)
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        error = pending.result()
    assert error["errorMessage"].endswith("Runtime exited with error: signal: killed")
    assert result_of(client, name, 0) != pid


def test_when_the_process_that_forks_is_killed_the_next_invoke_works(client, create, local):
    name = create(WHOAMI)
    pid = result_of(client, name)
    parent = psutil.Process(pid).ppid()
    if parent == local._process.pid:
        pytest.skip("workers are not forked on this system")
    os.kill(parent, signal.SIGKILL)
    assert wait_until(lambda: not is_alive(pid))
    assert result_of(client, name) != pid


def test_300_concurrent_invocations_all_come_back_with_their_own_result(client, create, local):
    name = create(SLEEP.replace("time.sleep(event)", "time.sleep(0.01)"))
    before = len(children_of(local._process.pid))
    with ThreadPoolExecutor(300) as executor:
        results = list(executor.map(lambda number: result_of(client, name, number), range(300)))
    assert results == list(range(300))
    assert len(children_of(local._process.pid)) - before <= 4 * os.cpu_count() + 1


def test_handlers_that_invoke_another_function_do_not_block_each_other(client, create):
    inner = create(SLEEP)
    outer = create(
        f"import boto3, json\n{HANDLER}"
        f"    answer = boto3.client('lambda').invoke(FunctionName={inner!r}, Payload='0.1')\n"
        "    return json.load(answer['Payload'])\n"
    )
    count = 4 * os.cpu_count() + 4  # more than there are places for workers
    with ThreadPoolExecutor(count) as executor:
        assert list(executor.map(lambda _: result_of(client, outer), range(count))) == [0.1] * count


def test_reserved_concurrency_throttles_what_exceeds_it(client, create):
    name = create(SLEEP)
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(result_of, client, name, 2)
        time.sleep(0.7)
        refusal = refusal_of(client, FunctionName=name, Payload="0")
        assert running.result() == 2
    assert (refusal["Code"], refusal["status"]) == ("TooManyRequestsException", 429)
    assert refusal["Message"] == "Rate Exceeded."
    assert result_of(client, name, 0) == 0


def test_a_reserved_concurrency_of_0_stops_a_function(client, create):
    name = create(ECHO)
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    with pytest.raises(client.exceptions.TooManyRequestsException) as refusal:
        client.invoke(FunctionName=name)
    assert refusal.value.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    client.delete_function_concurrency(FunctionName=name)
    assert result_of(client, name, 1) == 1


# What is left behind


@pytest.mark.parametrize("end", ["stop", "SIGTERM", "SIGKILL"])
def test_no_worker_outlives_the_server(end, local, monkeypatch):
    for name, value in local.environment.items():
        monkeypatch.setenv(name, value)  # put back after the other server's have replaced them
    aws = local_aws.start()
    client = boto3.Session().client("lambda", config=Config(retries={"total_max_attempts": 1}))
    source = (
        f"import os, subprocess\n{HANDLER}    if not event: return os.getpid()\n"
        "    subprocess.Popen(['sleep', '79'])\n    sum(range(10**12))\n"
    )
    for name in ("busy", "idle"):
        client.create_function(
            FunctionName=name,
            Runtime="python3.12",
            Handler="lambda_function.lambda_handler",
            Role=aws.environment["SAGEMAKER_ROLE"],
            Timeout=60,
            Code={"ZipFile": zip_of({"lambda_function.py": source})},
        )
        result_of(client, name)
    with ThreadPoolExecutor(1) as executor:
        executor.submit(client.invoke, FunctionName="busy", Payload="1")
        assert wait_until(lambda: any("sleep 79" in command for command in all_commands(aws)))
        started = children_of(aws._process.pid)
        if end != "stop":
            os.kill(aws._process.pid, getattr(signal, end))
        aws.stop()
        assert len(started) >= 3
        assert wait_until(lambda: not any(is_alive(pid) for pid in started))


# The parts, where boto3 does not reach


@pytest.fixture(params=[Starter, new_starter], ids=["new interpreter", "this system's"])
def start_worker(request, tmp_path):
    """start_worker(source, function) -> Worker, started in each of the ways that there are."""
    starter = request.param(tmp_path)
    workers = []

    def start(source: str, function: FunctionVersion | None = None) -> Worker:
        root = TaskRoots(tmp_path / "task-roots").unpack(zip_of({"lambda_function.py": source}))
        environment = {"LAMBDA_TASK_ROOT": str(root), "AWS_LAMBDA_FUNCTION_NAME": "f"}
        workers.append(Worker(starter, function or function_version(), environment, "stream", tmp_path))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()
    starter.close()


def function_version(**settings) -> FunctionVersion:
    values = {
        "arn": "arn:aws:lambda:us-east-1:123456789012:function:f",
        "name": "f",
        "version": "$LATEST",
        "region": "us-east-1",
        "role": "",
        "runtime": "python3.12",
        "handler": "lambda_function.lambda_handler",
        "timeout": 5,
        "memory_size": 128,
        "environment": (),
        "code_sha256": "",
        "last_modified": "",
        "reserved_concurrency": None,
        "code": b"",
    }
    return FunctionVersion(**{**values, **settings})


def run(worker: Worker, event: bytes = b"null"):
    """Runs a worker's handler once, without a server."""
    invocation = Invocation(worker.function, "arn", event, client_context=None, caller_trace=None)
    return invocation.run_on(worker, new_trace(None), PathsOfAws(Path("/task-roots"), Path("/runtime")))


def test_a_worker_answers_prints_and_is_used_again(start_worker):
    worker = start_worker(f"import boto3\n{HANDLER}    print('seen', event)\n    return event\n")
    for number in (b"1", b"2"):
        outcome = run(worker, number)
        assert (outcome.payload, outcome.function_error) == (number, None)
        assert f"seen {number.decode()}\n" in outcome.log
    assert worker.is_usable


def test_a_worker_that_was_closed_is_gone_with_what_it_started(start_worker):
    worker = start_worker(f"import subprocess\n{HANDLER}    return subprocess.Popen(['sleep', '80']).pid\n")
    child = int(run(worker).payload)
    worker.close()
    assert wait_until(lambda: not is_alive(worker.pid) and not is_alive(child))
    assert not worker.is_usable


def test_a_worker_s_exit_status_is_known(start_worker):
    outcome = run(start_worker(f"import os\n{HANDLER}    os._exit(7)\n"))
    assert json.loads(outcome.payload)["errorMessage"].endswith("exit status 7")


def test_idle_workers_are_ended_after_a_while(start_worker):
    pool = Pool(lambda function: start_worker(ECHO), idle_seconds=0.4)
    with pool.borrow(function_version(), is_nested=False) as worker:
        assert run(worker, b"1").payload == b"1"
    assert is_alive(worker.pid)
    assert wait_until(lambda: not is_alive(worker.pid), timeout=3)
    pool.close()


def test_functions_that_take_turns_at_one_place_keep_their_warm_workers(start_worker):
    pool = Pool(lambda function: start_worker(ECHO, function), cap=1)
    pids: dict[str, set[int]] = {"a": set(), "b": set()}
    for name in ("a", "b", "a", "b"):
        with pool.borrow(function_version(name=name, arn=name), is_nested=False) as worker:
            run(worker)
            pids[name].add(worker.pid)
    assert [len(each) for each in pids.values()] == [1, 1]
    pool.close()


def test_an_idle_worker_of_another_function_gives_way_where_no_more_are_kept(start_worker):
    pool = Pool(lambda function: start_worker(ECHO, function), cap=1, kept=1)
    with pool.borrow(function_version(name="a", arn="a"), is_nested=False) as first:
        run(first)
    with pool.borrow(function_version(name="b", arn="b"), is_nested=False) as second:
        assert not is_alive(first.pid)
        assert run(second, b"2").payload == b"2"
    pool.close()


def test_nested_invocations_have_a_limit_of_their_own(start_worker):
    pool = Pool(lambda function: start_worker(ECHO), cap=1, nested_cap=1)
    with (
        pool.borrow(function_version(), is_nested=False),
        pool.borrow(function_version(), is_nested=True),
        pytest.raises(ServiceError) as refusal,
        pool.borrow(function_version(), is_nested=True),
    ):
        pass
    assert (refusal.value.code, refusal.value.reason) == (
        "TooManyRequestsException",
        "ConcurrentInvocationLimitExceeded",
    )
    pool.close()


def member(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "info",
    [
        member("../outside.py"),
        member("/etc/outside.py"),
        member("a/../../outside.py"),
        member("..\\outside.py"),
        member("link", stat.S_IFLNK | 0o777),
        member("device", stat.S_IFBLK | 0o600),
        member("pipe", stat.S_IFIFO | 0o600),
    ],
    ids=lambda info: info.filename,
)
def test_a_zip_that_reaches_outside_or_holds_links_is_refused_whole(tmp_path, info):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("lambda_function.py", ECHO)
        file.writestr(info, "/etc/passwd")
    with pytest.raises(BadPackage) as refusal:
        TaskRoots(tmp_path / "roots").unpack(archive.getvalue())
    assert repr(info.filename) in str(refusal.value)
    assert not list(tmp_path.rglob("*.py"))


def test_a_zip_that_unpacks_to_more_than_lambda_allows_is_refused_before_it_is_unpacked(tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file, file.open("zeros", "w") as zeros:
        for _ in range(UNPACKED_LIMIT // (1 << 20) + 1):
            zeros.write(bytes(1 << 20))
    assert len(archive.getvalue()) < 1 << 20
    with pytest.raises(BadPackage, match=f"must be smaller than {UNPACKED_LIMIT} bytes"):
        TaskRoots(tmp_path).unpack(archive.getvalue())
    assert not list(tmp_path.iterdir())


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path):
    code = zip_of({"lambda_function.py": "#" * 100_000})
    lying = code.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    with pytest.raises(BadPackage):
        TaskRoots(tmp_path).unpack(lying)
    assert not [path for path in tmp_path.rglob("*.py") if path.stat().st_size > 10]


def test_the_forking_process_holds_no_socket_of_its_workers(client, create, local):
    name = create(f"import os\n{HANDLER}    return len(os.listdir('/proc/self/fd'))\n")
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("there is no /proc here")
    assert result_of(client, name) <= 6


def test_frames_survive_being_cut_anywhere():
    from local_aws.functions.runtime import pack_frame, unpack_frame

    stream = pack_frame({"kind": "ready"}, b"") + pack_frame({"kind": "result"}, b"\x00body")
    received, frames = bytearray(), []
    for byte in stream:
        received.append(byte)
        while (frame := unpack_frame(received)) is not None:
            frames.append(frame)
    assert frames == [({"kind": "ready"}, b""), ({"kind": "result"}, b"\x00body")]
    assert not received
