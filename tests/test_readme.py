"""The README's code runs, as it stands, against a loopback provider."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llmbatch
from llmbatch._options import Options
from tests.batch_server import BatchProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.server import Request, Server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SENTIMENT = '{"positive": true, "reason": "It says so."}'


def test_every_block_runs(provider: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The Python blocks, in their order and in one namespace, as a reader would run them."""
    from tests.replies import chat_reply

    server = provider()
    BatchProvider(server)
    files = server.handler

    def answers(request: Request) -> Any:
        if isinstance(request.json, dict) and "response_format" in request.json:
            reply = chat_reply(request)
            reply.body["choices"][0]["message"]["content"] = SENTIMENT
            return reply
        return files(request) if files else None

    server.handler = answers
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "cassettes", tmp_path / "cassettes")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_API_BASE", server.api_base)
    monkeypatch.setenv("GITHUB_TOKEN", "gho_test")
    monkeypatch.setenv("GITHUB_COPILOT_API_BASE", server.api_base)
    monkeypatch.setenv("COPILOT_REQUESTS_PER_MINUTE", "6000")
    namespace: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"README.md, Python block {number + 1}", "exec"), namespace)  # noqa: S102 - it is our own
        if "results" in namespace:
            assert not namespace["results"].failed, f"block {number + 1}"


def test_every_public_name_and_option_is_in_the_reference() -> None:
    """A name or option that users can pass is in the README."""
    missing = [name for name in llmbatch.__all__ if not re.search(rf"\b{name.removeprefix('a')}\b|\b{name}\b", README)]
    assert missing == []
    assert [name for name in Options.__dataclass_fields__ if f"`{name}`" not in README] == []
