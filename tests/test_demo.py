"""The demo script as the README runs it: a process of its own; with a key in this one."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from loguru import logger

from tests.server import Response, Server

DEMO = Path(__file__).parent.parent / "examples" / "demo_batch_completions.py"


@pytest.mark.processes
@pytest.mark.nightly
def test_without_a_key_the_local_model_answers() -> None:
    """Answers, the one failure and the totals of all four batches are printed, and the log tells what ran."""
    pytest.importorskip("xllamacpp", reason="the demo without a key needs the extra llmbatch[local]")
    done = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rows succeeded") == 4
    assert done.stdout.count("FAILED") == 1
    assert "Paris" in done.stdout
    assert "llmbatch" in done.stderr


def test_with_a_key_the_provider_answers_and_a_refusal_is_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """OPENAI_API_KEY sends the rows to OpenAI (here a loopback server); a refused row is printed, and the exit is 1."""
    refusal = Response(400, body={"error": {"message": "no telephones, please", "code": "policy"}})
    server.handler = lambda request: refusal if "telephone" in request.text else None
    monkeypatch.setenv("OPENAI_API_KEY", "sk-made-up")
    monkeypatch.setenv("OPENAI_API_BASE", server.api_base)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(DEMO), run_name="__main__")
    logger.disable("llmbatch")
    shown, told = capfd.readouterr()
    assert ended.value.code == 1
    assert len(server.requests) == 12
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer sk-made-up"}
    assert shown.count("FAILED") == 2
    assert "no telephones, please" in shown
    assert "Chat completion batch" in told + caplog.text
    assert "sk-made-up" not in shown + told + caplog.text
