"""Every hold on what LiteLLM, the OpenAI SDK and Python do not promise: all that an update can take away.

`tests/test_litellm_contract.py` has a test of each, by its name. Savings are of a row's CPU on openai/, on
hosted_vllm/, measured with the pins, which are the newest.

- `quiet`: a Logging object of ours as litellm_logging_obj=, asked by claim_async_success_log. Nothing is prepared for
  callbacks that nobody registered (saves 10-25 %, 10-15 %); if gone, LiteLLM makes its own.
- `linear`: Logging.response_cost_calculator, optional_params, model_call_details. Plain tokens are priced by two
  multiplications (saves 14 %, 26 %); if gone, LiteLLM calculates each price.
- `mended`: Logging.model_call_details['original_response'], and what makes an answer of it. An answer that LiteLLM
  cannot read is not lost, nor those of a job; if gone, such rows fail.
- `render`: Logging.pre_call is told the body and URL before they are sent; on the SDK's routes client= sends. A body is
  rendered by what sends it; if gone, none is rendered.
- `session`: shared_session= and get_async_httpx_client; LiteLLM reads it by content.iter_chunked. No error or answer
  fills the memory, no broken stream makes a short answer; if gone, there are no bounds but the timeout.
- `stream`: received_finish_reason of a stream. A cut answer is told from a whole one; if gone, streamed rows fail.
- `answer`: _hidden_params of an answer. Its price, the limits that it states; if gone, there are no costs, and limits
  are learnt from refusals.
- `defaults`: get_optional_params. Defaults are not sent to models that refuse them; if gone, they are sent.
- `prices`: batch_cost_calculator, the names in the price map. Costs of jobs, budgets that hold; if gone, jobs have no
  cost.
- `settings`: all_litellm_params. Parameters that LiteLLM keeps to itself are not reported as sent as is; if gone, they
  are.
- `closing`: the worker that tells callbacks; the clients that LiteLLM keeps for a loop. An exit loses no callback and
  leaves no socket open; if gone, it does.
- `unheard`: warnings.filters is a list, its first match wins. LiteLLM's warnings fail no row, and the user's filters
  stay; if gone, they are heard.
"""

from __future__ import annotations

from llmbatch._litellm.loading import internal

CONVERTER = "litellm.litellm_core_utils.llm_response_utils.convert_dict_to_response:convert_to_model_response_object"
LOGGING = "litellm.litellm_core_utils.litellm_logging:Logging"
PRIVATE_APIS: dict[str, tuple[str, ...]] = {
    "quiet": (f"{LOGGING}.claim_async_success_log",),
    "linear": (f"{LOGGING}.custom_pricing_for",),
    "mended": (CONVERTER,),
    "render": (f"{LOGGING}.pre_call",),
    "session": ("litellm.llms.custom_httpx.http_handler:get_async_httpx_client",),
    "stream": (),
    "answer": (),
    "defaults": ("litellm.utils:get_optional_params",),
    "prices": ("litellm.cost_calculator:batch_cost_calculator",),
    "settings": ("litellm.types.utils:all_litellm_params",),
    "closing": (
        "litellm.litellm_core_utils.logging_worker:GLOBAL_LOGGING_WORKER",
        "litellm:close_litellm_async_clients",
        "litellm:in_memory_llm_clients_cache",
    ),
    "unheard": (),
}
"""Each with the places that a look can find."""


def is_available(name: str) -> bool:
    """Whether what a hold needs is there."""
    return all(internal(place) is not None for place in PRIVATE_APIS[name])
