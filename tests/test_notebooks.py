"""The example notebooks, run cell by cell in a real Jupyter kernel."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.batch_server import BatchProvider
from tests.server import Server, answer_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    import nbformat
    from jupyter_client.manager import AsyncKernelManager

EXAMPLES = Path(__file__).parent.parent / "examples"


def shown(cell: nbformat.NotebookNode) -> str:
    """Everything a cell displays, as one text."""
    data = [output.get("data", {}) for output in cell.get("outputs", [])]
    return "\n".join(
        [*(o.get("text", "") for o in cell.get("outputs", [])), *(str(v) for d in data for v in d.values())]
    )


ANEW = """
%reset -f
import os
for name in os.environ.keys() - {environment!r}.keys() - {{"MPLBACKEND"}}:
    del os.environ[name]
os.environ.update({environment!r})
os.chdir({directory!r})
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[AsyncKernelManager]:
    """One kernel, which imports LiteLLM once for all notebooks."""
    from jupyter_client.manager import AsyncKernelManager

    manager = AsyncKernelManager(kernel_name="python3")
    asyncio.run(manager.start_kernel(cwd=str(EXAMPLES.parent)))
    yield manager
    asyncio.run(manager.shutdown_kernel(now=True))


def executed(name: str, directory: Path, kernel: AsyncKernelManager) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook, run with this working directory, our environment and an empty namespace."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    code = ANEW.format(environment=dict(os.environ), directory=str(directory))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(code))
    client = NotebookClient(notebook, km=kernel, timeout=240)
    client.execute()
    client.kc.stop_channels()
    return [cell for cell in notebook.cells[1:] if cell.cell_type == "code"]


@pytest.mark.processes
@pytest.mark.usefixtures("local_model")
def test_quickstart_runs_and_shows_answers_a_failure_and_a_table(tmp_path: Path, kernel: AsyncKernelManager) -> None:
    """The quickstart runs in Jupyter's own event loop, sync and awaited calls alike."""
    code = executed("quickstart.ipynb", tmp_path, kernel)
    everything = "\n".join(map(shown, code))
    assert "<table>" in shown(code[1])
    assert "failed:" in shown(code[2])
    assert shown(code[2]).count("answer:") == 3
    assert "Paris" in everything
    assert "city=" in everything


@pytest.mark.processes
@pytest.mark.usefixtures("local_model")
def test_structured_extraction_fills_a_table_and_mends_the_failed_row(
    tmp_path: Path, kernel: AsyncKernelManager
) -> None:
    """Parsed fields, an error in its row, a price of one's own; the rerun sends only what had failed."""
    code = executed("structured_extraction.ipynb", tmp_path, kernel)
    assert "nights" in shown(code[2])
    assert "1 of 3 rows failed, $0.0000" in shown(code[3])
    assert "r-19" in shown(code[3])
    assert "True" in shown(code[4])
    assert len((tmp_path / "stays.jsonl").read_text().splitlines()) == 3


@pytest.mark.processes
def test_live_to_batch_job_submits_once_and_reads_the_rows_back(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, kernel: AsyncKernelManager
) -> None:
    """With a provider that has batch endpoints, the rows of the job are those of the live calls."""
    batches = BatchProvider(server)
    monkeypatch.setenv("OPENAI_BASE_URL", server.api_base)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    code = executed("live_to_batch_job.ipynb", tmp_path, kernel)
    assert "5 rows for gpt-4o-mini" in shown(code[1])
    assert "2/2 rows succeeded" in shown(code[2])
    assert "/v1/chat/completions" in shown(code[3])
    assert len(batches.jobs) == 1
    assert "5/5 rows succeeded" in shown(code[5])
    assert answer_to("One short sentence with the word glacier.")[:20] in shown(code[6])


STOPPED = """
import llmbatch
from tests.talk import chats, place
given = place({base!r}, max_workers=4, retries=0)
_ = await llmbatch.acreate_chat_completions_batch(chats(1), **given)
"""
KEPT = "len(llmbatch.interrupted_results().succeeded)"
STOPPED_FORMS = {
    "_ = await llmbatch.acreate_chat_completions_batch(chats(300), **given)": KEPT,
    "n = 0\nasync for _ in llmbatch.as_completed(chats(300), **given): n += 1": "n",
    "_ = llmbatch.create_chat_completions_batch(chats(300), **given)": KEPT,
}


@pytest.mark.processes
def test_stop_ends_a_running_cell_and_keeps_what_is_done(server: Server, kernel: AsyncKernelManager) -> None:
    """Jupyter's Stop in an awaited batch, an `async for`, a blocking call: nothing more is sent, rows are there."""
    from jupyter_client.blocking.client import BlockingKernelClient

    server.set(latency=0.05)
    client = BlockingKernelClient()
    client.load_connection_info(kernel.get_connection_info())
    client.start_channels()
    client.wait_for_ready(timeout=240)

    def shows(code: str) -> str:
        """What a cell shows as its value."""
        shown: list[str] = []
        reply = client.execute_interactive(
            code, timeout=60, output_hook=lambda message: shown.append(message["content"]["data"]["text/plain"])
            if message["msg_type"] == "execute_result" else None,
        )  # fmt: skip
        if reply["content"]["status"] == "aborted":  # a kernel drops what reaches it just after a cell has failed
            return shows(code)
        assert reply["content"]["status"] == "ok"
        return "".join(shown)

    try:
        assert not shows(ANEW.format(environment=dict(os.environ), directory=str(EXAMPLES.parent)))
        assert not shows(STOPPED.format(base=server.api_base))
        for cell, done in STOPPED_FORMS.items():
            server.reset()
            request = client.execute(cell)
            while len(server.requests) < 30:
                time.sleep(0.01)
            asyncio.run(kernel.interrupt_kernel())
            assert client.get_shell_msg(timeout=60)["parent_header"]["msg_id"] == request
            sent = len(server.requests)
            assert 20 <= int(shows(done)) <= sent < 200
            assert len(server.requests) == sent
    finally:
        client.stop_channels()


@pytest.mark.cassettes
@pytest.mark.processes
def test_which_model_compares_two_ways_and_writes_a_report(tmp_path: Path, kernel: AsyncKernelManager) -> None:
    """On the recording: what each way gets right, what was asked again, what it costs, and a page with the prompts."""
    directory = tmp_path / "examples"
    directory.mkdir()
    (tmp_path / "cassettes").symlink_to(EXAMPLES.parent / "cassettes")
    (directory / "reviews.csv").symlink_to(EXAMPLES / "reviews.csv")
    code = executed("which_model.ipynb", directory, kernel)
    assert "11 of 120 rows failed" in shown(code[3])
    assert "109/120 rows succeeded" in shown(code[3])
    lines = code[4]["outputs"][0]["data"]["text/plain"].splitlines()[1:]
    table = {way: list(map(int, numbers)) for way, right, _, *numbers in map(str.split, lines)}
    (_, _, again, _, price), (_, failed, asked_again, _, dearer) = table["mood"], table["verdict"]
    assert (again, failed) == (0, 11)
    assert asked_again > failed
    assert dearer > 3 * price
    page = (directory / "which-model.html").read_text()
    assert "Cold room, rude staff" in page


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    """Outputs stay out of the repository, and with them paths and times of the machine they were made on."""
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
