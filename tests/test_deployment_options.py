"""Misuse of deployments= raises before anything is sent, and says what to do."""

from __future__ import annotations

from typing import Any

import pytest

import llmbatch

ONE = {"model": "openai/m", "api_base": "http://127.0.0.1:1/v1"}
TWO = {"model": "openai/m", "api_base": "http://127.0.0.1:2/v1"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "deployments is empty"),
        ("http://gpu1/v1", "must be a list of dicts"),
        (ONE, "must be a list of dicts"),
        ({"model_list": [ONE]}, r"config\['model_list'\]"),
        (["http://gpu1/v1"], r"deployments\[0\] must be a dict"),
        ([{}], "names no server"),
        ([{"rpm": 3}], "names no server"),
        ([{**ONE, "weight": 0}, {**TWO, "weight": 0}], "every deployment has weight 0"),
        ([{**ONE, "weight": -1}], "weight must be at least 0"),
        ([{**ONE, "rpm": "many"}], "rpm must be a number"),
        ([{**ONE, "max_parallel_requests": 0}], "max_parallel_requests must be at least 1"),
        ([{**ONE, "retries": 3}], "retries is an option of the whole batch"),
        ([{**ONE, "wieght": 3}], "unknown key 'wieght'"),
        ([{**ONE, "rpd": 3}], "rpd is a daily limit"),
        ([{**ONE, "name": "x"}, {**TWO, "name": "x"}], "two deployments have the name 'x'"),
        ([{**ONE, "model_name": "a"}, TWO], r"deployments\[1\] has no model_name"),
        ([{"model_name": "a", "litellm_params": ONE, "api_base": "b"}], "Put LiteLLM's arguments into litellm_params"),
        ([{"model_name": "a*", "litellm_params": ONE}], "without '\\*'"),
        ([{**ONE, "api_key": "os.environ/NOT_SET_ANYWHERE"}], "NOT_SET_ANYWHERE is not set"),
        ([ONE, {**TWO, "model": "openai/other"}], "common model_name"),
        ([{"model_name": "a", "litellm_params": ONE, "model_info": "x"}], "model_info must be a dict, not str"),
    ],
)
def test_deployments_that_are_wrong_raise(given: Any, words: str) -> None:
    """Each message names the item and the fix."""
    for call in (llmbatch.create_chat_completions_batch, llmbatch.create_embeddings_batch):
        with pytest.raises((ValueError, TypeError), match=words):
            call(["hello"], deployments=given, progress=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"api_base": "http://127.0.0.1:3/v1"}, "api_base= and deployments= are both given"),
        ({"api_key": "k"}, "api_key= and deployments= are both given"),
        ({"model": "openai/other"}, "different models"),
        ({"lane": "job"}, "lane='job' is for one account"),
        ({"lane": "cheapest", "deadline": 60}, "lane='cheapest' is for one account"),
    ],
)
def test_options_that_contradict_deployments_raise(options: dict[str, Any], words: str) -> None:
    """Nothing is sent anywhere."""
    with pytest.raises(ValueError, match=words):
        llmbatch.create_chat_completions_batch(["hello"], deployments=[ONE, TWO], progress=False, **options)


def test_model_that_no_group_has_raises() -> None:
    """The message lists the groups."""
    groups = [{"model_name": "a", "litellm_params": ONE}, {"model_name": "b", "litellm_params": TWO}]
    with pytest.raises(ValueError, match=r"no deployment answers for model 'c'.*a, b"):
        llmbatch.create_chat_completions_batch(["hello"], "c", deployments=groups, progress=False)
    with pytest.raises(ValueError, match=r"model= is missing.*a, b"):
        llmbatch.create_chat_completions_batch(["hello"], deployments=groups, progress=False)


def test_list_of_addresses_is_told_of_deployments() -> None:
    """api_base= takes one address; the message says how to give several."""
    with pytest.raises(TypeError, match="pass deployments="):
        llmbatch.create_chat_completions_batch(["hello"], "openai/m", api_base=["http://a", "http://b"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: llmbatch.render_batch_requests(["hi"], deployments=[ONE]), "live batches"),
        (lambda: llmbatch.submit_batch_job(["hi"], deployments=[ONE]), "live batches"),
        (lambda: llmbatch.render_embeddings_requests(["hi"], deployments=[ONE]), "live batches"),
        (
            lambda: llmbatch.create_chat_completions_batch(["hi"], fallbacks=[{**ONE, "deployments": [TWO]}]),
            "whole batch",
        ),
        (lambda: llmbatch.create_chat_completions_batch(["hi"], endpoints=[ONE]), "deployments="),
    ],
)
def test_functions_without_deployments_say_so(call: Any, words: str) -> None:
    """They do not ignore it."""
    with pytest.raises(ValueError, match=words):
        call()


def test_dry_run_and_estimate_know_the_deployments() -> None:
    """Their model and prices count, and not the default model's."""
    cheap = {**ONE, "input_cost_per_token": 0.5, "output_cost_per_token": 0.5}
    estimate = llmbatch.estimate_batch(["hello"], deployments=[cheap, {**cheap, "api_base": TWO["api_base"]}])
    assert estimate.model == "openai/m"
    assert estimate.live_cost
    assert estimate.live_cost > 1
    dry = llmbatch.create_chat_completions_batch(["hello"], deployments=[ONE, TWO], dry_run=True)
    assert dry.payloads[0]["body"]["model"] == "m"
    groups = [{"model_name": "a", "litellm_params": ONE}, {"model_name": "b", "litellm_params": TWO}]
    assert llmbatch.estimate_batch([{"prompt": "x", "model": "b"}], "a", deployments=groups).invalid_rows == 0
    vectors = llmbatch.create_embeddings_batch(["hello"], deployments=[ONE, TWO], dry_run=True)
    assert vectors.payloads[0]["body"]["model"] == "m"


def test_request_cannot_name_deployments_that_the_call_lacks() -> None:
    """Its row fails, and says what is missing."""
    rows = llmbatch.create_chat_completions_batch([{"prompt": "a", "deployments": ["x"]}], progress=False, **ONE)  # type: ignore[call-overload]
    assert "Pass deployments= too" in rows[0]["error"]
