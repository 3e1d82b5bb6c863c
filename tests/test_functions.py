"""Lambda functions, invoked through boto3: what AWS answers to good and bad handlers, and what is left behind."""

import io
import json
import zipfile

import boto3
import pytest

pytestmark = pytest.mark.usefixtures("local")


def zip_of(files: dict[str, str]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    return archive.getvalue()


@pytest.fixture()
def client(local):
    return boto3.client("lambda")


@pytest.fixture()
def create(client, local):
    """create(source, **settings) makes a function of that source and returns its name; it is deleted after the test."""
    names = []

    def create_function(source: str, name: str | None = None, **settings) -> str:
        name = name or f"function-{len(names)}"
        options = {
            "Runtime": "python3.12",
            "Handler": "lambda_function.lambda_handler",
            "Role": local.environment["SAGEMAKER_ROLE"],
            "Timeout": 20,
            **settings,
        }
        client.create_function(FunctionName=name, Code={"ZipFile": zip_of({"lambda_function.py": source})}, **options)
        names.append(name)
        return name

    yield create_function
    for name in names:
        client.delete_function(FunctionName=name)


def result_of(client, name: str, event: object = None, **options):
    """The handler's result; fails where the function did."""
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event), **options)
    payload = json.load(answer["Payload"])
    assert "FunctionError" not in answer, payload
    return payload


def test_a_handler_s_result_comes_back(client, create):
    name = create("def lambda_handler(event, context):\n    return {'seen': event}\n")
    answer = client.invoke(FunctionName=name, Payload=json.dumps({"k": 1}))
    assert json.load(answer["Payload"]) == {"seen": {"k": 1}}
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert "FunctionError" not in answer
