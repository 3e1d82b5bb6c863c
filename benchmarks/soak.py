"""The pipeline under load for long: what grows in the server's processes, and whether a record is lost.

    python benchmarks/soak.py [--images 5000] [--minutes 30] [--json FILE]

First that many images go through parallel_state_machine_definition.json as fast as it takes them, with the real
handlers, from an S3 prefix. Then executions of state_machine_definition.json, one image each, start at half of the rate
that was reached, for that many minutes. Ends with status 1 if an image has not exactly one end, if an answered
inference has not exactly one captured record, or if the stream makes the server and what it started grow beyond this:

    memory         BYTES_AN_IMAGE for every image, which is what is kept of it (its execution, its log, its captured
                   record: AWS keeps them too), and SLACK_MB
    file handles, threads, processes      SLACK of each
"""

import argparse
import json
import sys
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import boto3
import psutil
from pipeline import TAGS, MapRun, captured, deploy, failures, key_of, train, upload_images
from sagemaker_jobs import BUCKET, ROLE

import local_aws
from scones import workflow

BYTES_AN_IMAGE = 16 * 1024
SLACK_MB = 48
SLACK = 16
ANSWERED = {None, "ThresholdNotMet"}  # the errors, or none, of images that the endpoint has answered
SETTLE_SECONDS = 3
DIFFERENT_IMAGES = 500


@dataclass(frozen=True)
class Sample:
    """What the server and all that it started hold at one moment."""

    megabytes: float
    handles: int
    threads: int
    processes: int


def take_sample(pid: int) -> Sample:
    server = psutil.Process(pid)
    totals: Counter = Counter()
    for process in [server, *server.children(recursive=True)]:
        try:
            memory = process.memory_full_info()
            totals["bytes"] += getattr(memory, "pss", memory.rss)  # shared pages count once
            totals["handles"] += process.num_fds()
            totals["threads"] += process.num_threads()
            totals["processes"] += 1
        except psutil.NoSuchProcess:
            continue  # it ended meanwhile
    return Sample(totals["bytes"] / 1e6, totals["handles"], totals["threads"], totals["processes"])


class Sampler:
    """Takes a sample every few seconds, on a thread, until it is closed."""

    def __init__(self, pid: int, seconds: float):
        self.samples: list[Sample] = []
        self._pid, self._seconds = pid, seconds
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.wait(self._seconds):
            self.samples.append(take_sample(self._pid))

    def close(self) -> None:
        self._closing.set()
        self._thread.join()


def run_map(machine: str, images: int) -> tuple[float, list[str]]:
    """Images a second through the parallel state machine, and what is wrong with the results."""
    events = upload_images("soak", images)
    started = time.perf_counter()
    results = MapRun(machine, {"bucket": BUCKET, "prefix": "soak/"}).results(seconds=images)
    rate = images / (time.perf_counter() - started)
    ends = Counter(key_of(result) for result in results)
    problems = [
        f"{event['s3_key']} has {ends[event['s3_key']]} results" for event in events if ends[event["s3_key"]] != 1
    ]
    unanswered = {error: count for error, count in failures(results).items() if error not in ANSWERED}
    return rate, problems + ([f"the Map ended images in {unanswered}"] if unanswered else [])


def stream(machine: str, rate: float, seconds: float) -> int:
    """Starts so many executions a second, evenly, whatever becomes of them; returns how many."""
    client = boto3.client("stepfunctions")
    keys = [found["Key"] for found in boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="soak/")["Contents"]]
    begin = time.perf_counter()
    started = 0
    while (now := time.perf_counter()) < begin + seconds:
        if now < begin + started / rate:
            time.sleep(begin + started / rate - now)
        event = {"s3_bucket": BUCKET, "s3_key": keys[started % min(len(keys), DIFFERENT_IMAGES)]}
        client.start_execution(stateMachineArn=machine, name=str(uuid.uuid4()), input=json.dumps(event))
        started += 1
    return started


def ends_of(machine: str) -> Counter:
    """How many executions have each status, once none runs any more."""
    client = boto3.client("stepfunctions")
    deadline = time.monotonic() + 60
    running = {"stateMachineArn": machine, "statusFilter": "RUNNING"}
    while client.list_executions(**running)["executions"] and time.monotonic() < deadline:
        time.sleep(0.2)
    pages = client.get_paginator("list_executions").paginate(
        stateMachineArn=machine, PaginationConfig={"PageSize": 1000}
    )
    return Counter(execution["status"] for page in pages for execution in page["executions"])


def wait_for_captures(answered: int) -> list[str]:
    """What is wrong with the captured records: there is one for each answered inference, and none twice."""
    deadline = time.monotonic() + 30
    while len(records := captured()) < answered and time.monotonic() < deadline:
        time.sleep(0.5)
    different = len({record["eventMetadata"]["eventId"] for record in records})
    if (len(records), different) != (answered, answered):
        return [f"{answered} inferences were answered, {len(records)} records captured, {different} of them different"]
    return []


def growth_problems(before: Sample, after: Sample, images: int) -> list[str]:
    problems = []
    allowed = SLACK_MB + images * BYTES_AN_IMAGE / 1e6
    if after.megabytes - before.megabytes > allowed:
        problems.append(f"memory grew from {before.megabytes:.0f} to {after.megabytes:.0f} MB, over {allowed:.0f} MB")
    for name in ("handles", "threads", "processes"):
        if getattr(after, name) - getattr(before, name) > SLACK:
            problems.append(f"{name} grew from {getattr(before, name)} to {getattr(after, name)}, over {SLACK}")
    return problems


def soak(images: int, minutes: float) -> tuple[list[dict], list[str]]:
    """Runs it all on a server of its own; returns the rows of figures, and what is wrong."""
    aws = local_aws.start()
    try:
        many = deploy(train())
        one = workflow.deploy_state_machine(
            boto3.Session(), "one-image", ROOT / "state_machine_definition.json", ROLE, TAGS
        )
        rate, problems = run_map(many, images)
        time.sleep(SETTLE_SECONDS)
        before = take_sample(aws.pid)
        sampler = Sampler(aws.pid, seconds=max(1, minutes))
        started = stream(one, rate / 2, minutes * 60)
        sampler.close()
        ends = ends_of(one)
        time.sleep(SETTLE_SECONDS)
        after = take_sample(aws.pid)
        if ends["SUCCEEDED"] + ends["FAILED"] != started:
            problems.append(f"{started} executions were started and ended {dict(ends)}")
        problems += wait_for_captures(images + started) + growth_problems(before, after, started)
        return rows_of(rate, images, started, before, after, [before, *sampler.samples, after]), problems
    finally:
        aws.stop()


def rows_of(rate: float, images: int, started: int, before: Sample, after: Sample, samples: list[Sample]) -> list[dict]:
    def row(figure: str, value: float, unit: str, better: str | None) -> dict:
        return {"figure": f"soak: {figure}", "value": round(value, 1), "unit": unit, "better": better}

    growth = (after.megabytes - before.megabytes) * 1e3 / started
    return [
        row(f"parallel state machine, {images} images", rate, "images/s", "higher"),
        row("executions of the stream", started, "executions", None),
        row("memory after the Map (PSS)", before.megabytes, "MB", "lower"),
        row("memory after the stream (PSS)", after.megabytes, "MB", "lower"),
        row("most memory in the stream (PSS)", max(sample.megabytes for sample in samples), "MB", "lower"),
        row("memory kept of an image", growth, "kB", "lower"),
        row("growth of file handles", after.handles - before.handles, "handles", None),
        row("growth of threads", after.threads - before.threads, "threads", None),
        row("growth of processes", after.processes - before.processes, "processes", None),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()

    rows, problems = soak(options.images, options.minutes)
    print("| figure | value | unit |\n|---|---|---|")
    for row in rows:
        print(f"| {row['figure']} | {row['value']} | {row['unit']} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
