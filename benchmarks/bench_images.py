"""Images a second through parallel_state_machine_definition.json: the three real handlers and a real endpoint.

    python benchmarks/bench_images.py [--json FILE] [--full]

100 and 1,000 images are given as an array, so their children are STANDARD; 5,000 as a prefix: their children are
EXPRESS and the results are files in S3. MaxConcurrency is 10, as in the definition, and 40. Every image must end well,
so the threshold is 0.5, below which the larger of two probabilities cannot be. The figures are the medians of RUNS
runs; the 5,000 run once, and RUNS times with --full.

Where the time goes: seconds of CPU time a 1,000 images (MaxConcurrency 10) in the server, which holds Step Functions,
Lambda, S3 and SageMaker; in the workers, which are the handlers; in the endpoint's model server; and in this program,
which only waits. Memory is the server's resident set, and the proportional set (elsewhere the resident one) of all that
it has started.
"""

import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import boto3
import psutil
from figures import Row, figure, finish, parser
from pipeline import DEFINITION, deploy_endpoint, deploy_functions, train
from sagemaker_jobs import BUCKET, ROLE, png

import local_aws

CONCURRENCY = (10, 40)
LISTED = (100, 1000)
UNDER_PREFIX = 5000
RUNS = 3
POLL_SECONDS = 0.02


def deploy() -> dict[int, str]:
    """The endpoint, the functions, 5,000 images below orders/, and a machine for each MaxConcurrency; their ARNs."""
    s3 = boto3.client("s3")
    deploy_endpoint(train())
    deploy_functions(threshold=0.5)
    images = [png(number % 2, number) for number in range(100)]
    for number in range(UNDER_PREFIX):
        s3.put_object(Bucket=BUCKET, Key=key_of(number), Body=images[number % len(images)])
    return {number: create_machine(number) for number in CONCURRENCY}


def key_of(number: int) -> str:
    return f"orders/{number:04d}.png"


def create_machine(max_concurrency: int) -> str:
    definition = json.loads(DEFINITION.read_text())
    for state in definition["States"].values():
        if state["Type"] == "Map":
            state["MaxConcurrency"] = max_concurrency
    made = boto3.client("stepfunctions").create_state_machine(
        name=f"images-{max_concurrency}", definition=json.dumps(definition), roleArn=ROLE
    )
    return made["stateMachineArn"]


def images_a_second(machine: str, images: int) -> float:
    """Of one execution; raises RuntimeError unless every image ended well."""
    event = {"bucket": BUCKET, "prefix": "orders/"}
    if images < UNDER_PREFIX:
        event = {"images": [{"s3_bucket": BUCKET, "s3_key": key_of(number)} for number in range(images)]}
    states = boto3.client("stepfunctions")
    started = time.perf_counter()
    arn = states.start_execution(stateMachineArn=machine, input=json.dumps(event))["executionArn"]
    while (execution := states.describe_execution(executionArn=arn))["status"] == "RUNNING":
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - started
    [run] = states.list_map_runs(executionArn=arn)["mapRuns"]
    counts = states.describe_map_run(mapRunArn=run["mapRunArn"])["itemCounts"]
    if counts["succeeded"] != images:
        raise RuntimeError(f"{execution['status']}, {counts}: {execution.get('cause')}")
    return images / seconds


class Processes:
    """The server and what it has started, by the part that they play."""

    def __init__(self, server_pid: int):
        self._server = psutil.Process(server_pid)

    def _by_part(self) -> list[tuple[str, psutil.Process]]:
        parts = [("server", self._server), ("this program", psutil.Process())]
        for child in self._server.children(recursive=True):
            parts.append(("model server" if "serve" in child.cmdline() else "workers", child))
        return parts

    def cpu_seconds(self) -> Counter:
        seconds: Counter = Counter()
        for part, process in self._by_part():
            times = process.cpu_times()
            seconds[part] += times.user + times.system
        return seconds

    def megabytes(self) -> dict[str, float]:
        found = {"the server": self._server.memory_info().rss / (1 << 20), "all that it has started": 0.0}
        for child in self._server.children(recursive=True):
            memory = child.memory_full_info()
            found["all that it has started"] += getattr(memory, "pss", memory.rss) / (1 << 20)
        return found


def memory_rows(processes: Processes, moment: str) -> list[Row]:
    return [
        figure(f"memory of {part}, {moment}", value, "MB", "lower") for part, value in processes.megabytes().items()
    ]


def cpu_rows(processes: Processes, machine: str) -> list[Row]:
    before = processes.cpu_seconds()
    images_a_second(machine, 1000)
    after = processes.cpu_seconds()
    return [figure(f"CPU time of 1,000 images, {part}", after[part] - before[part], "s", "lower") for part in after]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--full", action="store_true", help="the 5,000 images as often as the others")
    chosen = options.parse_args()

    aws = local_aws.start()
    machines = deploy()
    processes = Processes(aws._process.pid)
    for machine in machines.values():
        images_a_second(machine, 40)  # starts the workers
    rows = memory_rows(processes, "before")
    for images in (*LISTED, UNDER_PREFIX):
        for number, machine in machines.items():
            runs = RUNS if images < UNDER_PREFIX or chosen.full else 1
            speed = statistics.median(images_a_second(machine, images) for _ in range(runs))
            rows.append(figure(f"{images:,} images, MaxConcurrency {number}", speed, "images/s", "higher"))
    rows += memory_rows(processes, f"after {UNDER_PREFIX:,} images")
    rows += cpu_rows(processes, machines[10])
    aws.stop()
    finish(rows, chosen.json)


if __name__ == "__main__":
    main()
