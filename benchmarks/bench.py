"""All benchmarks, one after the other, into build/bench.json and build/bench.md: make bench.

    python benchmarks/bench.py [--publish]

Beside the figures stand the machine, the versions and each benchmark's command. --publish writes them to
benchmarks/published.json and into the README's table too.
"""

import argparse
import ast
import json
import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from figures import table

BUILD = HERE.parent / "build"
README = HERE.parent / "README.md"
PUBLISHED = HERE / "published.json"
BENCHMARKS = ("bench_model", "bench_endpoint", "bench_functions", "bench_workflows", "bench_images")
OPTIONS: dict[str, list] = {"bench_model": ["--pictures", BUILD]}
PACKAGES = ("moto", "boto3", "awslambdaric", "onnxruntime", "scikit-learn", "numpy")
BEGIN, END = "<!-- from benchmarks/published.json -->\n", "<!-- until here -->\n"


def machine() -> dict:
    """What the figures depend on. Names neither the host nor its user."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", information.read_text()) if information.exists() else None
    return found.group(1) if found else platform.processor()


def run_all() -> dict:
    """The report: machine, date, and each benchmark's command, seconds and rows. Raises CalledProcessError."""
    BUILD.mkdir(exist_ok=True)
    report: dict[str, Any] = {"machine": machine(), "date": time.strftime("%Y-%m-%d", time.gmtime()), "benchmarks": {}}
    for name in BENCHMARKS:
        file = BUILD / f"{name}.json"
        print(f"\n## {name}\n", flush=True)
        started = time.perf_counter()
        subprocess.run([sys.executable, HERE / f"{name}.py", "--json", file, *OPTIONS.get(name, [])], check=True)
        report["benchmarks"][name] = {
            "command": f"python benchmarks/{name}.py",
            "seconds": round(time.perf_counter() - started),
            "rows": json.loads(file.read_text()),
        }
    return report


def markdown(report: dict) -> str:
    """The report as Markdown: a line on the machine, then a table a benchmark, folded."""
    about = report["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    parts = [
        f"On {about['cores']} cores of {about['processor']} ({about['system']}), Python {about['python']}, {versions}; "
        f"{report['date']}."
    ]
    for name, found in report["benchmarks"].items():
        parts += [
            f"<details>\n<summary>{subject(name)} (<code>{found['command']}</code>, {found['seconds']} s)</summary>",
            table(found["rows"]),
            "</details>",
        ]
    return "\n\n".join(parts) + "\n"


def subject(benchmark: str) -> str:
    """The first sentence of a benchmark's own description."""
    return ast.get_docstring(ast.parse((HERE / f"{benchmark}.py").read_text())).split(".\n")[0].rstrip(".")


def with_table(readme: str, report: dict) -> str:
    """The README with its table made from the report. Raises ValueError for a README without the two marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the lines {BEGIN.strip()} and {END.strip()} around its table")
    return f"{before}{BEGIN}\n{markdown(report)}\n{END}{after}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--publish", action="store_true", help="write the figures into the README too")
    publish = options.parse_args().publish
    report = run_all()
    (BUILD / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    (BUILD / "bench.md").write_text(markdown(report) + "\n![What the model takes for another class](mistakes.png)\n")
    print("\nbuild/bench.json and build/bench.md are written")
    if publish:
        PUBLISHED.write_text(json.dumps(report, indent=1) + "\n")
        README.write_text(with_table(README.read_text(), report))
        print("benchmarks/published.json and the README's table are written")


if __name__ == "__main__":
    main()
