"""starter.ipynb as it is committed, and as a user runs it: make run's program in a copy of the repository.

It runs on real images where CIFAR100_ARCHIVE names them; only then can its figures be held to the committed ones.
"""

import getpass
import json
import math
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import psutil
import pytest
from conftest import ROOT
from PIL import Image

PICTURES = (
    "Working_step_function.png",
    "Step_function_error.png",
    "Step_function_parallel_definition.png",
    "Step_function_parallel_execution.png",
    "monitoring_observed_recent_inferences.png",
    "monitoring_sample_prediction.png",
    "monitoring_sample_prediction_low_confidence.png",
    "monitoring_class_balance.png",
)
ICONS = ("Lambda.svg", "SageMaker.svg", "Step Functions.svg")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
CLOCK = re.compile(r"\d{4}-\d\d-\d\d|\d\d/\d\d/\d{4}|\d{8}-\d{6}|second|hour")


@pytest.fixture(scope="module")
def committed():
    """The notebook of the repository with the outputs that it was committed with."""
    return nbformat.read(ROOT / "starter.ipynb", as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed_by(cell) -> str:
    """What a code cell printed, and the value of its last line."""
    outputs = [output for output in cell.outputs if output.output_type in ("stream", "execute_result")]
    return "".join(output.get("text") or output.data["text/plain"] for output in outputs)


def words(text: str) -> int:
    return len(re.findall(r"\w+", text))


def test_the_committed_notebook_has_the_outputs_of_one_clean_run(committed):
    cells = code_cells(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= len(PICTURES)
    assert (ROOT / "starter.ipynb").stat().st_size < 10**6


def test_the_committed_outputs_are_those_of_real_images(committed):
    assert "drawn" not in "".join(map(printed_by, code_cells(committed))).lower()


def test_the_committed_notebook_tells_nothing_of_the_machine_it_ran_on(committed):
    everything = re.sub(r'"image/png": "[^"]*"', "", json.dumps(committed))
    outputs = "".join(map(printed_by, code_cells(committed)))
    paths = r"/(?:home|root|tmp|usr|var|opt|mnt|srv|work|Users)/|[A-Z]:\\\\\w"
    assert re.findall(paths, everything) == []
    assert str(ROOT) not in everything and str(Path.home()) not in everything
    assert re.findall(r"(?<![\w.])\d{12}(?!\w)", everything) == []  # an account
    assert re.findall(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|localhost", everything) == []
    assert not {getpass.getuser(), socket.gethostname()} & set(re.findall(r"[\w.-]+", outputs))


def test_a_cell_is_short_and_text_stands_between_the_cells(committed):
    lines = [len([line for line in cell.source.splitlines() if line.strip()]) for cell in code_cells(committed)]
    assert max(lines) <= 20 and statistics.median(lines) <= 8
    runs = [(kind, len(list(cells))) for kind, cells in groupby(committed.cells, key=lambda cell: cell.cell_type)]
    assert max(count for kind, count in runs if kind == "code") <= 3
    assert {count for kind, count in runs if kind == "markdown"} == {1}


def test_there_is_about_as_much_text_as_code(committed):
    text = sum(words(cell.source) for cell in committed.cells if cell.cell_type == "markdown")
    code = sum(words(cell.source) for cell in code_cells(committed))
    assert 0.8 <= text / code <= 1.5


def test_one_cell_alone_knows_the_local_aws(committed):
    assert sum("local_aws" in cell.source for cell in code_cells(committed)) == 1


@pytest.mark.parametrize("name", PICTURES)
def test_a_committed_picture_is_as_wide_as_the_readme_and_not_blank(name):
    with Image.open(ROOT / "images" / name) as picture:
        assert picture.width >= 600
        assert len(picture.convert("RGB").getcolors(2**24)) > 20


@pytest.mark.parametrize("name", ICONS)
def test_an_icon_is_a_drawing_of_its_own(name):
    icon = ElementTree.parse(ROOT / "images/icons" / name).getroot()
    assert icon.tag == "{http://www.w3.org/2000/svg}svg" and len(icon) > 0
    assert not [element for element in icon.iter() if element.tag.endswith("image")]


def comparable(cell) -> str:
    """What a cell printed, without the lines that the clock has a part in."""
    return " ".join(" ".join(line.split()) for line in printed_by(cell).splitlines() if not CLOCK.search(line))


@pytest.mark.skipif(not os.environ.get("CIFAR100_ARCHIVE"), reason="the committed figures are those of real images")
def test_the_committed_outputs_are_what_the_code_gives_now(committed, finished):
    _, fresh = finished
    assert [cell.source for cell in code_cells(fresh)] == [cell.source for cell in code_cells(committed)]
    for before, after in zip(map(comparable, code_cells(committed)), map(comparable, code_cells(fresh)), strict=True):
        assert NUMBER.sub("#", after) == NUMBER.sub("#", before)
        figures = [float(number) for number in NUMBER.findall(before)]
        for number, figure in zip(NUMBER.findall(after), figures, strict=True):
            assert math.isclose(float(number), figure, rel_tol=0.1, abs_tol=0.02), f"{after!r} was {before!r}"


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


def test_a_prefix_of_images_goes_through_the_workflow_whole(finished):
    _, notebook = finished
    assert "SUCCEEDED: 200 images" in "".join(map(printed_by, code_cells(notebook)))


def test_a_healthy_stream_passes_and_a_drifted_one_is_caught(finished):
    _, notebook = finished
    printed = "".join(map(printed_by, code_cells(notebook)))
    assert "No drift seen" in printed and "No drift of the confidence seen" in printed
    assert "The data drifted" in printed and "The confidence drifted" in printed


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
