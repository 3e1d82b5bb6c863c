"""Whatever is put in, a result or a named error comes out, never another exception. The inputs are hypothesis's."""

import base64
import contextlib
import gzip
import io
import json
import os
import struct
import tarfile
import tempfile
import zlib
from pathlib import Path

import boto3
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from sagemaker_jobs import png
from test_handlers import JPEG, PNG, load

from local_aws.image_classification.channels import read_channel
from local_aws.image_classification.failures import JobFailed, RequestRefused
from local_aws.image_classification.hyperparameters import Hyperparameters
from local_aws.image_classification.pictures import SIDE, read_picture
from local_aws.s3_files import MAX_MODEL_BYTES, MAX_MODEL_FILES, DownloadFailed, unpack_model
from local_aws.workflows.api import all_faults
from scones.captures import read_captures

# hypothesis keeps tables of its own: not in the tree
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / f"hypothesis-{os.getuid()}")
settings.register_profile(
    "repeatable",
    derandomize=True,  # the same inputs in every run
    deadline=None,
    database=None,  # no folder of found examples in the tree
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
IMAGES = st.binary() | st.binary().map(PNG.__add__) | st.binary().map(JPEG.__add__)


def objects_with(**members) -> st.SearchStrategy:
    """Objects that may have these members, and may have others; or such an object under body, or as a text there."""
    plain = st.builds(
        lambda known, others: {**others, **known},
        st.fixed_dictionaries({}, optional=members),
        st.dictionaries(st.text(), SCALARS, max_size=2),
    )
    bodies = plain | plain.map(json.dumps) | JSON
    return plain | bodies.map(lambda body: {"body": body})


def named_errors(module) -> tuple[type[Exception], ...]:
    return tuple(
        kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__
    )


# The handlers


@pytest.fixture(scope="module")
def buckets(local):
    """A bucket that is given, another one that is not, and what the given one holds."""
    s3 = boto3.client("s3")
    for bucket in ("given", "other"):
        s3.create_bucket(Bucket=bucket)
    held = {"a.png": PNG, "folder/b.png": PNG + b"b", "text": b"no image", "..": PNG + b".."}
    for key, body in held.items():
        s3.put_object(Bucket="given", Key=key, Body=body)
    s3.put_object(Bucket="other", Key="secret.png", Body=PNG + b"secret")
    return held


@pytest.fixture(scope="module")
def serialize(buckets):
    return load("serialize")


@given(
    objects_with(s3_bucket=st.sampled_from(["given", "missing"]) | JSON, s3_key=st.sampled_from(["a.png"]) | JSON)
    | JSON
)
def test_any_event_to_serialize_ends_in_an_image_or_a_named_error(serialize, event):
    try:
        result = serialize.lambda_handler(event, None)
    except named_errors(serialize):
        return
    assert base64.b64decode(result["body"]["image_data"]) == PNG


PARTS = [
    "..",
    ".",
    "/",
    "\\",
    "%2e%2e",
    "%2f",
    "?",
    "#",
    "&",
    "other",
    "given",
    "secret.png",
    "a.png",
    "s3://",
    "\0",
    "\n",
]
PARTS += ["?versionId=", "arn:aws:s3:::other/secret.png", "http://127.0.0.1/", "@"]


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("".join))
@example("../other/secret.png")
@example("/other/secret.png")
@example("//other/secret.png")
@example("..%2fother%2fsecret.png")
@settings(max_examples=300)
def test_no_key_makes_serialize_read_outside_of_the_bucket_it_was_given(serialize, buckets, key):
    try:
        result = serialize.lambda_handler({"s3_bucket": "given", "s3_key": key}, None)
    except named_errors(serialize):
        return
    assert base64.b64decode(result["body"]["image_data"]) == buckets[key]


@pytest.mark.parametrize(
    "bucket", ["given/../other", "other/", "/other", "given?x", "given#", "../other", "given/a.png/../../other"]
)
def test_a_bucket_s_name_that_is_a_path_is_ImageNotFound(serialize, bucket):
    with pytest.raises(serialize.ImageNotFound):
        serialize.lambda_handler({"s3_bucket": bucket, "s3_key": "secret.png"}, None)


@given(IMAGES)
def test_any_bytes_in_s3_end_serialize_in_these_bytes_or_a_named_error(serialize, content):
    boto3.client("s3").put_object(Bucket="given", Key="any", Body=content)
    try:
        result = serialize.lambda_handler({"s3_bucket": "given", "s3_key": "any"}, None)
    except named_errors(serialize):
        return
    assert base64.b64decode(result["body"]["image_data"]) == content


class Endpoint:
    """Answers as the endpoint of the two classes does, and keeps what it was sent."""

    def invoke_endpoint(self, EndpointName, ContentType, Body):
        self.sent = Body
        return {"Body": io.BytesIO(b"[0.75, 0.25]")}


@pytest.fixture(scope="module")
def inference(local):
    module = load("inference")
    module.runtime = Endpoint()
    return module


BASE64 = st.binary(min_size=1).map(lambda content: base64.b64encode(content).decode())


@given(objects_with(image_data=BASE64 | JSON) | JSON)
def test_any_event_to_inference_ends_in_probabilities_or_a_named_error(inference, event):
    try:
        result = inference.lambda_handler(event, None)
    except named_errors(inference):
        return
    assert result["body"]["inferences"] == [0.75, 0.25]
    assert base64.b64decode(result["body"]["image_data"]) == inference.runtime.sent != b""


NUMBERS = st.lists(st.floats(0, 1) | JSON, max_size=4)


@given(objects_with(inferences=NUMBERS | NUMBERS.map(json.dumps) | JSON) | JSON)
def test_any_event_to_pass_threshold_ends_in_sure_probabilities_or_a_named_error(event):
    module = load("pass_threshold")
    try:
        result = module.lambda_handler(event, None)
    except named_errors(module):
        return
    inferences = result["body"]["inferences"]
    assert max(inferences) >= 0.9 and all(0 <= number <= 1 for number in inferences)


# Images


def headed_png(width: int, height: int, rest: bytes) -> bytes:
    """A PNG whose first chunk is right and tells these dimensions, whatever follows."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + rest


def damaged(content: bytes) -> st.SearchStrategy:
    places = st.integers(0, len(content) - 1)
    return st.builds(
        lambda place, byte: content[:place] + bytes([byte]) + content[place + 1 :], places, st.integers(0, 255)
    )


@given(
    IMAGES
    | st.builds(headed_png, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary())
    | damaged(png(0, 1))
)
@example(headed_png(2**31 - 1, 2**31 - 1, b""))
def test_any_bytes_are_a_picture_or_are_refused(content):
    try:
        pixels = read_picture(content)
    except RequestRefused:
        return
    assert pixels.shape == (SIDE, SIDE, 3) and pixels.dtype == np.uint8


# model.tar.gz


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    ("hostile", "says"),
    [
        (member("../escaped"), "outside"),
        (member("a/../../escaped"), "outside"),
        (member("/tmp/escaped"), "outside"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "no plain file"),
        (member("link", tarfile.LNKTYPE, "../escaped"), "no plain file"),
        (member("device", tarfile.CHRTYPE), "no plain file"),
        (member("pipe", tarfile.FIFOTYPE), "no plain file"),
        (member("bomb", size=MAX_MODEL_BYTES + 1), "over"),
    ],
)
def test_a_model_that_would_leave_its_folder_or_fill_the_disk_is_refused_and_writes_nothing(tmp_path, hostile, says):
    folder = tmp_path / "model"
    folder.mkdir()
    with gzip.open(tmp_path / "model.tar.gz", "wb") as file:
        file.write(hostile.tobuf())
    with pytest.raises(DownloadFailed, match=says):
        unpack_model(tmp_path / "model.tar.gz", folder)
    assert list(folder.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.tar.gz"]


def test_a_model_of_more_files_than_any_has_is_refused(tmp_path):
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        for number in range(MAX_MODEL_FILES + 1):
            archive.addfile(member(f"{number}"))
    with pytest.raises(DownloadFailed, match=f"or {MAX_MODEL_FILES} files"):
        unpack_model(tmp_path / "model.tar.gz", tmp_path / "model")


@given(
    st.binary()
    | st.binary().map(gzip.compress)
    | damaged(gzip.compress(member("a", size=0).tobuf() + bytes(1024), mtime=0))
)
def test_any_bytes_as_a_model_are_unpacked_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.tar.gz").write_bytes(content)
        (Path(folder) / "model").mkdir()
        with contextlib.suppress(DownloadFailed):
            unpack_model(Path(folder) / "model.tar.gz", Path(folder) / "model")
        assert sorted(path.name for path in Path(folder).iterdir()) == ["model", "model.tar.gz"]


# Captured records


class Bucket:
    """Stands for S3 with one capture file."""

    key = "capture/endpoint/AllTraffic/2026/01/01/00/00-00-000-id.jsonl"

    def __init__(self, body: bytes):
        self.body = body

    def get_paginator(self, _name):
        return self

    def paginate(self, **_):
        return [{"Contents": [{"Key": self.key, "Size": len(self.body)}]}]

    def get_object(self, Bucket, Key):
        return {"Body": io.BytesIO(self.body)}


SIDES = objects_with(
    encoding=st.sampled_from(["JSON", "CSV", "BASE64"]) | JSON,
    data=st.sampled_from(["[0.9, 0.1]", "0.9,0.1", '{"prediction": [0.9, 0.1]}']) | st.text() | JSON,
)
RECORDS = objects_with(
    captureData=objects_with(endpointInput=SIDES | JSON, endpointOutput=SIDES | JSON) | JSON,
    eventMetadata=objects_with(inferenceTime=st.datetimes().map(str) | st.text() | JSON) | JSON,
)
LINES = (
    st.text().map(str.encode)
    | st.binary()
    | JSON.map(json.dumps).map(str.encode)
    | RECORDS.map(json.dumps).map(str.encode)
)
RIGHT = {
    "captureData": {"endpointOutput": {"encoding": "JSON", "data": "[0.9, 0.1]"}},
    "eventMetadata": {"inferenceTime": "2026-01-01T00:00:00Z"},
}


@given(st.lists(LINES, max_size=4))
def test_any_text_as_a_line_of_captures_is_a_row_or_a_named_problem(lines):
    body = b"\n".join([*lines, json.dumps(RIGHT).encode()])
    frame, problems = read_captures(Bucket(body), "s3://bucket/capture")
    assert len(frame) + len(problems) == sum(bool(line.strip()) for line in body.split(b"\n"))
    assert len(frame) >= 1 and frame["confidence"].between(0, 1).all()


# Lists of images


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A job's root folder with a channel of one image; its list is to be written."""
    root = tmp_path_factory.mktemp("job")
    for folder in ("train", "train_lst"):
        (root / "input" / "data" / folder).mkdir(parents=True)
    (root / "input" / "data" / "train" / "a.png").write_bytes(png(0, 1))
    return root


SETTINGS = Hyperparameters(2, 1, 3, 28, 28, False, ())
COLUMNS = st.text(max_size=5) | st.sampled_from(
    ["0", "1", "nan", "inf", "a.png", "../train_lst/train.lst", "/etc/passwd"]
)
ROWS = st.lists(st.lists(COLUMNS, max_size=4).map("\t".join), max_size=3).map("\n".join)


@given(st.text() | ROWS)
@example("0\t0\ta.png")
@example("0\t0\t\0")
@example("0\t0\t" + "a" * 5000)
@example("0\t1e400\ta.png")
@settings(max_examples=300)
def test_any_text_as_a_list_is_rows_or_JobFailed(job, text):
    (job / "input" / "data" / "train_lst" / "train.lst").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        channel = read_channel(job, "train", SETTINGS)
    except JobFailed:
        return
    assert channel.pixels.shape == (1, SIDE, SIDE, 3) and channel.labels.tolist() in ([0], [1])


# Definitions

KINDS = ("Task", "Pass", "Choice", "Wait", "Succeed", "Fail", "Parallel", "Map")
FIELDS = (
    *(
        "Type",
        "Next",
        "End",
        "Resource",
        "Parameters",
        "Arguments",
        "Choices",
        "Default",
        "Seconds",
        "Branches",
        "Retry",
    ),
    *("Catch", "ItemProcessor", "Iterator", "ItemReader", "ItemBatcher", "ResultWriter", "Label", "MaxConcurrency"),
    *("QueryLanguage", "Output", "Condition", "Assign", "ErrorEquals", "StartAt", "States", "Mode", "ProcessorConfig"),
)
WORDS = st.sampled_from(
    [*KINDS, "A", "B", "JSONata", "JSONPath", "DISTRIBUTED", "STANDARD", "States.ALL", "{% $x %}", "{% ( %}", "$.a"]
)
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)
STATES = st.dictionaries(
    st.sampled_from(["A", "B", ""]),
    st.builds(
        lambda kind, fields: {"Type": kind, **fields},
        st.sampled_from(KINDS),
        st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4),
    ),
)
DEFINITIONS = st.builds(
    lambda states, others: {"StartAt": "A", "States": states, **others},
    STATES,
    st.just({}) | VALUES.filter(lambda value: isinstance(value, dict)),
)


def assert_checked(text: str) -> None:
    for kind in ("STANDARD", "EXPRESS"):
        for fault in all_faults(text, kind):
            assert fault.code.isupper() and fault.message and fault.location.startswith("/")


@given(st.text() | JSON.map(json.dumps))
@example("[" * 100_000)
@example('{"States": ' * 2000)
def test_any_text_as_a_definition_is_accepted_or_its_faults_are_named(text):
    assert_checked(text)


@given(DEFINITIONS.map(json.dumps))
@settings(max_examples=400)
def test_any_states_in_a_definition_are_accepted_or_their_faults_are_named(text):
    assert_checked(text)


REAL = (ROOT / "parallel_state_machine_definition.json").read_text()


@given(st.data())
def test_any_value_put_into_the_parallel_definition_is_accepted_or_its_fault_is_named(data):
    definition = json.loads(REAL)
    place = definition
    while children := [name for name, value in places_in(place) if isinstance(value, dict | list) and value]:
        name = data.draw(st.sampled_from(children))
        place = place[name]
        if data.draw(st.booleans()):
            break
    place[data.draw(st.sampled_from([name for name, _ in places_in(place)]))] = data.draw(VALUES)
    assert_checked(json.dumps(definition))


def places_in(value: dict | list) -> list[tuple]:
    return list(value.items()) if isinstance(value, dict) else list(enumerate(value))
