"""State machines as the local AWS runs them, through boto3: real functions, real files in S3."""

import base64
import copy
import functools
import io
import json
import os
import time
import uuid
import zipfile

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from local_aws.workflows.api import all_faults
from local_aws.workflows.archive import pack, unpack
from local_aws.workflows.definition import Fault, faults
from local_aws.workflows.jsonata import EvaluationFailed, evaluate

ROLE = "arn:aws:iam::123456789012:role/LocalRole"
BUCKET = "sagemaker-us-east-1-123456789012"
HANDLER = """
import time

class OutOfRange(Exception):
    pass

def lambda_handler(event, context):
    if isinstance(event, dict):
        time.sleep(event.get("seconds", 0))
        if "fail" in event:
            raise OutOfRange(event["fail"])
    return {"body": event}
"""
TASK = {
    "Type": "Task",
    "Resource": "arn:aws:states:::lambda:invoke",
    "Arguments": {"FunctionName": "workflow-echo", "Payload": "{% $states.input %}"},
    "Output": "{% $states.result.Payload.body %}",
    "End": True,
}
PASS = {"Type": "Pass", "End": True}
CATCH_ALL = {"ErrorEquals": ["States.ALL"], "Next": "Caught", "Output": "{% $states.errorOutput %}"}


@pytest.fixture(scope="module")
def aws(local):
    """Step Functions on the local AWS, with a function workflow-echo."""
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("lambda_function.py", HANDLER)
    boto3.client("lambda").create_function(
        FunctionName="workflow-echo",
        Runtime="python3.11",
        Role=ROLE,
        Handler="lambda_function.lambda_handler",
        Code={"ZipFile": code.getvalue()},
        Timeout=30,
    )
    return boto3.client("stepfunctions", config=Config(inject_host_prefix=False))


def jsonata(start: str, **states) -> dict:
    return {"QueryLanguage": "JSONata", "StartAt": start, "States": states}


def distributed(child: dict | None = None, execution_type: str = "STANDARD", **fields) -> dict:
    """A machine of one distributed Map over its input, whose children are one state."""
    processor = {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": execution_type},
        "StartAt": "Child",
        "States": {"Child": child or TASK},
    }
    if "ItemReader" not in fields:
        fields.setdefault("Items", "{% $states.input %}")
    return jsonata("Map", Map={"Type": "Map", "ItemProcessor": processor, "End": True, **fields})


def create(aws, definition: dict, **options) -> str:
    name = f"machine-{uuid.uuid4()}"
    made = aws.create_state_machine(name=name, definition=json.dumps(definition), roleArn=ROLE, **options)
    return made["stateMachineArn"]


def wait(aws, arn: str, seconds: float = 30) -> dict:
    deadline = time.monotonic() + seconds
    while (execution := aws.describe_execution(executionArn=arn))["status"] == "RUNNING":
        assert time.monotonic() < deadline, f"{arn} still runs after {seconds} s"
        time.sleep(0.01)
    return execution


def run(aws, definition: dict, value) -> dict:
    started = aws.start_execution(stateMachineArn=create(aws, definition), input=json.dumps(value))
    return wait(aws, started["executionArn"])


def output(execution: dict):
    assert execution["status"] == "SUCCEEDED", (execution.get("error"), execution.get("cause"))
    return json.loads(execution["output"])


def events(aws, execution: dict) -> list[str]:
    history = aws.get_execution_history(executionArn=execution["executionArn"], maxResults=1000)
    return [event["type"] for event in history["events"]]


def map_run(aws, execution: dict) -> dict:
    [run] = aws.list_map_runs(executionArn=execution["executionArn"])["mapRuns"]
    return aws.describe_map_run(mapRunArn=run["mapRunArn"])


def counts(run: dict, of: str = "itemCounts") -> dict:
    return {name: number for name, number in run[of].items() if number}


@functools.cache
def s3():
    return boto3.client("s3")


def put(key: str, body: str) -> None:
    s3().put_object(Bucket=BUCKET, Key=key, Body=body.encode())


def get(key: str):
    return json.loads(s3().get_object(Bucket=BUCKET, Key=key)["Body"].read())


class TestJSONata:
    @pytest.mark.parametrize(
        ("expression", "value"),
        [
            ("$x.text", 'a "quoted" \\ text\n'),
            ("$x.nothing", None),
            ("$x.list", [1, None, {"deep": None}]),
            ("$x.one", [5]),
            ("$exists($x.missing)", False),
            ("$partition([1, 2, 3, 4, 5], 2)", [[1, 2], [3, 4], [5]]),
            ("$x.deep.a.b & $x.deep.c", "12"),
            ("$x.deep.a.%.c", "2"),
            ("$count($keys($x))", 5),
            ("($y := $x; $y.deep.c)", "2"),
            ("$range(1, 10, 3)", [1, 4, 7, 10]),
            ("$range(10, 1, -3)", [10, 7, 4, 1]),
            ("$hash('abc', 'MD5')", "900150983cd24fb0d6963f7d28e17f72"),
            ("$random(7) = $random(7)", True),
            ("$length($uuid())", 36),
            ("$parse('{\"a\": [1, null]}')", {"a": [1, None]}),
            ("[1..4]", [1, 2, 3, 4]),
            ("6 / 2", 3),
            ("{'a': null}", {"a": None}),
        ],
    )
    def test_an_expression_has_the_value_that_the_language_gives_it(self, expression, value):
        given = {
            "text": 'a "quoted" \\ text\n',
            "nothing": None,
            "list": [1, None, {"deep": None}],
            "one": [5],
            "deep": {"a": {"b": "1"}, "c": "2"},
        }
        assert evaluate(expression, {"x": given}) == value

    @pytest.mark.parametrize("expression", ["$x.missing", "function($y) { $y }", "$x.", "$hash('a', 'CRC')", "1 + 'a'"])
    def test_an_expression_without_a_usable_value_is_an_error_that_names_it(self, expression):
        with pytest.raises(EvaluationFailed) as failure:
            evaluate(expression, {"x": {}})
        assert expression in str(failure.value)

    def test_data_with_quotes_goes_through_a_chain_unchanged(self, aws):
        value = {"text": 'he said "hi" \\ \n {% $states %}', "nothing": None, "numbers": [1, 2.5, -3]}
        chain = jsonata("A", A={**TASK, "Next": "B"}, B=TASK)
        del chain["States"]["A"]["End"]
        assert output(run(aws, chain, value)) == value

    def test_the_context_and_variables_are_there(self, aws):
        definition = jsonata(
            "Remember",
            Remember={"Type": "Pass", "Assign": {"kept": "{% $states.input.n + 1 %}"}, "Next": "Tell"},
            Tell={
                "Type": "Pass",
                "Output": {
                    "kept": "{% $kept %}",
                    "name": "{% $states.context.Execution.Name %}",
                    "context": "{% $states.context %}",
                },
                "End": True,
            },
        )
        execution = run(aws, definition, {"n": 4})
        told = output(execution)
        assert told["kept"] == 5
        assert told["name"] == execution["name"]
        assert told["context"]["Execution"]["StartTime"].endswith("Z")
        assert told["context"]["State"]["Name"] == "Tell"

    def test_an_undefined_result_fails_with_QueryEvaluationError_and_one_event(self, aws):
        for field in ("Output", "Arguments"):
            state = {**TASK, field: "{% $states.input.missing %}"}
            execution = run(aws, jsonata("A", A=state), {})
            assert execution["error"] == "States.QueryEvaluationError"
            assert "$states.input.missing" in execution["cause"]
            assert events(aws, execution).count("EvaluationFailed") == 1

    def test_a_failed_evaluation_can_be_caught(self, aws):
        state = {**TASK, "Arguments": "{% $states.input.missing %}", "Catch": [CATCH_ALL]}
        definition = jsonata("A", A=state, Caught={"Type": "Succeed"})
        assert output(run(aws, definition, {}))["Error"] == "States.QueryEvaluationError"


class TestTasks:
    def test_the_class_of_a_handlers_exception_is_the_errors_name(self, aws):
        execution = run(aws, jsonata("A", A=TASK), {"fail": "too far"})
        assert execution["error"] == "OutOfRange"
        cause = json.loads(execution["cause"])
        assert cause["errorMessage"] == "too far" and cause["errorType"] == "OutOfRange" and cause["stackTrace"]

    def test_an_unknown_function_is_a_service_error(self, aws):
        state = {**TASK, "Arguments": {"FunctionName": "nobody", "Payload": {}}}
        assert run(aws, jsonata("A", A=state), {})["error"] == "Lambda.ResourceNotFoundException"

    def test_a_function_is_found_by_its_arn_too(self, aws):
        arn = boto3.client("lambda").get_function(FunctionName="workflow-echo")["Configuration"]["FunctionArn"]
        state = {**TASK, "Arguments": {"FunctionName": arn, "Payload": {"n": 1}}}
        assert output(run(aws, jsonata("A", A=state), {})) == {"n": 1}

    def test_only_the_named_error_is_retried(self, aws):
        retry = [{"ErrorEquals": ["OutOfRange"], "IntervalSeconds": 1, "MaxAttempts": 1, "JitterStrategy": "FULL"}]
        execution = run(aws, jsonata("A", A={**TASK, "Retry": retry}), {"fail": "x"})
        assert events(aws, execution).count("TaskScheduled") == 2
        retry[0]["ErrorEquals"] = ["Lambda.TooManyRequestsException"]
        execution = run(aws, jsonata("A", A={**TASK, "Retry": retry}), {"fail": "x"})
        assert events(aws, execution).count("TaskScheduled") == 1

    def test_too_many_requests_is_an_error_that_can_be_caught(self, aws):
        functions = boto3.client("lambda")
        functions.put_function_concurrency(FunctionName="workflow-echo", ReservedConcurrentExecutions=0)
        try:
            definition = jsonata("A", A={**TASK, "Catch": [CATCH_ALL]}, Caught={"Type": "Succeed"})
            assert output(run(aws, definition, {}))["Error"] == "Lambda.TooManyRequestsException"
        finally:
            functions.delete_function_concurrency(FunctionName="workflow-echo")

    def test_a_fault_on_the_way_to_the_function_is_an_SdkClientException(self):
        from local_aws.workflows import moto_interpreter

        class Server:
            region = "us-east-1"

            class functions:
                @staticmethod
                def invoke(*_, **__):
                    raise ConnectionResetError("the worker's socket was closed")

        with pytest.raises(ClientError) as failure:
            moto_interpreter._invoke_function(Server, None, {"FunctionName": "workflow-echo"}, "us-east-1", None)
        assert failure.value.response["Error"]["Code"] == "SdkClientException"
        assert "socket was closed" in failure.value.response["Error"]["Message"]

    def test_TimeoutSeconds_ends_a_task_with_States_Timeout(self, aws):
        execution = run(aws, jsonata("A", A={**TASK, "TimeoutSeconds": 1}), {"seconds": 4})
        assert execution["error"] == "States.Timeout"
        assert (execution["stopDate"] - execution["startDate"]).total_seconds() < 2

    def test_a_task_waits_for_its_token(self, aws):
        state = {
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
            "Arguments": {"QueueUrl": "", "MessageBody": "{% $states.context.Task.Token %}"},
            "End": True,
        }
        sqs = boto3.client("sqs")
        url = state["Arguments"]["QueueUrl"] = sqs.create_queue(QueueName="tokens")["QueueUrl"]
        arn = aws.start_execution(stateMachineArn=create(aws, jsonata("A", A=state)))["executionArn"]
        [message] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
        assert aws.describe_execution(executionArn=arn)["status"] == "RUNNING"
        aws.send_task_success(taskToken=message["Body"], output='{"done": true}')
        assert output(wait(aws, arn)) == {"done": True}
        with pytest.raises(ClientError, match="InvalidToken"):
            aws.send_task_success(taskToken="nobody's", output="{}")

    def test_other_services_are_called_with_this_servers_key(self, aws):
        state = {"Type": "Task", "Resource": "arn:aws:states:::aws-sdk:s3:listBuckets", "End": True}
        listed = output(run(aws, jsonata("A", A=state), {}))
        assert BUCKET in [bucket["Name"] for bucket in listed["Buckets"]]

    def test_branches_have_their_own_variables(self, aws):
        def branch(name, value):
            states = {
                f"Set {name}": {"Type": "Pass", "Assign": {"own": value}, "Next": f"Get {name}"},
                f"Get {name}": {"Type": "Pass", "Output": "{% [$own, $shared] %}", "End": True},
            }
            return {"StartAt": f"Set {name}", "States": states}

        definition = jsonata(
            "Share",
            Share={"Type": "Pass", "Assign": {"shared": 0}, "Next": "Both"},
            Both={"Type": "Parallel", "Branches": [branch("first", 1), branch("second", 2)], "Next": "After"},
            After={"Type": "Pass", "Output": "{% [$states.input, $exists($own)] %}", "End": True},
        )
        assert output(run(aws, definition, {})) == [[1, 0], [2, 0], False]

    def test_the_error_of_a_branch_keeps_its_name(self, aws):
        for state, error in (
            ({"Type": "Pass", "Output": "{% $states.input.missing %}", "End": True}, "States.QueryEvaluationError"),
            ({"Type": "Fail", "Error": "Mine", "Cause": "why"}, "Mine"),
        ):
            parallel = {"Type": "Parallel", "Branches": [{"StartAt": "B", "States": {"B": state}}], "End": True}
            assert run(aws, jsonata("A", A=parallel), {})["error"] == error

    def test_a_choice_without_a_match_is_States_NoChoiceMatched(self, aws):
        rule = {"Condition": "{% $states.input.n = 1 %}", "Next": "End"}
        definition = jsonata("A", A={"Type": "Choice", "Choices": [rule]}, End={"Type": "Succeed"})
        assert run(aws, definition, {"n": 1})["status"] == "SUCCEEDED"
        assert run(aws, definition, {"n": 2})["error"] == "States.NoChoiceMatched"

    def test_a_result_of_more_than_256_KB_is_States_DataLimitExceeded(self, aws):
        definition = jsonata("A", A={**PASS, "Output": "{% $pad('', 262144, 'x') %}"})
        assert run(aws, definition, {})["error"] == "States.DataLimitExceeded"

    def test_an_execution_starts_another_and_waits_for_it(self, aws):
        inner = create(aws, jsonata("A", A={**PASS, "Output": {"inner": "{% $states.input.n %}"}}))
        task = {
            "Type": "Task",
            "Resource": "arn:aws:states:::states:startExecution.sync:2",
            "Arguments": {"StateMachineArn": inner, "Input": {"n": 3}},
            "Output": "{% $states.result.Output %}",
            "End": True,
        }
        assert output(run(aws, jsonata("A", A=task), {})) == {"inner": 3}

    def test_JSONPath_machines_run_too(self, aws):
        task = {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Parameters": {"FunctionName": "workflow-echo", "Payload.$": "$"},
            "ResultSelector": {"n.$": "$.Payload.body.n"},
            "ResultPath": "$.result",
            "Next": "Choose",
        }
        choice = {
            "Type": "Choice",
            "Choices": [{"Variable": "$.result.n", "NumericGreaterThan": 1, "Next": "Big"}],
            "Default": "Small",
        }
        ends = {"Big": {"Type": "Pass", "Result": "big", "End": True}, "Small": PASS}
        definition = {"StartAt": "A", "States": {"A": task, "Choose": choice, **ends}}
        assert output(run(aws, definition, {"n": 2})) == "big"
        assert output(run(aws, definition, {"n": 1})) == {"n": 1, "result": {"n": 1}}


class TestExecutions:
    def test_unnamed_executions_get_names_of_their_own(self, aws):
        machine = create(aws, jsonata("A", A={"Type": "Succeed"}))
        arns = {aws.start_execution(stateMachineArn=machine)["executionArn"] for _ in range(3)}
        assert len(arns) == 3 and not any("None" in arn for arn in arns)

    def test_a_start_is_idempotent_while_the_execution_runs(self, aws):
        machine = create(aws, jsonata("A", A={"Type": "Wait", "Seconds": 30, "End": True}))
        start = {"stateMachineArn": machine, "name": "once", "input": '{"a": 1}'}
        arn = aws.start_execution(**start)["executionArn"]
        assert aws.start_execution(**start)["executionArn"] == arn
        with pytest.raises(ClientError, match="ExecutionAlreadyExists"):
            aws.start_execution(**{**start, "input": "{}"})
        aws.stop_execution(executionArn=arn)
        with pytest.raises(ClientError, match="ExecutionAlreadyExists"):
            aws.start_execution(**start)

    @pytest.mark.parametrize(
        ("operation", "arguments", "code"),
        [
            ("start_execution", {"input": "{"}, "InvalidExecutionInput"),
            ("start_execution", {"input": json.dumps("x" * 262_144)}, "InvalidExecutionInput"),
            ("start_execution", {"name": "a b"}, "InvalidName"),
            ("start_sync_execution", {}, "StateMachineTypeNotSupported"),
            ("list_executions", {"nextToken": "x"}, "InvalidToken"),
        ],
    )
    def test_a_wrong_request_is_refused_with_the_services_code(self, aws, operation, arguments, code):
        machine = create(aws, jsonata("A", A={"Type": "Succeed"}))
        with pytest.raises(ClientError) as refusal:
            getattr(aws, operation)(stateMachineArn=machine, **arguments)
        assert refusal.value.response["Error"]["Code"] == code

    def test_what_does_not_exist_is_named(self, aws):
        states = "arn:aws:states:us-east-1:123456789012"
        with pytest.raises(ClientError, match="StateMachineDoesNotExist"):
            aws.start_execution(stateMachineArn=f"{states}:stateMachine:nobody")
        with pytest.raises(ClientError, match="ExecutionDoesNotExist"):
            aws.describe_execution(executionArn=f"{states}:execution:nobody:x")
        with pytest.raises(ClientError, match="ResourceNotFound"):
            aws.describe_map_run(mapRunArn=f"{states}:mapRun:nobody/x:y")

    def test_StopExecution_does_not_wait_for_the_function(self, aws):
        machine = create(aws, jsonata("A", A=TASK))
        arn = aws.start_execution(stateMachineArn=machine, input='{"seconds": 5}')["executionArn"]
        time.sleep(0.2)
        before = time.monotonic()
        aws.stop_execution(executionArn=arn, error="Enough", cause="it takes too long")
        execution = aws.describe_execution(executionArn=arn)
        assert time.monotonic() - before < 1
        assert (execution["status"], execution["error"], execution["cause"]) == (
            "ABORTED",
            "Enough",
            "it takes too long",
        )
        assert events(aws, execution)[-1] == "ExecutionAborted"

    def test_the_machines_TimeoutSeconds_ends_it_TIMED_OUT(self, aws):
        execution = run(aws, {**jsonata("A", A=TASK), "TimeoutSeconds": 1}, {"seconds": 4})
        assert execution["status"] == "TIMED_OUT"
        assert 1 <= (execution["stopDate"] - execution["startDate"]).total_seconds() < 2
        assert events(aws, execution)[-1] == "ExecutionTimedOut"

    def test_a_description_has_all_there_is(self, aws):
        execution = run(aws, jsonata("A", A={"Type": "Pass", "Output": "{% $now() %}", "End": True}), {"a": 1})
        assert json.loads(execution["input"]) == {"a": 1}
        assert execution["inputDetails"] == execution["outputDetails"] == {"included": True}
        assert execution["stopDate"] >= execution["startDate"]

    def test_a_history_comes_in_pages_in_both_orders_and_without_data(self, aws):
        execution = run(aws, jsonata("A", A=TASK), {"secret": 1})
        arn, everything = execution["executionArn"], []
        pages = aws.get_paginator("get_execution_history").paginate(executionArn=arn, maxResults=2)
        for page in pages:
            assert len(page["events"]) <= 2
            everything += page["events"]
        assert [event["id"] for event in everything] == list(range(1, len(everything) + 1))
        backwards = aws.get_execution_history(executionArn=arn, reverseOrder=True)["events"]
        assert backwards == everything[::-1]
        bare = aws.get_execution_history(executionArn=arn, includeExecutionData=False)["events"]
        assert "input" not in bare[0]["executionStartedEventDetails"]

    def test_executions_are_listed_newest_first_by_status_and_in_pages(self, aws):
        machine = create(aws, jsonata("A", A=TASK))
        arns = []
        for value in ({}, {"fail": "x"}, {}):
            arns.append(aws.start_execution(stateMachineArn=machine, input=json.dumps(value))["executionArn"])
            wait(aws, arns[-1])
        pages = aws.get_paginator("list_executions").paginate(stateMachineArn=machine, maxResults=1)
        assert [each["executionArn"] for page in pages for each in page["executions"]] == arns[::-1]
        failed = aws.list_executions(stateMachineArn=machine, statusFilter="FAILED")["executions"]
        assert [each["executionArn"] for each in failed] == [arns[1]]

    def test_an_express_machine_answers_at_once_and_keeps_nothing(self, aws):
        machine = create(aws, jsonata("A", A=TASK), type="EXPRESS")
        answer = aws.start_sync_execution(stateMachineArn=machine, input='{"n": 1}')
        assert answer["status"] == "SUCCEEDED" and json.loads(answer["output"]) == {"n": 1}
        failed = aws.start_sync_execution(stateMachineArn=machine, input='{"fail": "x"}')
        assert (failed["status"], failed["error"]) == ("FAILED", "OutOfRange")
        with pytest.raises(ClientError, match="StateMachineTypeNotSupported"):
            aws.list_executions(stateMachineArn=machine)
        started = aws.start_execution(stateMachineArn=machine, name="again")["executionArn"]
        assert started != aws.start_execution(stateMachineArn=machine, name="again")["executionArn"]
        with pytest.raises(ClientError, match="StateMachineTypeNotSupported"):
            aws.describe_execution(executionArn=started)

    def test_an_execution_runs_the_version_that_it_names(self, aws):
        machine = create(aws, jsonata("A", A={"Type": "Pass", "Output": 1, "End": True}), publish=True)
        second = jsonata("A", A={"Type": "Pass", "Output": 2, "End": True})
        aws.update_state_machine(stateMachineArn=machine, definition=json.dumps(second))
        assert output(wait(aws, aws.start_execution(stateMachineArn=machine)["executionArn"])) == 2
        first = wait(aws, aws.start_execution(stateMachineArn=f"{machine}:1")["executionArn"])
        assert output(first) == 1 and first["stateMachineVersionArn"] == f"{machine}:1"
        routes = [{"stateMachineVersionArn": f"{machine}:1", "weight": 100}]
        alias = aws.create_state_machine_alias(name="live", routingConfiguration=routes)["stateMachineAliasArn"]
        live = wait(aws, aws.start_execution(stateMachineArn=alias)["executionArn"])
        assert output(live) == 1 and live["stateMachineAliasArn"] == alias
        used = aws.describe_state_machine_for_execution(executionArn=live["executionArn"])
        assert json.loads(used["definition"])["States"]["A"]["Output"] == 1

    def test_a_deleted_machine_takes_its_executions_with_it(self, aws):
        machine = create(aws, jsonata("A", A={"Type": "Wait", "Seconds": 60, "End": True}))
        arn = aws.start_execution(stateMachineArn=machine)["executionArn"]
        aws.delete_state_machine(stateMachineArn=machine)
        with pytest.raises(ClientError, match="ExecutionDoesNotExist"):
            aws.describe_execution(executionArn=arn)

    def test_every_status_change_reaches_the_targets_of_a_rule(self, aws):
        sqs, sns, bus = boto3.client("sqs"), boto3.client("sns"), boto3.client("events")
        direct, by_topic = (sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("status", "status-by-topic"))
        topic = sns.create_topic(Name="status")["TopicArn"]
        sns.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint="arn:aws:sqs:us-east-1:123456789012:status-by-topic",
            Attributes={"RawMessageDelivery": "true"},
        )
        machine = create(aws, jsonata("A", A=TASK))
        pattern = {"source": ["aws.states"], "detail": {"stateMachineArn": [machine]}}
        bus.put_rule(Name="status", EventPattern=json.dumps(pattern))
        targets = [topic, "arn:aws:sqs:us-east-1:123456789012:status"]
        bus.put_targets(Rule="status", Targets=[{"Id": str(n), "Arn": arn} for n, arn in enumerate(targets)])
        try:
            arn = aws.start_execution(stateMachineArn=machine, input='{"fail": "x"}')["executionArn"]
            wait(aws, arn)
            for url in (direct, by_topic):
                received = []
                deadline = time.monotonic() + 10
                while len(received) < 2 and time.monotonic() < deadline:
                    found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
                    received += [json.loads(message["Body"]) for message in found.get("Messages", [])]
                assert [event["detail"]["status"] for event in received] == ["RUNNING", "FAILED"]
                assert received[1]["detail-type"] == "Step Functions Execution Status Change"
                assert received[1]["resources"] == [arn]
                assert received[1]["detail"]["error"] == "OutOfRange"
        finally:
            bus.remove_targets(Rule="status", Ids=["0", "1"])
            bus.delete_rule(Name="status")


def test_an_image_that_a_history_repeats_is_archived_once():
    image = base64.b64encode(os.urandom(30_000)).decode()
    text = json.dumps([{"n": n, "image": image, "other": "line\nbreak"} for n in range(9)])
    packed = pack(text)
    assert unpack(packed) == text
    assert len(packed) < len(image)


class TestMapRuns:
    def test_each_item_is_an_execution_of_its_own(self, aws):
        execution = run(aws, distributed(Label="Items", MaxConcurrency=4), [{"n": n} for n in range(12)])
        assert output(execution) == [{"n": n} for n in range(12)]
        done = map_run(aws, execution)
        assert done["status"] == "SUCCEEDED"
        assert counts(done) == counts(done, "executionCounts") == {"succeeded": 12, "total": 12}
        children = aws.list_executions(mapRunArn=done["mapRunArn"])["executions"]
        assert len({child["executionArn"] for child in children}) == 12
        child = aws.describe_execution(executionArn=children[-1]["executionArn"])
        assert child["mapRunArn"] == done["mapRunArn"] and child["stateMachineArn"].endswith("/Items")
        assert json.loads(child["input"]) == json.loads(child["output"])
        assert "TaskSucceeded" in events(aws, child)
        assert events(aws, execution)[2:-1] == [
            "MapStateStarted",
            "MapRunStarted",
            "MapRunSucceeded",
            "MapStateSucceeded",
            "MapStateExited",
        ]

    @pytest.mark.parametrize(
        ("tolerance", "status"),
        [
            ({}, "FAILED"),
            ({"ToleratedFailurePercentage": 29}, "FAILED"),
            ({"ToleratedFailurePercentage": 30}, "SUCCEEDED"),
            ({"ToleratedFailurePercentage": 30.5}, "SUCCEEDED"),
            ({"ToleratedFailureCount": 2}, "FAILED"),
            ({"ToleratedFailureCount": 3}, "SUCCEEDED"),
            ({"ToleratedFailureCount": "{% $count($states.input) - 7 %}"}, "SUCCEEDED"),
            ({"ToleratedFailurePercentage": 100, "ToleratedFailureCount": 1}, "FAILED"),
        ],
    )
    def test_failures_are_tolerated_as_far_as_the_state_says(self, aws, tolerance, status):
        items = [{"n": n} if n > 2 else {"fail": "x"} for n in range(10)]
        execution = run(aws, distributed(MaxConcurrency=1, **tolerance), items)
        assert execution["status"] == map_run(aws, execution)["status"] == status
        if status == "FAILED":
            assert execution["error"] == "States.ExceedToleratedFailureThreshold"
            assert "MapRunFailed" in events(aws, execution)

    def test_past_the_tolerance_no_further_item_is_started(self, aws):
        execution = run(aws, distributed(MaxConcurrency=1), [{"fail": "x"}] * 5)
        assert counts(map_run(aws, execution)) == {"failed": 1, "aborted": 4, "total": 5}

    def test_a_tolerated_failure_stands_in_the_output_with_its_error(self, aws):
        execution = run(aws, distributed(ToleratedFailurePercentage=100), [{"n": 0}, {"fail": "why"}, {"n": 2}])
        first, failed, last = output(execution)
        assert (first, last) == ({"n": 0}, {"n": 2})
        assert (failed["Status"], failed["Error"]) == ("FAILED", "OutOfRange")
        assert json.loads(failed["Cause"])["errorMessage"] == "why"
        assert counts(map_run(aws, execution)) == {"succeeded": 2, "failed": 1, "total": 3}

    def test_counts_are_right_while_it_runs_and_MaxConcurrency_is_kept(self, aws):
        machine = create(aws, distributed(MaxConcurrency=3))
        items = [{"n": n, "seconds": 0.4} for n in range(7)]
        arn = aws.start_execution(stateMachineArn=machine, input=json.dumps(items))["executionArn"]
        most, execution = 0, aws.describe_execution(executionArn=arn)
        while execution["status"] == "RUNNING":
            for run in aws.list_map_runs(executionArn=arn)["mapRuns"]:
                now = aws.describe_map_run(mapRunArn=run["mapRunArn"])["itemCounts"]
                parts = ("pending", "running", "succeeded", "failed", "timedOut", "aborted")
                assert sum(now[name] for name in parts) == now["total"]
                most = max(most, now["running"])
            time.sleep(0.02)
            execution = aws.describe_execution(executionArn=arn)
        assert most == 3
        assert len(output(execution)) == 7

    def test_stopping_the_execution_aborts_its_children(self, aws):
        machine = create(aws, distributed(MaxConcurrency=2))
        items = json.dumps([{"seconds": 5}] * 6)
        arn = aws.start_execution(stateMachineArn=machine, input=items)["executionArn"]
        deadline = time.monotonic() + 10
        while not (runs := aws.list_map_runs(executionArn=arn)["mapRuns"]) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        aws.stop_execution(executionArn=arn)
        stopped = aws.describe_map_run(mapRunArn=runs[0]["mapRunArn"])
        assert stopped["status"] == "ABORTED"
        assert counts(stopped) == {"aborted": 6, "total": 6}
        children = aws.list_executions(mapRunArn=runs[0]["mapRunArn"])["executions"]
        assert {child["status"] for child in children} == {"ABORTED"}

    def test_no_items_make_an_empty_output(self, aws):
        assert output(run(aws, distributed(), [])) == []

    def test_items_that_are_no_array_fail_the_state(self, aws):
        assert run(aws, distributed(), {"n": 1})["error"] == "States.QueryEvaluationError"

    def test_an_ItemSelector_that_fails_fails_the_map_run(self, aws):
        for selector in ({"a": "{% $states.context.Map.Item.Value.a %}"}, {"a": "{% 1 + 'a' %}"}):
            execution = run(aws, distributed(ItemSelector=selector), [{"a": 1}, {}])
            assert execution["error"] == "States.QueryEvaluationError"
            assert map_run(aws, execution)["status"] == "FAILED"

    def test_a_running_map_run_takes_a_new_concurrency_and_tolerance(self, aws):
        machine = create(aws, distributed(MaxConcurrency=1))
        items = json.dumps([{"seconds": 0.3, "fail": "x"}] + [{"seconds": 0.3}] * 5)
        arn = aws.start_execution(stateMachineArn=machine, input=items)["executionArn"]
        deadline = time.monotonic() + 10
        while not (runs := aws.list_map_runs(executionArn=arn)["mapRuns"]) and time.monotonic() < deadline:
            time.sleep(0.01)
        run = runs[0]["mapRunArn"]
        aws.update_map_run(mapRunArn=run, maxConcurrency=6, toleratedFailureCount=1)
        time.sleep(0.1)
        changed = aws.describe_map_run(mapRunArn=run)
        assert (changed["maxConcurrency"], changed["itemCounts"]["running"]) == (6, 6)
        assert wait(aws, arn)["status"] == "SUCCEEDED"

    def test_a_thousand_items_lose_none(self, aws):
        child = {"Type": "Pass", "Output": "{% $states.input + 1 %}", "End": True}
        execution = run(aws, distributed(child, "EXPRESS", MaxConcurrency=1000), list(range(1000)))
        assert output(execution) == list(range(1, 1001))
        assert counts(map_run(aws, execution)) == {"succeeded": 1000, "total": 1000}

    def test_express_children_have_no_history(self, aws):
        execution = run(aws, distributed(execution_type="EXPRESS"), [{"n": 1}])
        [child] = aws.list_executions(mapRunArn=map_run(aws, execution)["mapRunArn"])["executions"]
        assert ":express:" in child["executionArn"]
        assert json.loads(aws.describe_execution(executionArn=child["executionArn"])["output"]) == {"n": 1}
        with pytest.raises(ClientError, match="StateMachineTypeNotSupported"):
            aws.get_execution_history(executionArn=child["executionArn"])

    def test_children_see_themselves_in_the_context_and_no_outer_variables(self, aws):
        child = {"Type": "Pass", "Output": "{% [$states.context.Execution.Id, $exists($outer)] %}", "End": True}
        definition = distributed(child)
        definition["StartAt"] = "Remember"
        definition["States"]["Remember"] = {"Type": "Pass", "Assign": {"outer": 1}, "Next": "Map"}
        execution = run(aws, definition, [0])
        [listed] = aws.list_executions(mapRunArn=map_run(aws, execution)["mapRunArn"])["executions"]
        assert output(execution) == [[listed["executionArn"], False]]

    def test_a_distributed_map_in_a_distributed_map(self, aws):
        inner = distributed()["States"]["Map"]
        inner["ItemProcessor"]["StartAt"] = "Inner"
        inner["ItemProcessor"]["States"] = {
            "Inner": {"Type": "Pass", "Output": "{% $states.input * 10 %}", "End": True}
        }
        assert output(run(aws, distributed(inner, MaxConcurrency=2), [[1, 2], [3]])) == [[10, 20], [30]]

    def test_an_inline_map_stays_inside_its_execution(self, aws):
        definition = distributed()
        del definition["States"]["Map"]["ItemProcessor"]["ProcessorConfig"]
        execution = run(aws, definition, [{"n": 1}, {"n": 2}])
        assert output(execution) == [{"n": 1}, {"n": 2}]
        assert aws.list_map_runs(executionArn=execution["executionArn"])["mapRuns"] == []

    def test_an_inline_map_has_variables_an_iteration_and_no_end_of_iterations(self, aws):
        definition = distributed(
            {"Type": "Pass", "Assign": {"n": "{% $states.input %}"}, "Next": "Tell"}, MaxConcurrency=1
        )
        processor = definition["States"]["Map"]["ItemProcessor"]
        del processor["ProcessorConfig"]
        processor["States"]["Tell"] = {"Type": "Pass", "Output": "{% $n %}", "End": True}
        assert output(run(aws, definition, list(range(1500)))) == list(range(1500))

    def test_items_are_selected_and_put_together_to_batches(self, aws):
        child = PASS
        fields = {
            "ItemSelector": {
                "index": "{% $states.context.Map.Item.Index %}",
                "n": "{% $states.context.Map.Item.Value.n %}",
                "of": "{% $count($states.input) %}",
            },
            "ItemBatcher": {"MaxItemsPerBatch": 2, "BatchInput": {"first": "{% $states.input[0].n %}"}},
        }
        execution = run(aws, distributed(child, **fields), [{"n": n * 10} for n in range(3)])
        items = [{"index": n, "n": n * 10, "of": 3} for n in range(3)]
        assert output(execution) == [
            {"BatchInput": {"first": 0}, "Items": items[:2]},
            {"BatchInput": {"first": 0}, "Items": items[2:]},
        ]
        done = map_run(aws, execution)
        assert done["itemCounts"]["succeeded"] == 3 and done["executionCounts"]["succeeded"] == 2

    def test_a_failed_batch_counts_all_its_items_as_failed(self, aws):
        child = {"Type": "Fail", "Error": "Mine"}
        fields = {"ItemBatcher": {"MaxItemsPerBatch": 3}, "ToleratedFailurePercentage": 100}
        execution = run(aws, distributed(child, **fields), list(range(5)))
        assert counts(map_run(aws, execution)) == {"failed": 5, "total": 5}

    def test_batches_keep_to_their_size_in_bytes(self, aws):
        batcher = {"MaxInputBytesPerBatch": 200}
        execution = run(aws, distributed(PASS, ItemBatcher=batcher), ["x" * 50] * 7)
        sizes = [len(json.dumps(batch, separators=(",", ":"))) for batch in output(execution)]
        assert len(sizes) == 3 and max(sizes) <= 200

    @pytest.mark.parametrize(
        ("config", "body", "items"),
        [
            ({"InputType": "JSON"}, '[1, {"a": null}]', [1, {"a": None}]),
            ({"InputType": "JSONL"}, '{"n": 1}\n\n{"n": 2}\n', [{"n": 1}, {"n": 2}]),
            ({"InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW"}, 'n,t\n1,"a,b"\n', [{"n": "1", "t": "a,b"}]),
            (
                {"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["a", "b"], "CSVDelimiter": "PIPE"},
                "1|2\n3|4\n",
                [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}],
            ),
            ({"InputType": "JSON", "MaxItems": 2}, "[1, 2, 3]", [1, 2]),
        ],
    )
    def test_items_are_read_from_an_object(self, aws, config, body, items):
        put("workflows/items", body)
        reader = {
            "Resource": "arn:aws:states:::s3:getObject",
            "ReaderConfig": config,
            "Arguments": {"Bucket": BUCKET, "Key": "{% $states.input.key %}"},
        }
        definition = distributed(PASS, ItemReader=reader)
        assert output(run(aws, definition, {"key": "workflows/items"})) == items

    def test_items_that_cannot_be_read_fail_the_map_run(self, aws):
        put("workflows/broken", "no JSON")
        reader = {"Resource": "arn:aws:states:::s3:getObject", "ReaderConfig": {"InputType": "JSON"}}
        for key in ("workflows/broken", "workflows/missing"):
            reader["Arguments"] = {"Bucket": BUCKET, "Key": key}
            execution = run(aws, distributed(ItemReader=reader), {})
            assert execution["error"] == "States.ItemReaderFailed"
            assert map_run(aws, execution)["status"] == "FAILED"

    def test_a_prefix_with_more_than_a_thousand_objects_is_read_to_its_end(self, aws):
        for number in range(1003):
            put(f"workflows/many/{number:04d}", "x")
        reader = {
            "Resource": "arn:aws:states:::s3:listObjectsV2",
            "Arguments": {"Bucket": "{% $states.input.bucket %}", "Prefix": "{% $states.input.prefix %}"},
        }
        definition = distributed(
            PASS,
            "EXPRESS",
            ItemReader=reader,
            ItemSelector="{% $states.context.Map.Item.Value.Key %}",
            ResultWriter={
                "Resource": "arn:aws:states:::s3:putObject",
                "Arguments": {"Bucket": BUCKET, "Prefix": "workflows/listed"},
                "WriterConfig": {"Transformation": "COMPACT", "OutputType": "JSON"},
            },
        )
        execution = run(aws, definition, {"bucket": BUCKET, "prefix": "workflows/many/"})
        manifest = get(output(execution)["ResultWriterDetails"]["Key"])
        written = get(manifest["ResultFiles"]["SUCCEEDED"][0]["Key"])
        assert sorted(written) == [f"workflows/many/{number:04d}" for number in range(1003)]

    def test_result_files_tell_what_became_of_each_child(self, aws):
        writer = {
            "Resource": "arn:aws:states:::s3:putObject",
            "Arguments": {"Bucket": BUCKET, "Prefix": "workflows/results/"},
        }
        definition = distributed(ResultWriter=writer, ToleratedFailurePercentage=100)
        execution = run(aws, definition, [{"n": 1}, {"fail": "why"}])
        done = map_run(aws, execution)
        details = output(execution)
        assert details["MapRunArn"] == done["mapRunArn"]
        folder = f"workflows/results/{done['mapRunArn'].rsplit(':', 1)[-1]}"
        assert details["ResultWriterDetails"] == {"Bucket": BUCKET, "Key": f"{folder}/manifest.json"}
        manifest = get(f"{folder}/manifest.json")
        assert manifest["DestinationBucket"] == BUCKET and manifest["MapRunArn"] == done["mapRunArn"]
        [succeeded], [failed] = get(f"{folder}/SUCCEEDED_0.json"), get(f"{folder}/FAILED_0.json")
        head = s3().head_object(Bucket=BUCKET, Key=f"{folder}/FAILED_0.json")
        assert manifest["ResultFiles"]["FAILED"] == [{"Key": f"{folder}/FAILED_0.json", "Size": head["ContentLength"]}]
        assert json.loads(succeeded["Input"]) == json.loads(succeeded["Output"]) == {"n": 1}
        assert (failed["Status"], failed["Error"]) == ("FAILED", "OutOfRange") and "Output" not in failed
        assert done["itemCounts"]["resultsWritten"] == 2

    @pytest.mark.parametrize(("transformation", "result"), [("COMPACT", [[1, 2], [3]]), ("FLATTEN", [1, 2, 3])])
    def test_the_output_is_transformed_without_a_bucket_too(self, aws, transformation, result):
        writer = {"WriterConfig": {"Transformation": transformation, "OutputType": "JSON"}}
        execution = run(aws, distributed(PASS, ResultWriter=writer), [[1, 2], [3]])
        assert output(execution) == result

    def test_results_that_cannot_be_written_fail_the_map_run(self, aws):
        writer = {"Resource": "arn:aws:states:::s3:putObject", "Arguments": {"Bucket": "nobodys", "Prefix": "x"}}
        execution = run(aws, distributed(PASS, ResultWriter=writer), [1])
        assert execution["error"] == "States.ResultWriterFailed"

    def test_the_same_in_JSONPath(self, aws):
        definition = {
            "StartAt": "Map",
            "States": {
                "Map": {
                    "Type": "Map",
                    "ItemsPath": "$.items",
                    "ItemSelector": {"n.$": "$$.Map.Item.Value", "index.$": "$$.Map.Item.Index", "of.$": "$.of"},
                    "ItemBatcher": {"MaxItemsPerBatchPath": "$.size", "BatchInput": {"of.$": "$.of"}},
                    "MaxConcurrencyPath": "$.concurrency",
                    "ToleratedFailureCountPath": "$.tolerated",
                    "ItemProcessor": {
                        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS"},
                        "StartAt": "Child",
                        "States": {"Child": PASS},
                    },
                    "ResultPath": "$.result",
                    "OutputPath": "$.result",
                    "End": True,
                }
            },
        }
        value = {"items": ["a", "b"], "of": "letters", "size": 1, "concurrency": 1, "tolerated": 1}
        execution = run(aws, definition, value)
        assert output(execution) == [
            {"BatchInput": {"of": "letters"}, "Items": [{"n": item, "index": n, "of": "letters"}]}
            for n, item in enumerate("ab")
        ]
        done = map_run(aws, execution)
        assert (done["maxConcurrency"], done["toleratedFailureCount"]) == (1, 1)


def with_each_value_replaced(tree, value):
    """Copies of a JSON tree, each with one of its values replaced."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in pairs:
        for changed in (value, *with_each_value_replaced(item, value)):
            copied = copy.deepcopy(tree)
            copied[key] = changed
            yield copied


class TestDefinitions:
    @pytest.mark.parametrize(
        ("definition", "code", "location"),
        [
            (jsonata("Nobody", A=PASS), "MISSING_TRANSITION_TARGET", "/StartAt"),
            (jsonata("A", A={"Type": "Pass", "Next": "Nobody"}), "MISSING_TRANSITION_TARGET", "/States/A/Next"),
            (jsonata("A", A={"Type": "Pass"}), "SCHEMA_VALIDATION_FAILED", "/States/A"),
            (jsonata("A", A=PASS, B=PASS), "MISSING_TRANSITION_TARGET", "/States/B"),
            (jsonata("A", A={**PASS, "InputPath": "$"}), "SCHEMA_VALIDATION_FAILED", "/States/A/InputPath"),
            (jsonata("A", A={**PASS, "Nxet": "B"}), "SCHEMA_VALIDATION_FAILED", "/States/A/Nxet"),
            (jsonata("A", A={**PASS, "Type": "Map"}), "SCHEMA_VALIDATION_FAILED", "/States/A"),
            (jsonata("A", A={**PASS, "Output": "{% 1 + %}"}), "SCHEMA_VALIDATION_FAILED", "/States/A/Output"),
            (
                jsonata("A", A={**TASK, "Catch": [{"ErrorEquals": ["E"], "Next": "Nobody"}]}),
                "MISSING_TRANSITION_TARGET",
                "/States/A/Catch[0]/Next",
            ),
            (
                jsonata("A", A={**TASK, "Retry": [{"ErrorEquals": ["States.Nothing"]}]}),
                "SCHEMA_VALIDATION_FAILED",
                "/States/A/Retry[0]/ErrorEquals",
            ),
            (
                jsonata(
                    "A", A={"Type": "Choice", "Choices": [{"Condition": "{% true %}", "Next": "A"}], "Default": "B"}
                ),
                "MISSING_TRANSITION_TARGET",
                "/States/A/Default",
            ),
            (
                distributed({**PASS, "Next": "Nobody"}),
                "SCHEMA_VALIDATION_FAILED",
                "/States/Map/ItemProcessor/States/Child",
            ),
            (
                jsonata("Child", Child={**distributed(PASS)["States"]["Map"]}),
                "DUPLICATE_STATE_NAME",
                "/States/Child/ItemProcessor/States/Child",
            ),
            (
                distributed(ToleratedFailurePercentage=101),
                "SCHEMA_VALIDATION_FAILED",
                "/States/Map/ToleratedFailurePercentage",
            ),
            (
                distributed(execution_type="FAST"),
                "SCHEMA_VALIDATION_FAILED",
                "/States/Map/ItemProcessor/ProcessorConfig/ExecutionType",
            ),
            (
                jsonata("A", A={**PASS, "Type": "Task", "Resource": "arn:aws:states:us-east-1:1:activity:x"}),
                "INVALID_RESOURCE",
                "/States/A/Resource",
            ),
            (
                distributed(
                    ItemReader={
                        "Resource": "arn:aws:states:::s3:getObject",
                        "ReaderConfig": {"InputType": "PARQUET"},
                        "Arguments": {},
                    }
                ),
                "SCHEMA_VALIDATION_FAILED",
                "/States/Map/ItemReader/ReaderConfig/InputType",
            ),
        ],
    )
    def test_a_fault_is_found_where_it_is(self, aws, definition, code, location):
        text = json.dumps(definition)
        assert (code, location) in [(fault.code, fault.location) for fault in faults(text)]
        with pytest.raises(ClientError) as refusal:
            create(aws, definition)
        error = refusal.value.response["Error"]
        assert error["Code"] == "InvalidDefinition"
        assert code in error["Message"] and location in error["Message"]
        report = aws.validate_state_machine_definition(definition=text)
        assert report["result"] == "FAIL"
        assert location in [diagnostic["location"] for diagnostic in report["diagnostics"]]

    @pytest.mark.parametrize("wrong", [None, 5, "x", [], {}, [5], {"x": 5}, True])
    def test_a_value_of_a_wrong_type_anywhere_is_refused_or_taken_and_never_breaks_the_check(self, wrong):
        reader = {
            "Resource": "arn:aws:states:::s3:getObject",
            "ReaderConfig": {"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["a"]},
            "Arguments": {"Bucket": "b", "Key": "k"},
        }
        catch = {**TASK, "Retry": [{"ErrorEquals": ["E"]}], "Catch": [{"ErrorEquals": ["E"], "Next": "Choose"}]}
        definition = distributed(
            catch, ItemReader=reader, ItemBatcher={"MaxItemsPerBatch": 1}, ResultWriter={}, Label="L"
        )
        choose = {"Type": "Choice", "Choices": [{"Condition": "{% true %}", "Next": "Child"}], "Default": "Child"}
        definition["States"]["Map"]["ItemProcessor"]["States"]["Choose"] = choose
        assert all_faults(json.dumps(definition), None) == []
        for changed in with_each_value_replaced(definition, wrong):
            assert all(isinstance(fault, Fault) for fault in all_faults(json.dumps(changed), None))

    def test_an_express_machine_neither_waits_nor_has_a_distributed_map(self, aws):
        waiting = jsonata("A", A={**TASK, "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken"})
        for definition in (waiting, distributed()):
            create(aws, definition)
            with pytest.raises(ClientError, match="EXPRESS"):
                create(aws, definition, type="EXPRESS")

    def test_text_that_is_no_JSON_is_refused(self, aws):
        with pytest.raises(ClientError, match="INVALID_JSON_DESCRIPTION"):
            aws.create_state_machine(name="broken", definition="{", roleArn=ROLE)

    def test_an_update_is_checked_too(self, aws):
        machine = create(aws, jsonata("A", A=PASS))
        with pytest.raises(ClientError, match="InvalidDefinition"):
            aws.update_state_machine(stateMachineArn=machine, definition=json.dumps(jsonata("B", A=PASS)))

    def test_the_definition_is_described_as_it_was_given(self, aws):
        text = json.dumps(distributed(ToleratedFailurePercentage=5, ItemBatcher={"MaxItemsPerBatch": 2}), indent=3)
        name = f"machine-{uuid.uuid4()}"
        arn = aws.create_state_machine(name=name, definition=text, roleArn=ROLE)["stateMachineArn"]
        assert aws.describe_state_machine(stateMachineArn=arn)["definition"] == text
        assert aws.validate_state_machine_definition(definition=text)["result"] == "OK"

    def test_a_name_is_taken_by_another_definition(self, aws):
        text, name = json.dumps(jsonata("A", A=PASS)), f"machine-{uuid.uuid4()}"
        made = [aws.create_state_machine(name=name, definition=text, roleArn=ROLE)["stateMachineArn"] for _ in range(2)]
        assert made[0] == made[1]
        with pytest.raises(ClientError, match="StateMachineAlreadyExists"):
            aws.create_state_machine(name=name, definition=json.dumps(jsonata("B", B=PASS)), roleArn=ROLE)
