"""moto's services behind one threaded HTTP server on 127.0.0.1, with the real work attached to each.

What AWS does that this does not: regions and accounts are only names here, everything is in one account, nothing is
replicated, throttled or billed, and all of it is gone when the process ends.
"""

import contextlib
import functools
import os
import secrets
import threading
from collections.abc import Callable

os.environ["MOTO_DISABLE_GLOBAL_CORS"] = "true"  # read by moto when it is imported

import boto3
from botocore.config import Config
from flask import Flask, request
from moto.core.config import default_user_config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from local_aws import records
from local_aws.door import Door
from local_aws.http_server import RequestHandler
from local_aws.json_protocol import ServiceError
from local_aws.run_folder import RunFolder

SESSION_CONFIG = """\
SchemaVersion: '1.0'
SageMaker:
  PythonSDK:
    Modules:
      TelemetryOptOut: true
      Session:
        DefaultS3Bucket: {bucket}
"""
TRUST_EVERY_SERVICE = """{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",
 "Principal": {"Service": ["sagemaker.amazonaws.com", "lambda.amazonaws.com", "states.amazonaws.com"]}}]}"""


class Dispatcher(DomainDispatcherApplication):
    """Finds the service of a request. moto looks through its folder at every request; here once for each host."""

    def __init__(self, create_app: Callable[[str], Flask]):
        super().__init__(create_app)
        self.get_backend_for_host = functools.cache(super().get_backend_for_host)


def _refusing_app() -> Flask:
    """Answers whatever is asked of a service that neither moto nor this package has."""
    app = Flask("no such service")

    @app.before_request
    def refuse():
        return ServiceError(
            "UnknownService",
            f"The local AWS has no service behind {request.method} {request.path} of this request",
            501,
        ).response()

    return app


class Server:
    """One local AWS. The services' modules hang their state on it and take from it what they need:

    url, region, account            where and what it is
    run_folder                      a private (0700) folder, deleted when the server stops
    environment()                   what a process needs in its environment to talk to it
    client(service)                 a boto3 client of its own, cached
    at_stop(function)               called once when the server stops, last added first
    """

    account = records.ACCOUNT

    def __init__(self, port: int = 0, region: str = "us-east-1"):
        self.region = region
        self._run_folder = RunFolder()
        self.run_folder = self._run_folder.path
        self._access_key_id = "LOCAL" + secrets.token_hex(16).upper()
        self._secret_access_key = secrets.token_urlsafe(32)
        self._clients: dict[str, object] = {}
        self._clients_lock = threading.Lock()
        self._at_stop = contextlib.ExitStack()  # runs what it holds to the end, whatever part of it fails
        self._at_stop.callback(self._run_folder.remove)
        default_user_config["stepfunctions"] = {"execute_state_machine": True}
        self._door = Door(Dispatcher(self._create_app), self._access_key_id)
        self._http = make_server("127.0.0.1", port, self._door, threaded=True, request_handler=RequestHandler)
        self._at_stop.callback(self._http.server_close)
        self._at_stop.callback(self._http.shutdown)
        self.url = f"http://127.0.0.1:{self._http.port}"
        self._door.listen_as(self._http.port)
        self._attach_services()

    def _attach_services(self) -> None:
        from local_aws.functions import Functions
        from local_aws.hosting import Hosting
        from local_aws.training import Training
        from local_aws.workflows import Workflows

        self.functions = Functions(self)
        self.training = Training(self)
        self.hosting = Hosting(self)
        self.workflows = Workflows(self)

    def _create_app(self, service: str | None) -> Flask:
        if service is None:
            return _refusing_app()
        app = create_backend_app(service)
        for part in (self.functions, self.training, self.hosting, self.workflows):
            part.attach(service, app)
        return app

    def serve_in_background(self) -> None:
        threading.Thread(target=self._http.serve_forever, name="http", daemon=True).start()
        self._make_account()

    def _make_account(self) -> None:
        self.client("s3").create_bucket(Bucket=self.bucket)
        self.client("iam").create_role(RoleName="LocalRole", AssumeRolePolicyDocument=TRUST_EVERY_SERVICE)
        (self.run_folder / "sagemaker.yaml").write_text(SESSION_CONFIG.format(bucket=self.bucket))

    @property
    def bucket(self) -> str:
        return f"sagemaker-{self.region}-{self.account}"

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self._access_key_id,
            "AWS_SECRET_ACCESS_KEY": self._secret_access_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "SAGEMAKER_ROLE": f"arn:aws:iam::{self.account}:role/LocalRole",
            "SAGEMAKER_USER_CONFIG_OVERRIDE": str(self.run_folder / "sagemaker.yaml"),
        }

    def client(self, service: str):
        with self._clients_lock:
            if service not in self._clients:
                self._clients[service] = boto3.client(
                    service,
                    region_name=self.region,
                    endpoint_url=self.url,
                    aws_access_key_id=self._access_key_id,
                    aws_secret_access_key=self._secret_access_key,
                    config=Config(max_pool_connections=64, read_timeout=900, retries={"total_max_attempts": 1}),
                )
            return self._clients[service]

    def at_stop(self, function: Callable[[], None]) -> None:
        self._at_stop.callback(function)

    def stop(self) -> None:
        with self._at_stop:
            pass
