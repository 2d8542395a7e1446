"""`llmbatch run` over several servers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from llmbatch.cli import main
from tests.talk import lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Server


def run(tmp_path: Path, *arguments: str) -> Any:
    """Run the command on ten prompts."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(f"Question number {i}?") + "\n" for i in range(10)))
    return CliRunner().invoke(main, ["run", str(source), "-o", str(output), "-q", *arguments])


@pytest.fixture
def servers(provider: Callable[..., Server]) -> list[Server]:
    """Two servers."""
    return [provider(latency=0.02) for _ in range(2)]


def test_api_base_repeated_uses_all_servers(tmp_path: Path, servers: list[Server]) -> None:
    """Rows name the server by its address; the key goes to each."""
    bases = [part for server in servers for part in ("--api-base", server.api_base)]
    done = run(tmp_path, *bases, "-m", "openai/gpt-4o-mini", "-p", "api_key=sk-both")
    assert done.exit_code == 0, done.output
    names = {line["llmbatch"]["deployment"] for line in lines(tmp_path / "out.jsonl")}
    assert names == {server.url for server in servers}
    assert {request.headers["authorization"] for server in servers for request in server.requests} == {"Bearer sk-both"}


def test_deployments_file_of_a_router_is_read(
    tmp_path: Path, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration of LiteLLM's proxy works as it is, its other sections included."""
    monkeypatch.setenv("GPU_KEY", "sk-gpu")
    items = "".join(
        f"""
  - model_name: small
    litellm_params:
      model: openai/qwen
      api_base: {server.api_base}
      api_key: os.environ/GPU_KEY
      rpm: 60000
"""
        for server in servers
    )
    path = tmp_path / "config.yaml"
    path.write_text(f"model_list:{items}\nrouter_settings:\n  routing_strategy: least-busy\n")
    done = run(tmp_path, "--deployments", str(path))
    assert done.exit_code == 0, done.output
    assert {request.json["model"] for server in servers for request in server.requests} == {"qwen"}
    assert all(server.stats.ok for server in servers)


@pytest.mark.parametrize(
    ("arguments", "content", "words"),
    [
        (["--api-base", "http://a/v1", "--api-base", "http://a/v1"], None, "given twice"),
        (["--api-base", "http://a/v1", "--deployments", "FILE"], "[]", "both given"),
        (["--deployments", "FILE"], "general_settings: {}", "no list of deployments"),
        (["--deployments", "FILE"], "a: [", "not YAML or JSON"),
        (["--deployments", "FILE"], "[]", "deployments is empty"),
    ],
)
def test_misuse_of_servers_exits_with_2(tmp_path: Path, arguments: list[str], content: str | None, words: str) -> None:
    """Nothing is sent, and one line says what to do."""
    path = tmp_path / "servers.yaml"
    path.write_text(content or "")
    done = run(tmp_path, *(str(path) if argument == "FILE" else argument for argument in arguments))
    assert done.exit_code == 2
    assert words in done.output
    assert not (tmp_path / "out.jsonl").exists()
