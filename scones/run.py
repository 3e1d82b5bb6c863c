"""make run: executes starter.ipynb from its first cell to its last, and writes the report.

    build/starter.ipynb    the notebook with the outputs of this run
    build/starter.html     the same, to be read in a browser
    build/images/*.png     the pictures, written by the notebook's own cells

The notebook itself is never changed. A failing cell ends the run with status 1 and that cell's error; what ran until
then is written all the same.
"""

import base64
import io
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from PIL import Image

ROOT = Path(__file__).parent.parent
ANSI = re.compile(r"\x1b\[[0-9;]*m")
SUMMARY_TAG = "summary"


def run_notebook(source: Path, build: Path) -> str:
    """Executes the notebook in a new kernel in its own folder; returns what its cell tagged "summary" printed.

    Raises nbclient's CellExecutionError for the first cell that fails.
    """
    notebook = nbformat.read(source, as_version=4)
    build.mkdir(parents=True, exist_ok=True)
    client = _Client(notebook, timeout=1800, record_timing=False, resources={"metadata": {"path": str(source.parent)}})
    client.create_kernel_manager().transport = "ipc"  # no other user of the machine can read it, as they can TCP
    try:
        client.execute(env=_environment())
    finally:
        _write_report(notebook, build)
    return _printed_by(notebook, SUMMARY_TAG)


class _Client(NotebookClient):
    """Prints one line for each code cell as it ends."""

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        started = time.perf_counter()
        try:
            return await super().async_execute_cell(cell, cell_index, *args, **kwargs)
        finally:
            if cell.cell_type == "code":
                number = sum(other.cell_type == "code" for other in self.nb.cells[: cell_index + 1])
                total = sum(other.cell_type == "code" for other in self.nb.cells)
                print(f"[{number:2}/{total}] {time.perf_counter() - started:6.1f} s  {_title(cell.source)}", flush=True)


def _title(source: str) -> str:
    first = next((line for line in source.splitlines() if line.strip()), "")
    return first if len(first) <= 80 else first[:77] + "..."


def _environment() -> dict[str, str]:
    # Warnings of the kernel's own start say nothing to the reader of a report.
    return {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def _write_report(notebook: nbformat.NotebookNode, build: Path) -> None:
    _pack_pictures(notebook)
    nbformat.write(notebook, build / "starter.ipynb")
    html, _ = HTMLExporter().from_notebook_node(notebook, resources={"metadata": {"name": "Scones Unlimited"}})
    (build / "starter.html").write_text(html, encoding="utf-8")


def _pack_pictures(notebook: nbformat.NotebookNode) -> None:
    """Figures are opaque: without the channel that says so they are an eighth smaller, every pixel the same."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for data in [output.data for output in outputs if "image/png" in output.get("data", {})]:
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
        if picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (255, 255):
            packed = io.BytesIO()
            picture.convert("RGB").save(packed, "PNG", optimize=True)
            data["image/png"] = base64.b64encode(packed.getvalue()).decode()


def _printed_by(notebook: nbformat.NotebookNode, tag: str) -> str:
    cells = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def main() -> None:
    build = ROOT / "build"
    started = time.perf_counter()
    try:
        summary = run_notebook(ROOT / "starter.ipynb", build)
    except CellExecutionError as error:
        sys.exit(f"\nA cell failed:\n{ANSI.sub('', str(error))}\nWhat ran until then: {build / 'starter.html'}")
    print(f"\n{summary.rstrip()}\nreport: {build / 'starter.html'} ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
