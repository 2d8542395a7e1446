"""Names of arguments: what other libraries call an option of ours, and names that are close enough to be a mistake.

Such a name would be sent to the provider as a parameter of its own, and the option that was meant would not apply: a
`budget=3` that limits nothing. It raises instead. To send a parameter of such a name to a server, use `extra_body`.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from typing import Any

# What each of our names is for, as the second half of an error.
_PURPOSES = {
    "api_base": "the base URL of an OpenAI-compatible server",
    "api_key": "the provider's key",
    "checkpoint": "a path; a rerun with it sends only what is missing or failed",
    "completion_window": "how long a batch job may take",
    "custom_id": "the request's id, a string",
    "custom_ids": "one id for each row",
    "deadline": "seconds for the whole batch",
    "dedupe": "True sends identical requests once",
    "deployments": "a list of dicts such as {'model': 'openai/my-model', 'api_base': 'http://gpu1:8000/v1'}",
    "dry_run": "True shows payloads and an estimate, and sends nothing",
    "fallbacks": "a list of models to try when a row fails",
    "lane": "'live', 'job', 'flex' or 'cheapest'",
    "max_cost": "a spending cap in USD",
    "max_tokens": "the most tokens of an answer",
    "max_workers": "the most requests in flight",
    "messages": "the conversation, a list of messages",
    "model": "LiteLLM's model string, such as 'gpt-4o-mini' or 'groq/llama-3.1-8b-instant'",
    "n": "the number of choices",
    "on_result": "a function of (index, row), called as each row finishes",
    "processes": "the number of worker processes",
    "progress": "True or False for the progress bar",
    "prompt": "the text to answer, a string",
    "reask": "how often to re-ask for an answer that does not pass",
    "requests_per_minute": "a limit for each account",
    "response_format": "a pydantic class or a JSON schema",
    "retries": "how often a failed attempt is repeated, one less than the number of attempts",
    "stop": "strings that end an answer",
    "system": "a system message for conversations that have none",
    "temperature": "0 to 2",
    "timeout": "seconds for one attempt",
    "tokens_per_minute": "a limit for each account",
    "validate": "a function of a row that returns None, or what is wrong with the answer",
    "warm_prompt_cache": "True sends one request per shared prefix first",
}

# Our name -> other names for it -> where those come from. Read from the source of LangChain (core 1.8, openai 1.7),
# instructor 1.17, infermesh 0.3, ondine 2.1, async-batch-llm 0.28 (abl), flexllm 0.17, curator 0.1.31, inspect_ai
# 0.3.285, tqdm 4.70 and tenacity 9.2; "common" is a name that several users tried.
SYNONYMS: dict[str, dict[str, str]] = {
    "max_cost": {
        "budget": "ondine", "max_budget": "ondine, LiteLLM's proxy", "max_total_cost": "abl", "budget_limit": "flexllm",
        "cost_limit": "inspect_ai", "max_spend": "common", "spend_limit": "common", "max_usd": "common",
        "budget_usd": "common", "cost_budget": "common", "max_price": "common", "cost_cap": "common",
    },
    "max_workers": {
        "concurrency": "ondine, abl, flexllm", "max_concurrency": "LangChain, abl, ondine",
        "max_concurrent": "flexllm, ondine", "max_concurrent_requests": "curator", "max_parallel_requests": "infermesh",
        "concurrency_limit": "flexllm", "total_concurrency_limit": "flexllm", "max_connections": "inspect_ai",
        "max_provider_concurrency": "abl", "request_concurrency": "abl", "workers": "flexllm", "config": "LangChain",
        "batch_size": "ondine, instructor", "num_workers": "torch", "n_workers": "dask", "n_jobs": "joblib",
        "parallelism": "common", "parallel": "common", "num_threads": "common", "max_threads": "common",
        "threads": "common", "pool_size": "common", "semaphore": "common", "max_in_flight": "common",
    },
    "retries": {
        "max_retries": "LangChain, instructor, infermesh, curator, inspect_ai, LiteLLM", "num_retries": "LiteLLM",
        "attempts": "stamina, inspect_ai", "max_attempts": "abl, ondine", "n_attempts": "instructor",
        "max_attempt_number": "LangChain", "stop_after_attempt": "LangChain, tenacity", "retry_times": "flexllm",
        "retry_attempts": "inspect_ai", "max_retry_attempts": "ondine", "max_rate_limit_retries": "abl",
        "retry_on_error": "inspect_ai", "auto_retry_failed": "ondine", "retry": "abl", "n_retries": "common",
        "max_retry": "common", "retry_count": "common", "tries": "retry", "max_tries": "backoff",
    },
    "timeout": {
        "request_timeout": "LangChain, curator, LiteLLM", "attempt_timeout": "abl, inspect_ai",
        "timeout_per_item": "abl", "timeout_s": "LangChain", "timeout_seconds": "common", "read_timeout": "requests",
    },
    "deadline": {
        "batch_timeout": "abl, flexllm", "total_timeout_per_item": "abl", "time_limit": "inspect_ai",
        "total_timeout": "common", "max_time": "common", "max_duration": "common", "max_runtime": "common",
    },
    "model": {
        "model_name": "LangChain, curator, flexllm, ondine", "model_id": "abl, flexllm", "engine": "LangChain",
        "deployment": "LangChain", "azure_deployment": "LangChain, ondine", "llm": "abl", "llm_model": "common",
    },
    "system": {
        "system_prompt": "ondine, curator, flexllm", "system_message": "inspect_ai, ondine",
        "system_instruction": "abl", "global_system": "flexllm", "instructions": "LangChain", "sys_prompt": "common",
    },
    "response_format": {
        "response_model": "instructor", "response_schema": "abl, flexllm, inspect_ai", "output_type": "LangChain",
        "schema": "ondine, flexllm, LangChain, llmbatch run --schema", "structured_output": "LangChain",
        "output_schema": "common", "output_model": "common", "pydantic_model": "common", "response_type": "common",
    },
    "requests_per_minute": {
        "rpm": "infermesh, ondine, llmbatch run --rpm", "max_requests_per_minute": "abl, curator", "rate_limit": "abl",
        "rate_limit_rpm": "ondine", "requests_per_second": "LangChain", "max_qps": "flexllm", "qps": "flexllm",
        "rate_limiter": "LangChain", "total_max_qps": "flexllm", "rps": "common", "max_rpm": "CrewAI",
    },
    "tokens_per_minute": {
        "tpm": "infermesh, ondine, llmbatch run --tpm", "max_tokens_per_minute": "abl, curator", "max_tpm": "common",
        "max_input_tokens_per_minute": "curator", "max_output_tokens_per_minute": "curator",
    },
    "progress": {
        "show_progress": "flexllm", "show_progress_bar": "LangChain", "log_progress": "abl", "progress_bar": "ondine",
        "enable_progress": "flexllm", "disable_progress": "common", "progress_mode": "ondine", "tqdm": "common",
        "desc": "tqdm", "total": "tqdm", "leave": "tqdm", "disable": "tqdm", "ncols": "tqdm", "unit": "tqdm",
        "tqdm_class": "tqdm", "use_tqdm": "vLLM", "progress_desc": "flexllm", "quiet": "llmbatch run --quiet",
    },
    "on_result": {
        "callback": "flexllm, tqdm", "callbacks": "LangChain", "on_progress": "infermesh",
        "progress_callback": "abl, flexllm", "on_chunk_complete": "ondine", "on_complete": "common",
        "on_row": "common", "on_finish": "common", "on_response": "common", "on_end": "LangChain",
    },
    "checkpoint": {
        "cache_dir": "curator, flexllm, ondine", "checkpoint_dir": "ondine", "checkpoint_path": "common",
        "checkpoint_file": "common", "checkpoint_interval": "ondine", "resume": "abl, infermesh",
        "resume_from": "ondine", "artifact_store": "abl",
        "output_file": "ondine, curator, instructor", "output_jsonl": "flexllm",
        "output_path": "flexllm, ondine", "output": "llmbatch run --output", "save_path": "common",
        "working_dir": "curator",
    },
    "fallbacks": {
        "fallback": "flexllm, llmbatch run --fallback", "fallback_model": "inspect_ai",
        "fallback_models": "inspect_ai", "model_fallbacks": "inspect_ai", "backup_models": "common",
    },
    "api_base": {
        "openai_api_base": "LangChain", "azure_endpoint": "LangChain, ondine", "endpoint": "ondine, inspect_ai",
        "model_base_url": "inspect_ai", "server_url": "common", "api_url": "common",
    },
    "api_key": {"openai_api_key": "LangChain", "key": "common"},
    "custom_ids": {"row_ids": "ondine", "ids": "LangChain", "request_ids": "common",
                   "id_column": "llmbatch run --id-column"},
    "dedupe": {"dedup": "inspect_ai", "deduplicate": "common", "deduplication": "common", "unique": "common"},
    "dry_run": {"dryrun": "common", "estimate_only": "common", "simulate": "common", "preview": "common"},
    "reask": {"reasks": "guardrails", "num_reasks": "guardrails", "max_reasks": "guardrails",
              "validation_retries": "common", "output_retries": "common", "result_retries": "common"},
    "validate": {"validator": "inspect_ai", "validators": "curator", "validation_fn": "common"},
    "deployments": {"endpoints": "flexllm", "api_bases": "common",
                    "servers": "common", "base_urls": "common"},
    "lane": {"batch": "curator, inspect_ai", "batch_mode": "common", "use_batch_api": "common",
             "execution_mode": "ondine"},
    "completion_window": {"window": "llmbatch submit --window"},
    "processes": {"num_processes": "common", "n_processes": "common", "num_proc": "datasets", "nproc": "common"},
    "warm_prompt_cache": {"warm_cache": "common", "prompt_caching": "common"},
    "max_tokens": {"max_new_tokens": "transformers", "max_output_tokens": "Gemini", "max_tokens_to_sample": "Anthropic",
                   "max_length": "transformers", "max_gen_tokens": "common"},
    "temperature": {"temp": "common"},
    "n": {"num_choices": "inspect_ai", "num_completions": "common", "num_return_sequences": "transformers"},
    "stop": {"stop_seqs": "inspect_ai"},
}  # fmt: skip

# Names that no option of ours stands for, and what to do instead.
_INSTEAD = {
    **dict.fromkeys(
        ("return_exceptions", "raise_on_error", "fail_on_error", "continue_on_failure", "error_policy", "on_error",
         "ignore_errors", "raise_exceptions"),
        "Leave it out: a failed request is always a row with `error`, and results.raise_for_errors() raises",
    ),
    **dict.fromkeys(("rpd", "tpd"), "Leave it out: llmbatch ends a batch when a daily quota is exhausted"),
    **dict.fromkeys(("messages", "messages_list", "prompts", "prompt", "inputs", "input_batch", "conversations"),
                    "Pass the requests as the first argument"),
    **dict.fromkeys(("texts", "input"), "Pass the texts as the first argument"),
    **dict.fromkeys(("template", "column"), "Use llmbatch.complete_table for a table"),
    **{name: f"Leave it out: each row has it. In complete_table pass details=['{name}'] for a column"
       for name in ("error", "cost", "asks")},
    **dict.fromkeys(("param", "params", "generation_params", "backend_params", "default_request_kwargs"),
                    "Pass each parameter by its own name, as in seed=7"),
    "model_list": "Use deployments=, which takes the items of a LiteLLM Router's model_list",
    "routing_strategy": "Leave it out: with deployments= each request goes where it is answered soonest",
    "chunk_size": "Leave it out: llmbatch chooses how many texts go into a request",
    "validation_context": "Put the context into the function that you pass as validate=",
}  # fmt: skip

# Names that are right for some servers, though they look like a mistake.
_RIGHT_ELSEWHERE = frozenset({"max_fallbacks", "models", "provider"})
_PROVIDERS_OWN = {"model_id": ("bedrock", "sagemaker")}
# difflib's ratios. 'max_worker' is above the one for our own options, LiteLLM's 'max_tokens' is below it. 'temprature'
# and 'tool' are above the one for LiteLLM's parameters, Groq's 'reasoning_format' is below it.
_CLOSE_TO_OURS = 0.77
_CLOSE_TO_LITELLMS = 0.88

_OURS_BY_SYNONYM = {synonym: ours for ours, synonyms in SYNONYMS.items() for synonym in synonyms}


def check_argument_names(
    given: Mapping[str, Any], own: frozenset[str], litellms: frozenset[str], provider: str = ""
) -> None:
    """Raise ValueError for a name that is another's for an option of ours, or close to one that is known.

    Args:
        given: the arguments by name.
        own: the options that llmbatch has where they were given.
        litellms: the names that LiteLLM knows.
        provider: of the model that was named, "" if it is unknown: some have a parameter of such a name.
    """
    for name, value in given.items():
        if name in own:
            continue
        if name == "provider" and isinstance(value, str):
            raise ValueError(f"unknown option provider=. Put it in front of the model: model='{value}/...'")
        if provider and provider.startswith(_PROVIDERS_OWN.get(name, "-")):
            continue
        if advice := _advice(name, own, litellms):
            raise ValueError(f"unknown option {name}=. {advice}")


@functools.lru_cache(maxsize=1024)
def _advice(name: str, own: frozenset[str], litellms: frozenset[str]) -> str:
    """Return how to write what was probably meant; "" for a name that means itself."""
    if name in _RIGHT_ELSEWHERE:
        return ""
    plain = _plain(name)
    ours = _OURS_BY_SYNONYM.get(name) or _ours_by_plain_name().get(plain)
    if ours is not None:
        return f"Use {ours}= ({_PURPOSES[ours]}), or extra_body= if the server itself has a parameter {name!r}"
    if name in _INSTEAD:
        return _INSTEAD[name]
    if name in litellms:
        return ""
    for known, ratio in ((own, _CLOSE_TO_OURS), (litellms, _CLOSE_TO_LITELLMS)):
        same = [other for other in sorted(known) if _plain(other) == plain]
        if close := same or difflib.get_close_matches(name, sorted(known), 1, ratio):
            return f"Did you mean {close[0]}=? Use extra_body= if the server itself has a parameter {name!r}"
    return ""


def _plain(name: str) -> str:
    """Return a name without case and separators: maxTokens, max-tokens and max_tokens are one."""
    return name.lower().replace("_", "").replace("-", "")


@functools.cache
def _ours_by_plain_name() -> dict[str, str]:
    return {_plain(synonym): ours for synonym, ours in _OURS_BY_SYNONYM.items()}
