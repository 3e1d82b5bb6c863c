"""python -m local_aws: starts the local AWS, prints the lines to export, and serves until Ctrl-C."""

import argparse
import json
import logging
import os
import shlex
import signal
import sys
import threading

from local_aws.client import FOREIGN_VARIABLES
from local_aws.server import Server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local_aws", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1 (default: one that is free)")
    parser.add_argument("--region", default=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
    parser.add_argument("--for-parent", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()

    # moto logs every failed execution; its users find that in the execution's history, as on AWS.
    logging.getLogger("moto").setLevel(logging.CRITICAL)

    os.umask(0o077)  # what this process and its children write is for its user alone
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    server = Server(options.port, options.region)
    server.serve_in_background()
    try:
        if options.for_parent:
            announce_to_parent(server, stop)
        else:
            print_exports(server)
        stop.wait()
    finally:
        server.stop()


def announce_to_parent(server: Server, stop: threading.Event) -> None:
    print(json.dumps(server.environment()), flush=True)

    def stop_at_end_of_input():
        sys.stdin.buffer.read()  # ends when the parent closes its side or dies, however it dies
        stop.set()

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()


def print_exports(server: Server) -> None:
    print(f"unset {' '.join(FOREIGN_VARIABLES)}")
    for name, value in server.environment().items():
        print(f"export {name}={shlex.quote(value)}")
    print(f"# local AWS at {server.url}; paste the lines above into another shell; Ctrl-C here ends it", flush=True)


if __name__ == "__main__":
    main()
