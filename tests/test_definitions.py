"""The two definitions: what they chain, retry and leave out, and what an execution of them ends in on the local AWS."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import psutil
import pytest
from conftest import ROOT
from pipeline import DEFINITION, ENDPOINT, FUNCTIONS, TAGS, deploy_endpoint, deploy_functions, train
from sagemaker_jobs import BUCKET, ROLE, create_config, png, wait_for_endpoint

from scones import workflow
from scones.teardown import tear_down

SINGLE = json.loads((ROOT / "state_machine_definition.json").read_text())
PARALLEL = json.loads((ROOT / "parallel_state_machine_definition.json").read_text())
MAPS = [state for state in PARALLEL["States"].values() if state["Type"] == "Map"]
CHAINS = [SINGLE, *[state["ItemProcessor"] for state in MAPS]]
TRANSIENT = {
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
}


@pytest.mark.parametrize("chain", CHAINS)
def test_the_three_states_follow_each_other(chain):
    states, name, order = chain["States"], chain["StartAt"], []
    while name:
        order.append((name.removesuffix(" (listed)"), states[name]["Arguments"]["FunctionName"]))
        name = states[name].get("Next")
    assert order == list(zip(["Serialize image", "Run inference", "Check threshold"], FUNCTIONS, strict=True))


@pytest.mark.parametrize("chain", CHAINS)
def test_only_errors_that_pass_by_themselves_are_retried_with_full_jitter(chain):
    for name, state in chain["States"].items():
        [retrier] = state["Retry"]
        more = {"EndpointUnavailable"} if name.startswith("Run inference") else set()
        assert set(retrier["ErrorEquals"]) == TRANSIENT | more
        assert retrier["JitterStrategy"] == "FULL"


@pytest.mark.parametrize("definition", [SINGLE, PARALLEL])
def test_a_definition_names_no_account_and_no_region(definition):
    text = json.dumps(definition)
    assert not re.search(r"\d{12}|[a-z]{2}-[a-z]+-\d|arn:aws:lambda", text)
    assert definition["QueryLanguage"] == "JSONata"


def test_both_maps_are_distributed_tolerate_every_failure_and_run_ten_at_a_time():
    for state in MAPS:
        assert state["ItemProcessor"]["ProcessorConfig"]["Mode"] == "DISTRIBUTED"
        assert state["ToleratedFailurePercentage"] == 100
        assert state["MaxConcurrency"] == 10


def find_cfn_lint() -> str | None:
    """cfn-lint beside the Python that runs the tests, or in the environment that `make check` uses."""
    folders = [Path(sys.executable).parent, ROOT / ".venv-check" / "bin"]
    return shutil.which("cfn-lint", path=":".join(map(str, folders)))


def cfn_lint_faults(folder: Path, **properties: dict) -> list[tuple[str, str, str]]:
    """(template, rule, message) of each error that cfn-lint finds, given a state machine's properties by template."""
    for name, given in properties.items():
        machine = {"Type": "AWS::StepFunctions::StateMachine", "Properties": {"RoleArn": ROLE, **given}}
        (folder / f"{name}.json").write_text(json.dumps({"Resources": {"Machine": machine}}))
    templates = [str(folder / f"{name}.json") for name in properties]
    command = [find_cfn_lint(), "--format", "json", "--non-zero-exit-code", "none", "--template", *templates]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout)
    return sorted((Path(fault["Filename"]).stem, fault["Rule"]["Id"], fault["Message"]) for fault in found)


@pytest.mark.skipif(find_cfn_lint() is None, reason="cfn-lint is not installed: requirements-check.txt has it")
def test_cfn_lint_finds_nothing_wrong_with_the_definitions_and_sees_what_is_put_into_them(tmp_path):
    faulty = json.loads(json.dumps(SINGLE))
    faulty["States"]["Serialize image"]["InputPath"] = "$"  # of the language JSONPath, not of JSONata
    del faulty["States"]["Run inference"]["Resource"]
    assert cfn_lint_faults(
        tmp_path,
        single={"Definition": SINGLE},
        single_text={"DefinitionString": json.dumps(SINGLE)},
        parallel={"Definition": PARALLEL},
        parallel_text={"DefinitionString": json.dumps(PARALLEL)},
        faulty={"Definition": faulty},
    ) == [
        ("faulty", "E3601", "'Resource' is a required property"),
        ("faulty", "E3601", "Additional properties are not allowed ('InputPath' was unexpected)"),
    ]


@pytest.fixture(scope="module")
def machines(local):
    """The endpoint, the functions and both machines, deployed on the local AWS; their ARNs by "one" and "many"."""
    session, s3 = boto3.Session(), boto3.client("s3")
    deploy_endpoint(train())
    deploy_functions(threshold=0.6)
    for number in range(12):
        s3.put_object(Bucket=BUCKET, Key=f"orders/{number:02d}.png", Body=png(number % 2, number))
    for key, body in (("text.png", b"no image"), ("large.png", png(0, 1, size=400)), ("orders/zz.png", b"no image")):
        s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    one = workflow.deploy_state_machine(session, "one", ROOT / "state_machine_definition.json", ROLE, TAGS)
    many = workflow.deploy_state_machine(session, "many", DEFINITION, ROLE, TAGS)
    yield {"one": one, "many": many}
    boto3.client("sagemaker").delete_endpoint(EndpointName=ENDPOINT)
    assert tear_down(session, TAGS["run"], BUCKET, []) == []


def order(key: str, bucket: str = BUCKET) -> dict:
    return {"image_data": "", "s3_bucket": bucket, "s3_key": key, "inferences": []}


def test_a_sure_image_passes_and_its_data_are_left_out(machines):
    execution = workflow.run(boto3.Session(), machines["one"], order("orders/00.png"))
    assert execution["status"] == "SUCCEEDED"
    inferences = execution["output"].pop("inferences")
    assert max(inferences) >= 0.6
    assert execution["output"] == {"s3_bucket": BUCKET, "s3_key": "orders/00.png"}


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (order("missing.png"), "ImageNotFound"),
        (order("a.png", "no-such-bucket"), "ImageNotFound"),
        (order("text.png"), "NotAnImage"),
        (order("large.png"), "ImageTooLarge"),
        ({"s3_bucket": BUCKET}, "InvalidEvent"),
        ([], "InvalidEvent"),
        ("text", "InvalidEvent"),
    ],
)
def test_what_is_wrong_with_an_image_is_the_execution_s_error(machines, event, error):
    execution = workflow.run(boto3.Session(), machines["one"], event)
    assert (execution["status"], execution["error"]) == ("FAILED", error)
    assert json.loads(execution["cause"])["errorMessage"]


def test_an_image_below_the_threshold_fails_with_its_numbers(machines):
    client = boto3.client("lambda")
    client.update_function_configuration(
        FunctionName="ImageDataPassThreshold", Environment={"Variables": {"THRESHOLD": "1"}}
    )
    execution = workflow.run(boto3.Session(), machines["one"], order("orders/01.png"))
    client.update_function_configuration(
        FunctionName="ImageDataPassThreshold", Environment={"Variables": {"THRESHOLD": "0.6"}}
    )
    assert (execution["status"], execution["error"]) == ("FAILED", "ThresholdNotMet")
    assert json.loads(execution["cause"])["errorMessage"].startswith("THRESHOLD_CONFIDENCE_NOT_MET")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_list_of_images_ends_in_one_result_or_named_error_each(machines, wrapped):
    events = [order("orders/00.png"), order("missing.png"), order("orders/01.png"), {}]
    execution = workflow.run(boto3.Session(), machines["many"], {"images": events} if wrapped else events)
    results = workflow.map_results(boto3.Session(), execution)
    assert execution["status"] == "SUCCEEDED"
    assert [result.get("Error") for result in results] == [None, "ImageNotFound", None, "InvalidEvent"]
    assert [result.get("s3_key") for result in results] == ["orders/00.png", None, "orders/01.png", None]


def test_a_prefix_s_results_are_written_to_s3(machines):
    execution = workflow.run(boto3.Session(), machines["many"], {"bucket": BUCKET, "prefix": "orders/"})
    results = workflow.map_results(boto3.Session(), execution)
    assert execution["output"]["ResultWriterDetails"]["Bucket"] == BUCKET
    assert sorted(result["s3_key"] for result in results if "s3_key" in result) == [
        f"orders/{n:02d}.png" for n in range(12)
    ]
    assert [result["Error"] for result in results if result.get("Status") == "FAILED"] == ["NotAnImage"]


def test_an_endpoint_that_is_away_is_asked_four_times_and_then_named(machines):
    boto3.client("sagemaker").delete_endpoint(EndpointName=ENDPOINT)
    execution = workflow.run(boto3.Session(), machines["one"], order("orders/00.png"))
    boto3.client("sagemaker").create_endpoint(EndpointName=ENDPOINT, EndpointConfigName=ENDPOINT)
    wait_for_endpoint(ENDPOINT)
    assert execution["error"] == "EndpointUnavailable"
    assert failed_tasks(execution["executionArn"]) == ["EndpointUnavailable"] * 4


def test_a_bad_event_is_not_tried_again(machines):
    execution = workflow.run(boto3.Session(), machines["one"], {})
    assert failed_tasks(execution["executionArn"]) == ["InvalidEvent"]


def failed_tasks(arn: str) -> list[str]:
    events = boto3.client("stepfunctions").get_execution_history(executionArn=arn)["events"]
    details = [event.get("taskFailedEventDetails") for event in events]
    return [detail["error"] for detail in details if detail]


def test_a_map_over_a_prefix_keeps_nothing_of_its_images(machines, local):
    create_config("uncaptured", ENDPOINT)  # captured records would be kept, in S3
    boto3.client("sagemaker").update_endpoint(EndpointName=ENDPOINT, EndpointConfigName="uncaptured")
    wait_for_endpoint(ENDPOINT)
    image = png(0, 0, size=240)
    for number in range(200):
        boto3.client("s3").put_object(Bucket=BUCKET, Key=f"large/{number:03d}.png", Body=image)
    server = psutil.Process(local._process.pid)
    before = server.memory_info().rss
    execution = workflow.run(boto3.Session(), machines["many"], {"bucket": BUCKET, "prefix": "large/"})
    assert len(workflow.map_results(boto3.Session(), execution)) == 200
    assert server.memory_info().rss - before < 200 * len(image) / 2
