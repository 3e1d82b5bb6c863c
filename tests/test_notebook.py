"""starter.ipynb as a user runs it: make run's program in a copy of the repository, on real images if there are some."""

import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import psutil
import pytest
from conftest import ROOT
from PIL import Image

PICTURES = (
    "Working_step_function.png",
    "Step_function_error.png",
    "Step_function_parallel_execution.png",
    "monitoring_observed_recent_inferences.png",
    "monitoring_sample_prediction.png",
    "monitoring_sample_prediction_low_confidence.png",
    "monitoring_class_balance.png",
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the files that a clone holds."""
    target = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def run(checkout, **environment) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_"))}
    kept["https_proxy"] = "http://127.0.0.1:9"  # without an archive nothing is downloaded in a test
    kept["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    return subprocess.run(
        [sys.executable, "-m", "scones.run"],
        cwd=checkout,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope="module")
def finished(checkout):
    """One whole run: what it printed, and the notebook that it wrote."""
    result = run(checkout)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, nbformat.read(checkout / "build/starter.ipynb", as_version=4)


def test_every_cell_ran_in_order_without_an_error(finished):
    printed, notebook = finished
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert len(re.findall(r"^\[ *\d+/\d+\]", printed, re.MULTILINE)) == len(cells)


def test_the_summary_tells_the_accuracy_and_what_passed_and_failed(finished):
    printed, _ = finished
    images, passed, failed = map(
        int, re.search(r"workflow on (\d+) images: (\d+) passed, (\d+) failed", printed).groups()
    )
    assert passed + failed == images
    assert passed > 0
    accuracy = float(re.search(r"test accuracy (0\.\d+)", printed)[1])
    assert accuracy > (0.85 if os.environ.get("CIFAR100_ARCHIVE") else 0.6)
    assert "build/starter.html" in printed


def test_the_pictures_are_there_and_not_blank(checkout, finished):
    for name in PICTURES:
        with Image.open(checkout / "build/images" / name) as picture:
            assert picture.width >= 600, name
            assert len(picture.convert("RGB").getcolors(2**24)) > 20, name


def test_a_run_changes_no_file_of_the_repository(checkout, finished):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert [name for name in listed if (ROOT / name).read_bytes() != (checkout / name).read_bytes()] == []


def test_a_run_leaves_no_process(checkout, finished):
    left = [process for process in psutil.process_iter(["cwd", "cmdline"]) if process.info["cwd"] == str(checkout)]
    assert left == []


def test_drawn_images_are_named_as_such_wherever_they_are_shown(finished):
    printed, _ = finished
    is_real = bool(os.environ.get("CIFAR100_ARCHIVE"))
    assert ("drawn stand-in images" in printed.lower()) != is_real


def test_a_failing_cell_ends_the_run_with_its_error(checkout, tmp_path):
    copy = tmp_path / "broken"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns("build", "data"))
    notebook = json.loads((copy / "starter.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    code[1]["source"] = "raise ValueError('a cell of the test failed')"
    (copy / "starter.ipynb").write_text(json.dumps(notebook))
    result = run(copy)
    assert result.returncode == 1
    assert "a cell of the test failed" in result.stderr
    assert (copy / "build/starter.html").exists()
