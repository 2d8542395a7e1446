"""`llmbatch render | estimate | submit | status | wait | results | cancel`."""

from __future__ import annotations

import json
import os
import pty
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import llmbatch
from llmbatch.cli import main
from tests.batch_server import MODEL, asked
from tests.replies import answer_to
from tests.talk import script
from tests.wire import Response

if TYPE_CHECKING:
    from tests.batch_server import BatchProvider
    from tests.warm import Warm


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory of its own, with a key, and three prompts in three forms."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-1234")
    rows = asked(3)
    given = [rows[0], {"messages": rows[1]}, rows[2][0]["content"]]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))


def llm(*arguments: Any, given: str | None = None) -> Result:
    """Run the command; what it prints on stdout is JSON."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=given)


def test_render_command_writes_what_python_renders() -> None:
    """To stdout or a file; the count goes to stderr."""
    result = llm("render", "prompts.jsonl", "-m", MODEL, "-p", "seed=7", "-p", 'stop=["END"]')
    payloads = [json.loads(line) for line in result.stdout.splitlines()]
    assert payloads == llmbatch.render_batch_requests(asked(3), MODEL, seed=7, stop=["END"])
    assert result.stderr == "3 requests rendered\n"
    assert llm("render", "prompts.jsonl", "-o", "batch.jsonl").exit_code == 0
    assert list(llmbatch.read_batch_file("batch.jsonl")) == llmbatch.render_batch_requests(asked(3))


def test_render_command_reads_stdin_tables_and_texts() -> None:
    """As `run` does; ids are taken over."""
    assert json.loads(llm("render", "-", given='{"id": "a", "prompt": "Hi"}\n').stdout)["custom_id"] == "a"
    Path("reviews.csv").write_text("id,review\n7,good\n")
    (payload,) = map(json.loads, llm("render", "reviews.csv", "--template", "Judge: {review}").stdout.splitlines())
    assert payload["custom_id"] == "7"
    assert payload["body"]["messages"] == [{"role": "user", "content": "Judge: good"}]
    (payload,) = map(json.loads, llm("render", "-", "--embeddings", given='"a cat"\n').stdout.splitlines())
    assert payload["body"]["input"] == "a cat"


def test_estimate_command_prints_one_object() -> None:
    """With nulls for what is unknown."""
    told = json.loads(llm("estimate", "prompts.jsonl", "-m", "gpt-4o-mini").stdout)
    assert (told["rows"], told["completion_tokens"], told["files"]) == (3, 600, 1)
    assert json.loads(llm("estimate", "prompts.jsonl", "-m", "hosted_vllm/x").stdout)["live_cost"] is None


def test_estimate_command_has_the_lanes() -> None:
    """JSON on a pipe; `-p` names any other option."""
    stated = ("--rpm", "2", "--tpm", "1000000", "--latency", "3", "-w", "2", "--deadline", "60")
    lanes = json.loads(llm("estimate", "prompts.jsonl", "-m", "gpt-4o-mini", *stated).stdout)["lanes"]
    assert list(lanes) == ["live", "flex", "job", "cheapest"]
    assert (lanes["live"]["seconds"], lanes["cheapest"]["seconds"]) == (90, 60)
    assert lanes["live"]["risk"].endswith("those past the deadline fail")
    assert lanes["flex"] == {
        "prompt_cost": None, "cost": None, "seconds": None, "time": "-",
        "risk": "no flex price is known for gpt-4o-mini", "missing": True,
    }  # fmt: skip
    named = json.loads(llm("estimate", "prompts.jsonl", "-p", "max_workers=1", "-p", "latency=3").stdout)
    assert named["lanes"]["live"]["seconds"] == 9
    assert llm("estimate", "prompts.jsonl", "--rpm", "0").exit_code == 2


@pytest.mark.processes
def test_estimate_command_prints_a_table_on_a_terminal(warm: Warm) -> None:
    """With a line for each lane."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 200))
    code = "from llmbatch.cli import main; main()"
    with warm.script(code, "estimate", "prompts.jsonl", "-m", "gpt-5-mini", terminal=theirs) as process:
        assert process.wait() == 0
    shown = os.read(ours, 1 << 16).decode().splitlines()
    os.close(theirs)
    os.close(ours)
    assert shown[0].startswith("3 rows for gpt-5-mini")
    assert [line.split()[0] for line in shown[1:6]] == ["lane", "live", "flex", "job", "cheapest"]


@pytest.mark.parametrize("rendered", [False, True])
def test_job_commands_run_a_job(batches: BatchProvider, place: dict[str, Any], rendered: bool) -> None:
    """Submitted, watched, waited for and read: conversations or rendered lines."""
    source = "prompts.jsonl"
    if rendered:
        assert llm("render", source, "-m", MODEL, "-o", "batch.jsonl").exit_code == 0
        source = "batch.jsonl"
    batches.polls = 3
    job = json.loads(llm("submit", source, "-m", MODEL, "--api-base", place["api_base"], "-s", "job.json").stdout)
    assert (job["status"], job["rows"], job["batch_ids"], job["state"]) == ("validating", 3, ["batch_1"], "job.json")
    status = llm("status", "job.json")
    assert (status.exit_code, json.loads(status.stdout)["status"]) == (3, "in_progress")
    assert llm("results", "job.json").exit_code == 3
    waited = llm("wait", "job.json", "--poll", "0.01")
    assert (waited.exit_code, json.loads(waited.stdout)["status"]) == (0, "completed")
    assert json.loads(waited.stdout)["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    results = llm("results", "job.json")
    assert results.exit_code == 0
    contents = [
        json.loads(line)["response"]["body"]["choices"][0]["message"]["content"] for line in results.stdout.splitlines()
    ]
    assert contents == [answer_to(f"Question {i}") for i in range(3)]
    assert "3/3 rows succeeded" in results.stderr
    assert "secret" not in Path("job.json").read_text()


def test_submit_command_again_submits_nothing(batches: BatchProvider, place: dict[str, Any]) -> None:
    """The state file beside the input knows the job."""
    for _ in range(2):
        assert llm("submit", "prompts.jsonl", "-m", MODEL, "--api-base", place["api_base"]).exit_code == 0
    assert len(batches.jobs) == 1
    assert Path("prompts.jsonl.job.json").exists()


def test_job_commands_failed_rows_are_exit_code_1(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Rows that failed are lines with `error`."""
    batches.end = "expired"
    llm("submit", "prompts.jsonl", "-m", MODEL, "--api-base", place["api_base"], "-s", "job.json")
    batches.fates = dict.fromkeys(llmbatch.BatchJob.load("job.json").state.custom_ids[:1], "missing")
    assert llm("wait", "job.json", "--poll", "0.01").exit_code == 1
    assert llm("status", "job.json").exit_code == 1
    results = llm("results", "job.json", "-o", "out.jsonl")
    assert results.exit_code == 1
    first = json.loads(Path("out.jsonl").read_text().splitlines()[0])
    assert first["error"]["code"] == "BatchExpired"
    texts = [json.loads(line) for line in llm("results", "job.json", "--text").stdout.splitlines()]
    assert texts == [None, answer_to("Question 1"), answer_to("Question 2")]


def test_cancel_command_ends_the_job(batches: BatchProvider, place: dict[str, Any]) -> None:
    """And a wait may end before it."""
    batches.polls = 10_000
    llm("submit", "prompts.jsonl", "-m", MODEL, "--api-base", place["api_base"], "-s", "job.json")
    waited = llm("wait", "job.json", "--poll", "0.01", "--timeout", "0.03")
    assert waited.exit_code == 3
    assert "it continues" in waited.stderr
    assert json.loads(llm("cancel", "job.json").stdout)["status"] == "cancelling"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["render", "no-such-file"], 2, "does not exist"),
        (["render", "prompts.jsonl", "-m", "anthropic/claude-sonnet-4-5"], 2, "anthropic has no batch support"),
        (["render", "prompts.jsonl", "-p", "seed"], 2, "NAME=JSON"),
        (["render", "bad.jsonl"], 2, "line 2 is not JSON"),
        (["submit", "prompts.jsonl", "-t", "9"], 2, "between 0 and 2"),
        (["status", "prompts.jsonl"], 4, "not a batch job's state file"),
    ],
)
def test_job_commands_misuse_is_one_line_and_an_exit_code(arguments: list[str], code: int, message: str) -> None:
    """No traceback."""
    Path("bad.jsonl").write_text('"good"\n{bad\n')
    result = llm(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_job_commands_provider_rejection_is_exit_code_4(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Without the key."""
    refusal = {"error": {"message": "Incorrect API key provided: sk-very-secret-1234."}}
    batches.fault("POST", "/v1/files", Response(401, body=refusal))
    result = llm("submit", "prompts.jsonl", "-m", MODEL, "--api-base", place["api_base"])
    assert result.exit_code == 4
    assert "did not upload" in result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize("command", ["render", "estimate", "submit", "status", "wait", "results", "cancel"])
def test_job_commands_help_has_examples(command: str) -> None:
    """Each command shows how it is used."""
    text = llm(command, "--help").stdout
    assert f"llmbatch {command}" in text
    assert "Example" in text


@pytest.mark.processes
def test_help_imports_no_litellm() -> None:
    """It imports no litellm."""
    code = "import sys; from llmbatch.cli import main; main(standalone_mode=False); print('litellm' in sys.modules)"
    with script(code, "submit", "--help") as process:
        assert process.communicate(timeout=240)[0].endswith("False\n")
