"""The notebook in ``examples/`` runs, as a reader runs it, in a kernel of its own."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from tests.support.trace_events import check

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "experiment.ipynb"
LACKING = [name for name in ("nbclient", "ipykernel") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"{', '.join(LACKING)}: pip install '.[notebook]'")


def test_the_notebook_draws_attainment_and_the_timeline_of_the_latest_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "commit it without its outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in code for output in cell.outputs]
    pictures = [output["data"]["image/svg+xml"] for output in outputs if "data" in output]
    assert [picture.startswith("<svg") for picture in pictures] == [True, True]
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert "under mfs (incast, 39 requests/s, seed 1): first token after" in printed
    check(json.loads((tmp_path / "late.json").read_text("utf-8")))
