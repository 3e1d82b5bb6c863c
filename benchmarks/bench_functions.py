"""Lambda functions: warm invocations through boto3, cold starts, memory of a worker.

    python benchmarks/bench_functions.py [--json FILE]

Cold starts and memory are taken with the system's way of starting workers (on Linux: forked from a process that has
boto3 loaded) and with new interpreters, the way that works everywhere. Warm invocations are single ones, one after the
other; p50 and p99 are the medians of those of several runs.
"""

import io
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

import boto3
from figures import figure, finish, parser

import local_aws
from local_aws.functions.function import FunctionVersion
from local_aws.functions.package import TaskRoots
from local_aws.functions.worker import Starter, Worker, new_starter

PLAIN = "def lambda_handler(event, context):\n    return event\n"
WITH_BOTO3 = "import boto3\ns3 = boto3.client('s3')\n" + PLAIN
WARM_RUNS = 5
WARM_INVOCATIONS = 500
COLD_STARTS = 10


def zip_of(source: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("lambda_function.py", source)
    return archive.getvalue()


def warm_runs() -> list[list[float]]:
    """The milliseconds of each invocation of a warm function, through boto3 and HTTP; a list for each run."""
    aws = local_aws.start()
    try:
        client = boto3.client("lambda")
        client.create_function(
            FunctionName="plain",
            Runtime="python3.12",
            Handler="lambda_function.lambda_handler",
            Role=aws.environment["SAGEMAKER_ROLE"],
            Code={"ZipFile": zip_of(PLAIN)},
        )
        client.invoke(FunctionName="plain")
        return [
            [milliseconds(lambda: client.invoke(FunctionName="plain")) for _ in range(WARM_INVOCATIONS)]
            for _ in range(WARM_RUNS)
        ]
    finally:
        aws.stop()


def percentile(runs: list[list[float]], number: int) -> float:
    return statistics.median(statistics.quantiles(run, n=100)[number - 1] for run in runs)


def milliseconds(call) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


class Bench:
    """Starts workers without a server around them, in one of the two ways."""

    def __init__(self, starter_of, folder: Path):
        self.folder = folder
        self.starter = starter_of(folder)
        self.task_roots = TaskRoots(folder / "task-roots")
        self.ready_worker(PLAIN).close()

    def ready_worker(self, source: str) -> Worker:
        root = str(self.task_roots.unpack(zip_of(source)))
        environment = {"LAMBDA_TASK_ROOT": root, "AWS_DEFAULT_REGION": "us-east-1"}
        worker = Worker(self.starter, function_version(), environment, "stream", self.folder)
        answer = worker.initialise(60)
        assert answer.kind == "ready", answer
        return worker

    def cold_start_milliseconds(self, source: str) -> float:
        """The median from nothing to a worker that has imported its function."""
        times = []
        for _ in range(COLD_STARTS):
            workers: list[Worker] = []
            times.append(milliseconds(lambda found=workers: found.append(self.ready_worker(source))))
            workers[0].close()
        return statistics.median(times)

    def megabytes(self, source: str) -> float:
        """What one of four workers adds: its proportional share where the system tells, else its resident set."""
        workers = [self.ready_worker(source) for _ in range(4)]
        details = [psutil.Process(worker.pid).memory_full_info() for worker in workers]
        for worker in workers:
            worker.close()
        return statistics.mean(getattr(detail, "pss", detail.rss) for detail in details) / (1 << 20)


def function_version() -> FunctionVersion:
    return FunctionVersion(
        arn="arn:aws:lambda:us-east-1:123456789012:function:bench",
        name="bench",
        version="$LATEST",
        region="us-east-1",
        role="",
        runtime="python3.12",
        handler="lambda_function.lambda_handler",
        timeout=60,
        memory_size=128,
        environment=(),
        code_sha256="",
        last_modified="",
        reserved_concurrency=None,
        code=b"",
    )


def main() -> None:
    options = parser(__doc__).parse_args()
    warm = warm_runs()
    rows = [
        figure(f"warm invoke through boto3, p{number}", percentile(warm, number), "ms", "lower") for number in (50, 99)
    ]
    for way, starter_of in (("", new_starter), (", new interpreter", Starter)):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(starter_of, Path(folder))
            for handler, source in (("plain handler", PLAIN), ("with an S3 client", WITH_BOTO3)):
                cold, memory = bench.cold_start_milliseconds(source), bench.megabytes(source)
                rows.append(figure(f"cold start, {handler}{way}", cold, "ms", "lower"))
                rows.append(figure(f"memory of a worker, {handler}{way}", memory, "MB", "lower"))
            bench.starter.close()
    finish(rows, options.json)


if __name__ == "__main__":
    main()
