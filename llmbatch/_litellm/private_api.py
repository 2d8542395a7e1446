"""The private APIs of LiteLLM, the OpenAI SDK and Python that llmbatch uses, and what fails if an update removes one.

`tests/test_litellm_contract.py` has a test of each, by its name. Savings are shares of a row's CPU time on openai/ and
on hosted_vllm/, measured with the pinned versions.

- `quiet_logging`: a Logging object of ours as litellm_logging_obj=, asked by claim_async_success_log. LiteLLM prepares
  nothing for callbacks that nobody registered (saves 10-25 %, 10-15 %). Without it LiteLLM makes its own.
- `fast_prices`: Logging.response_cost_calculator, optional_params, model_call_details. Plain tokens are priced by two
  multiplications (saves 14 %, 26 %). Without it LiteLLM calculates each price.
- `original_response`: Logging.model_call_details['original_response'], and LiteLLM's converter. An answer that LiteLLM
  cannot read is not lost, nor are the answers of a job. Without it such rows fail.
- `render_body`: Logging.pre_call receives the body and URL before they are sent; on the SDK's routes client= sends.
  A body is rendered by the code that sends it. Without it nothing is rendered.
- `http_session`: shared_session=, get_async_httpx_client and the method that makes Azure's clients; LiteLLM reads it
  by content.iter_chunked. Errors and answers are bounded in size, broken streams are noticed, and redirects take no key
  to another host. Without it there is only the timeout.
- `direct`: OpenAIError, which exception_type() makes LiteLLM's errors of, get_ssl_configuration, and
  transform_response of get_provider_chat_config(). `transport="direct"` raises the same errors, trusts the same
  certificates, and converts the answers of Groq, Mistral and xAI in the same way. Without it LiteLLM sends requests.
- `finish_reason`: received_finish_reason of a stream. It tells a cut answer from a complete one. Without it streamed
  rows fail.
- `hidden_params`: _hidden_params of an answer: its price and the headers with the rate limits. Without it there are no
  costs, and limits are learned from 429s.
- `supported_params`: get_optional_params. Defaults are not sent to models that reject them. Without it they are sent.
- `batch_prices`: batch_cost_calculator, and the names in the price map. Jobs have a cost, and budgets hold. Without it
  jobs have no cost.
- `own_parameters`: all_litellm_params. Parameters that LiteLLM keeps to itself are not reported as sent as is. Without
  it they are.
- `exit_flush`: the worker that runs callbacks, the loggers it keeps, and the clients that it keeps for a loop;
  threading._register_atexit. An exit loses no callback and leaves no socket open. Without it, it does.
- `warning_filter`: warnings.filters is a list whose first match wins. LiteLLM's warnings fail no row, and the user's
  filters stay. Without it the warnings are shown.
"""

from __future__ import annotations

from llmbatch._litellm.loading import internal

CONVERTER = "litellm.litellm_core_utils.llm_response_utils.convert_dict_to_response:convert_to_model_response_object"
CONFIGS = "litellm.utils:ProviderConfigManager"
OPENAI_CONFIG = "litellm.llms.openai.chat.gpt_transformation:OpenAIGPTConfig"
LOGGING = "litellm.litellm_core_utils.litellm_logging:Logging"
PRIVATE_APIS: dict[str, tuple[str, ...]] = {
    "quiet_logging": (f"{LOGGING}.claim_async_success_log",),
    "fast_prices": (f"{LOGGING}.custom_pricing_for",),
    "original_response": (CONVERTER,),
    "render_body": (f"{LOGGING}.pre_call",),
    "http_session": (
        "litellm.llms.custom_httpx.http_handler:get_async_httpx_client",
        "litellm.llms.azure.common_utils:BaseAzureLLM",
    ),
    "direct": (
        "litellm.llms.openai.common_utils:OpenAIError",
        "litellm.llms.custom_httpx.http_handler:get_ssl_configuration",
        f"{CONFIGS}.get_provider_chat_config",
        f"{OPENAI_CONFIG}.transform_response",
    ),
    "finish_reason": (),
    "hidden_params": (),
    "supported_params": ("litellm.utils:get_optional_params",),
    "batch_prices": ("litellm.cost_calculator:batch_cost_calculator",),
    "own_parameters": ("litellm.types.utils:all_litellm_params",),
    "exit_flush": (
        "litellm.litellm_core_utils.logging_worker:GLOBAL_LOGGING_WORKER",
        "litellm.litellm_core_utils.litellm_logging:_in_memory_loggers",
        "litellm:close_litellm_async_clients",
        "litellm:in_memory_llm_clients_cache",
    ),
    "warning_filter": (),
}
"""Names, with the places whose existence can be checked."""


def is_available(name: str) -> bool:
    """Return whether LiteLLM still has a private API."""
    return all(internal(place) is not None for place in PRIVATE_APIS[name])
