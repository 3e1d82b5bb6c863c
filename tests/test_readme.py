"""The README keeps step with the repository: its commands, paths and names exist."""

import re
import subprocess

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()
CODE = re.findall(r"`([^`\n]+)`", README)
MADE_BY_A_RUN = ("build/", "data/", ".venv")


def test_each_make_command_is_a_target_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", " ".join(CODE + re.findall(r"^ {4}.*$", README, re.MULTILINE))))
    assert named
    assert named <= targets


def test_each_python_module_that_is_run_exists():
    for module in re.findall(r"python -m ([\w.]+)", README):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def paths():
    found = {text for text in CODE if re.fullmatch(r"\.?[\w.-]+(/[\w.-]*)*", text) and ("/" in text or "." in text)}
    return sorted(text for text in found if (ROOT / text.split("/")[0]).exists() and not text.startswith(MADE_BY_A_RUN))


@pytest.mark.parametrize("path", paths())
def test_each_path_exists(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", re.findall(r"!?\[[^\]]*\]\((?!https?:)([^)#]+)\)", README))
def test_each_link_and_picture_exists(path):
    tracked = subprocess.run(["git", "ls-files", path], cwd=ROOT, capture_output=True, text=True).stdout
    assert (ROOT / path).exists()
    assert tracked.strip(), f"{path} is not committed"


def test_the_layout_names_what_is_at_the_top_level():
    layout = README.split("## What is in it")[1].split("\n\n")[1]
    for name in re.findall(r"^ {4}(\S+)", layout, re.MULTILINE):
        assert (ROOT / name).exists(), name
