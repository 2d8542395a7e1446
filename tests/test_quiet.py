"""LiteLLM's own warnings are heard by nobody and fail no row; those of others, and all filters, stay as they are."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch._litellm import load
from tests.talk import chats, place, script

if TYPE_CHECKING:
    from tests.server import Server

EVERYTHING = """
import asyncio, sys, warnings
before = list(warnings.filters)
import llmbatch
from tests.talk import chats, place

for route in ("openai/gpt-4o-mini", "hosted_vllm/local"):
    at = place(sys.argv[1], model=route, progress=False)
    rows = llmbatch.create_chat_completions_batch(chats(3), **at)
    at.pop("progress")
    rows += asyncio.run(llmbatch.acreate_chat_completions_batch(chats(3), **at))
    rows += [event["row"] for event in llmbatch.stream_chat_completions_batch(chats(3), **at) if "row" in event]
    rows += llmbatch.create_embeddings_batch(["a", "b"], **at)
    rows += llmbatch.create_embeddings_batch(["a", "b"], encoding_format="base64", **at)
    payload = llmbatch.render_batch_requests(chats(1), **at)[0]
    print(len(rows), [row["error"] for row in rows if "error" in row])

import litellm
llmbatch.create_chat_completions_batch(chats(1), **at)
after = list(warnings.filters)
theirs = [given for given in after if given not in before]
assert [given for given in after if given in before] == before
assert any("ReadOnly" in str(given[1]) for given in theirs), "LiteLLM's own filters are kept"
llmbatch.create_chat_completions_batch(chats(1), **at)
assert list(warnings.filters) == after
try:
    warnings.warn("the script's own")
except UserWarning:
    print("heard")
"""


@pytest.mark.processes
@pytest.mark.contract
def test_the_first_call_is_quiet_and_every_row_good_when_warnings_are_errors(server: Server) -> None:
    """Chats, awaited, streamed, embeddings and payloads print nothing; the script's own warnings are errors still."""
    with script(EVERYTHING, server.api_base) as process:
        out, err = process.communicate(timeout=240)
    assert (out.splitlines(), err) == (["13 []", "13 []", "heard"], "")


@pytest.mark.processes
def test_the_first_call_prints_nothing(server: Server) -> None:
    """With Python's usual filters too, which show what LiteLLM and pydantic warn of.

    And no attempt's time is spent on imports: the OpenAI SDK, a second's, is there before anything is sent.
    """
    code = """
import sys, llmbatch
from tests.talk import batch, chats, place
rows = llmbatch.as_completed(chats(1), **place(sys.argv[1]))
assert "openai.resources.chat" in sys.modules
assert not batch(sys.argv[1], chats(3)).failed
"""
    with script(code, server.api_base, flags=("-W", "always")) as process:
        assert process.communicate(timeout=240) == ("", "")
    assert process.returncode == 0
    assert len(server.requests) == 3


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """LiteLLM warns in three ways wherever it builds a request, in its own thread."""
    times: list[int] = []
    litellm = load()
    build = litellm.main.get_optional_params

    def warning_build(*args: Any, **kwargs: Any) -> Any:
        times.append(0)
        for kind in (UserWarning, DeprecationWarning, ResourceWarning):
            warnings.warn("of LiteLLM", kind, stacklevel=1)
        return build(*args, **kwargs)

    monkeypatch.setattr(litellm.main, "get_optional_params", warning_build)
    return times


@pytest.mark.litellm_only("counts calls of acompletion that warn")
def test_a_warning_inside_litellm_is_ignored_and_the_callers_own_is_not(server: Server, warned: list[int]) -> None:
    """While requests are in flight; `warnings.filters` is as before afterwards."""
    server.set(latency=0.05)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        load()
        before = list(warnings.filters)
        for number, (_, row) in enumerate(llmbatch.as_completed(chats(8), **place(server.api_base), max_workers=4)):
            assert "error" not in row
            warnings.warn(f"mine {number}", stacklevel=1)
        assert warnings.filters == before
    assert len(warned) == 8
    assert [str(warning.message) for warning in heard] == [f"mine {number}" for number in range(8)]


@pytest.mark.litellm_only("counts calls of acompletion that warn")
def test_filters_that_come_and_go_meanwhile_do_no_harm(server: Server, warned: list[int]) -> None:
    """Each `catch_warnings` around a part of a batch gives the filters back as they were, whatever it filtered."""
    server.set(latency=0.02)
    load()
    before = list(warnings.filters)
    rows = iter(llmbatch.as_completed(chats(12), **place(server.api_base), max_workers=2))
    for _ in range(8):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "nothing of the kind")
            assert "error" not in next(rows)[1]
    assert not [row for _, row in rows if "error" in row]
    assert len(warned) == 12
    assert warnings.filters == before


@pytest.mark.litellm_only("counts calls of acompletion that warn")
def test_a_filter_for_everything_does_not_come_before_ours(server: Server, warned: list[int]) -> None:
    """`simplefilter("error")` after the first call, as in `-W error`, makes no row fail either."""
    assert not llmbatch.create_chat_completions_batch(chats(1), progress=False, **place(server.api_base)).failed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = llmbatch.create_chat_completions_batch(chats(4), progress=False, **place(server.api_base))
    assert not rows.failed
    assert len(warned) == 5


def test_no_provider_is_heard_on_what_only_llmbatch_sends(caplog: pytest.LogCaptureFixture) -> None:
    """LiteLLM's Hugging Face route says for each request that it takes no `max_retries`."""
    load()
    route = importlib.import_module("litellm.llms.huggingface.chat.transformation")
    (lookup,) = (name for name in vars(route) if name.endswith("fetch_inference_provider_mapping"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(route, lookup, lambda _: 1 // 0)
        rows = llmbatch.create_chat_completions_batch(chats(2), "huggingface/some/model", api_key="k", retries=0)
    assert all("error" in row for row in rows)
    assert not [line for line in caplog.messages if "max_retries" in line]
