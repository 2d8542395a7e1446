"""Another name for an option, or one that is close to it, raises before anything is sent and names the right one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import llmbatch
from llmbatch import _litellm
from llmbatch._request.argument_names import SYNONYMS, check_argument_names
from llmbatch._request.plans import plan_chat
from llmbatch.options import OWN_OPTIONS
from tests.replies import answer_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Server

MODEL = "openai/gpt-4o-mini"
PAIRS = [(synonym, ours) for ours, synonyms in SYNONYMS.items() for synonym in synonyms]
# Parameters of vLLM, SGLang, llama.cpp, Ollama, TGI, OpenRouter, Groq, Mistral, xAI, Perplexity, Anthropic and Gemini.
SERVERS_OWN = """
add_generation_prompt add_special_tokens allowed_token_ids bad_words best_of cache_prompt cache_salt chat_template
chat_template_kwargs citation_options container context_length_exceeded_behavior continue_final_message
custom_logit_processor documents dry_multiplier ebnf echo enable_thinking format grammar guided_choice
guided_grammar guided_json guided_regex ignore_eos include_reasoning include_stop_str_in_output json_schema
keep_alive length_penalty logits_processors lora_path mcp_servers min_keep min_p min_tokens mirostat mirostat_eta
mirostat_tau mm_processor_kwargs models n_predict n_probs no_stop_trim num_ctx num_predict options
performance_config plugins priority prompt_logprobs prompt_truncate_len quite_new random_seed reasoning
reasoning_format reasoning_split regex repeat_last_n repeat_penalty repetition_penalty request_id
return_hidden_states return_images return_token_ids rid route safe_prompt safety_mode safety_settings samplers
search_domain_filter search_parameters search_recency_filter separate_reasoning session_params skip_special_tokens
slot_id speech_config spaces_between_special_tokens stop_token_ids structured_outputs tfs_z think top_a top_k
transforms truncate_prompt_tokens typical_p use_beam_search vllm_xargs xtc_probability
"""


def check(name: str, value: Any = 3, provider: str = "openai") -> None:
    check_argument_names({name: value}, OWN_OPTIONS, _litellm.parameters(), provider)


@pytest.mark.parametrize(("name", "ours"), PAIRS)
def test_synonym_raises_and_names_our_option(name: str, ours: str) -> None:
    """In any spelling: snake_case, kebab-case and camelCase."""
    camel = "".join(part.capitalize() if at else part for at, part in enumerate(name.split("_")))
    for spelling in (name, name.replace("_", "-"), camel):
        with pytest.raises(ValueError, match=rf"unknown option {spelling}=. Use {ours}= "):
            check(spelling)


def test_synonym_is_no_name_of_ours_or_litellms() -> None:
    """The table would forbid what is allowed; LiteLLM's names for retries and timeouts are llmbatch's to set."""
    assert not {name for name, _ in PAIRS} & OWN_OPTIONS
    litellms = {name for name, _ in PAIRS} & _litellm.parameters()
    assert litellms == {"max_retries", "request_timeout"}


@pytest.mark.parametrize("name", SERVERS_OWN.split())
def test_parameter_of_server_passes(name: str) -> None:
    """It is sent as it is, and named as such unless LiteLLM knows it for the provider."""
    plan = plan_chat(MODEL, **{name: 1})
    assert plan.params[name] == 1
    assert plan.sent_as_is == (name,)


TYPED = st.tuples(
    st.sampled_from(sorted(name for name in OWN_OPTIONS | _litellm.parameters() if len(name) >= 9 and "_" in name)),
    st.integers(0, 100),
    st.sampled_from(["left out", "doubled", "swapped"]),
)


@settings(max_examples=150, deadline=None)
@given(TYPED)
@example(("temperature", 4, "left out"))
def test_typing_error_raises_or_is_a_known_name(typed: tuple[str, int, str]) -> None:
    """One letter left out, doubled, or swapped with the next: never sent as a parameter of its own."""
    name, place, how = typed
    at = place % (len(name) - 1)
    wrong = {
        "left out": name[:at] + name[at + 1 :],
        "doubled": name[: at + 1] + name[at:],
        "swapped": name[:at] + name[at + 1] + name[at] + name[at + 2 :],
    }[how]
    if wrong in OWN_OPTIONS | _litellm.parameters():
        return
    with pytest.raises(ValueError, match="unknown option"):
        check(wrong)


@given(st.from_regex(r"[a-z]{1,12}(_[a-z]{1,12}){0,3}", fullmatch=True))
@settings(max_examples=200, deadline=None)
def test_any_name_is_known_or_raises_or_is_sent_as_is(name: str) -> None:
    """Nothing is dropped: a plan has the parameter, or the call raises."""
    try:
        plan = plan_chat(MODEL, extra_body=None, **{name: 7})
    except (ValueError, TypeError):
        return
    assert name in OWN_OPTIONS | {"stream", "completion_window"} or plan.params[name] == 7
    assert (name in plan.sent_as_is) == (bool(_litellm.unknown_parameters(plan.target, [name])))


def test_provider_must_stand_before_the_model() -> None:
    """As a string it is a mistake; as a dict it is OpenRouter's routing."""
    with pytest.raises(ValueError, match=r"model='groq/\.\.\.'"):
        check("provider", "groq")
    check("provider", {"order": ["groq"]})
    check("model_id", "arn:aws:bedrock:x", provider="bedrock")
    with pytest.raises(ValueError, match="Use model="):
        check("model_id", "gpt-4o")


def in_a_batch(place: dict[str, Any], wrong: dict[str, Any], _path: Path) -> object:
    return llmbatch.create_chat_completions_batch(["a"], MODEL, **place, **wrong)


def one_by_one(place: dict[str, Any], wrong: dict[str, Any], _path: Path) -> object:
    return llmbatch.as_completed(["a"], MODEL, **place, **wrong)


def alone(place: dict[str, Any], wrong: dict[str, Any], _path: Path) -> object:
    return llmbatch.create_chat_completion("a", MODEL, **place, **wrong)


def as_a_chat(place: dict[str, Any], wrong: dict[str, Any], _path: Path) -> object:
    return llmbatch.chat(MODEL, **place, **wrong).ask("a")


def embedded(place: dict[str, Any], wrong: dict[str, Any], _path: Path) -> object:
    return llmbatch.create_embeddings_batch(["a"], "openai/text-embedding-3-small", **place, **wrong)


def rendered(_place: dict[str, Any], wrong: dict[str, Any], _path: Path) -> object:
    return llmbatch.render_batch_requests(["a"], MODEL, **wrong)


def rendered_to_embed(_place: dict[str, Any], wrong: dict[str, Any], _path: Path) -> object:
    return llmbatch.render_embeddings_requests(["a"], "openai/text-embedding-3-small", **wrong)


def estimated(_place: dict[str, Any], wrong: dict[str, Any], _path: Path) -> object:
    return llmbatch.estimate_batch(["a"], MODEL, **wrong)


def submitted(place: dict[str, Any], wrong: dict[str, Any], path: Path) -> object:
    return llmbatch.submit_batch_job(["a"], MODEL, state=path / "job.json", **place, **wrong)


def submitted_as_payloads(place: dict[str, Any], wrong: dict[str, Any], path: Path) -> object:
    payloads = llmbatch.render_batch_requests(["a"], MODEL)
    return llmbatch.submit_batch_job(payloads, state=path / "job.json", **place, **wrong)


def retrieved(place: dict[str, Any], wrong: dict[str, Any], _path: Path) -> object:
    return llmbatch.retrieve_batch_job("batch_1", model=MODEL, **place, **wrong)


def in_a_fallback(place: dict[str, Any], wrong: dict[str, Any], _path: Path) -> object:
    fallbacks = [{"model": "openai/gpt-4o", **wrong}]
    return llmbatch.create_chat_completions_batch(["a"], MODEL, fallbacks=fallbacks, **place)


def in_a_request(place: dict[str, Any], wrong: dict[str, Any], _path: Path) -> object:
    (row,) = llmbatch.create_chat_completions_batch([{"prompt": "a", **wrong}], MODEL, **place)
    raise ValueError(row["error"])


@pytest.mark.parametrize(
    "run",
    [
        in_a_batch, one_by_one, alone, as_a_chat, embedded, rendered, rendered_to_embed, estimated, submitted,
        submitted_as_payloads, retrieved, in_a_fallback, in_a_request,
    ],
)  # fmt: skip
def test_wrong_name_is_never_sent(
    server: Server, tmp_path: Path, run: Callable[[dict[str, Any], dict[str, Any], Path], object]
) -> None:
    """Not in any function that takes arguments, nor in a request of its own, nor in a fallback."""
    place = {"api_base": server.api_base, "api_key": "sk-test"}
    for wrong, right in (
        ({"budget": 3}, "max_cost="),
        ({"model_name": "gpt-4o"}, "model="),
        ({"tempratures": 1}, "temp"),
    ):
        with pytest.raises(ValueError, match=f"unknown option {next(iter(wrong))}=.*{right}"):
            run(place, wrong, tmp_path)
    assert not server.requests


def test_unknown_parameters_are_reported_once(server: Server, log: list[str]) -> None:
    """In the log and in the summary; LiteLLM's own are not among them, nor is what is in extra_body."""
    requests = ["a", "b", {"prompt": "c", "min_p": 0.1}, {"prompt": "d", "min_p": 0.2}]
    results = llmbatch.create_chat_completions_batch(
        requests, MODEL, api_base=server.api_base, api_key="sk-test", top_k=3, guided_json={}, seed=1,
        extra_body={"quite": "new"}, metadata={"run": 1}, progress=False,
    )  # fmt: skip
    assert not results.failed
    assert results.summary().endswith("; sent as is: guided_json, min_p, top_k")
    assert results[:2].sent_as_is == ["guided_json", "min_p", "top_k"]
    said = [line for line in log if "Sent as is" in line]
    assert [name for name in ("guided_json, top_k", "min_p") if sum(name in line for line in said) == 1] == [
        "guided_json, top_k", "min_p",
    ]  # fmt: skip
    assert server.requests[0].json["top_k"] == 3


def test_system_message_is_put_first_where_there_is_none(server: Server, tmp_path: Path) -> None:
    """Live, in payloads and estimates; a request may have its own, and a conversation that has one keeps it."""
    own = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "b"}]
    requests: list[Any] = ["a", own, {"prompt": "c", "system": "Be loud."}]
    place = {"api_base": server.api_base, "api_key": "sk-test"}
    results = llmbatch.create_chat_completions_batch(requests, MODEL, system="Be brief.", **place)
    assert results.texts == [answer_to("a"), answer_to("b"), answer_to("c")]
    expected = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}],
        own,
        [{"role": "system", "content": "Be loud."}, {"role": "user", "content": "c"}],
    ]
    sent = sorted(
        (request.json["messages"] for request in server.requests), key=lambda messages: messages[-1]["content"]
    )
    assert sent == expected
    payloads = llmbatch.render_batch_requests(requests, MODEL, system="Be brief.")
    assert [payload["body"]["messages"] for payload in payloads] == expected
    short, long = (llmbatch.estimate_batch(["a"], MODEL, system=text).prompt_tokens for text in (None, "Be brief."))
    assert long > short
    row = llmbatch.create_chat_completion("a", MODEL, system="Be brief.", **place)
    assert row["choices"][0]["message"]["content"] == answer_to("a")
    with pytest.raises(ValueError, match="system= is for chat completions"):
        llmbatch.create_embeddings_batch(["a"], system="Be brief.", **place)
    with pytest.raises(ValueError, match=r"payloads have their own parameters\. Leave out system"):
        llmbatch.submit_batch_job(payloads, system="Be brief.", state=tmp_path / "job.json", **place)


def test_wrong_name_for_a_job_that_is_found_or_a_table_raises(tmp_path: Path) -> None:
    """Before a state file is read, and in the program that starts the workers."""
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(ValueError, match="Use max_cost="):
        llmbatch.retrieve_batch_job(tmp_path / "job.json", budget=3)
    with pytest.raises(ValueError, match=r"unknown option top_k=.*model=, response_format=, api_key"):
        llmbatch.retrieve_batch_job(tmp_path / "job.json", top_k=3)
    ray = pytest.importorskip("llmbatch.integrations.ray")
    with pytest.raises(ValueError, match="Use max_cost="):
        ray.Completions("{text}", budget=3)
