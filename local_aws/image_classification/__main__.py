"""The container's two commands: train and serve."""

import argparse
import os
import sys
from pathlib import Path

from local_aws.lifeline import end_with_parent

# On matrices of this size the threads of BLAS wait for each other longer than they work: ten times the CPU time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local_aws.image_classification", description=__doc__)
    parser.add_argument("command", choices=("train", "serve"))
    parser.add_argument("--root", type=Path, required=True, help="the folder that stands for /opt/ml")
    parser.add_argument("--end-with-parent", action="store_true", help="end when standard input is closed")
    options = parser.parse_args()
    if options.end_with_parent:
        end_with_parent()
    if options.command == "train":
        from local_aws.image_classification.training import train

        return train(options.root)
    from local_aws.image_classification.serving import serve

    return serve(options.root)


if __name__ == "__main__":
    sys.exit(main())
