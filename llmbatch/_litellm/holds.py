"""Every hold on what LiteLLM, the OpenAI SDK and Python do not promise: all that an update can take away."""

from __future__ import annotations

from typing import NamedTuple

from llmbatch._litellm.loading import internal

__all__ = ["CONVERTER", "HOLDS", "LOGGING", "Hold"]

CONVERTER = "litellm.litellm_core_utils.llm_response_utils.convert_dict_to_response:convert_to_model_response_object"
LOGGING = "litellm.litellm_core_utils.litellm_logging:Logging"


class Hold(NamedTuple):
    """One of them. `tests/test_litellm_contract.py` has a test of each, by its name."""

    what: str
    why: str
    saves: str  # of a row's CPU on openai/, on hosted_vllm/, measured with the pins, which are the newest
    gone: str  # what happens then
    needs: tuple[str, ...] = ()  # the part of it that a look can find

    def stands(self) -> bool:
        """Whether what it needs is there."""
        return all(internal(place) is not None for place in self.needs)


HOLDS = {
    "quiet": Hold("a Logging object of ours as litellm_logging_obj=, asked by claim_async_success_log",
                  "nothing is prepared for callbacks that nobody registered", "10-25 %, 10-15 %",
                  "LiteLLM makes its own", (f"{LOGGING}.claim_async_success_log",)),
    "linear": Hold("Logging.response_cost_calculator, optional_params, model_call_details",
                   "plain tokens are priced by two multiplications", "14 %, 26 %",
                   "LiteLLM calculates each price", (f"{LOGGING}.custom_pricing_for",)),
    "mended": Hold("Logging.model_call_details['original_response'], and what makes an answer of it",
                   "an answer that LiteLLM fails to read is not lost, nor those of a job", "-", "such rows fail",
                   (CONVERTER,)),
    "render": Hold("Logging.pre_call is told the body and URL before they are sent; on the SDK's routes client= sends",
                   "a body is rendered by what sends it", "-", "none is rendered", (f"{LOGGING}.pre_call",)),
    "session": Hold("shared_session= and get_async_httpx_client; LiteLLM reads it by content.iter_chunked",
                    "no error or answer fills the memory, no broken stream makes a short answer", "-",
                    "no bounds but the timeout", ("litellm.llms.custom_httpx.http_handler:get_async_httpx_client",)),
    "stream": Hold("received_finish_reason of a stream", "a cut answer is told from a whole one", "-",
                   "streamed rows fail"),
    "answer": Hold("_hidden_params and _response_headers of an answer", "its price, the limits that it states", "-",
                   "no costs; limits are learnt from refusals"),
    "defaults": Hold("get_optional_params", "defaults are not sent to models that refuse them", "-", "they are sent",
                     ("litellm.utils:get_optional_params",)),
    "prices": Hold("batch_cost_calculator, the names in the price map", "costs of jobs, budgets that hold", "-",
                   "jobs without cost", ("litellm.cost_calculator:batch_cost_calculator",)),
    "closing": Hold("the worker that tells callbacks; the clients that LiteLLM keeps for a loop",
                    "an exit loses no callback and leaves no socket open", "-", "it does",
                    ("litellm.litellm_core_utils.logging_worker:GLOBAL_LOGGING_WORKER",
                     "litellm:close_litellm_async_clients", "litellm:in_memory_llm_clients_cache")),
    "unheard": Hold("warnings.filters is a list, its first match wins",
                    "LiteLLM's warnings fail no row, and the user's filters stay",
                    "-", "they are heard"),
}  # fmt: skip
