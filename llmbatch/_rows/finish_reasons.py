"""What an answer counts as: complete, truncated, filtered or broken. The only place that decides it.

Live calls, streams, batch jobs, checkpoints and files all ask `answer_problem` and `finish_class`. A new finish reason
goes into the table of its class, under its provider, with the page that documents it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from llmbatch._rows.failure_type import FailureType


class FinishClass(IntEnum):
    """How much of an answer there is. Where a choice has several finish reasons, the highest class counts."""

    COMPLETE = 0
    TRUNCATED = 1
    """Cut off at a token limit: listed in `results.truncated`, re-asked with more room."""
    FILTERED = 2
    """Withheld or cut by the provider's content filter: listed in `results.filtered`, failed if there is no text."""
    BROKEN = 3
    """The provider failed while it answered: a failed row that keeps its text, retried like a transient error."""


_OPENAI = "https://platform.openai.com/docs/api-reference/chat/object"
_RESPONSES = "https://platform.openai.com/docs/api-reference/responses/object (incomplete_details)"
_ANTHROPIC = "https://docs.claude.com/en/api/handling-stop-reasons"
_GEMINI = "https://ai.google.dev/api/generate-content#FinishReason"
_COHERE_V1 = "https://docs.cohere.com/v1/reference/chat (finish_reason)"
_COHERE = "https://docs.cohere.com/reference/chat (finish_reason)"
_MISTRAL = "https://docs.mistral.ai/api/#tag/chat (finish_reason)"
_DEEPSEEK = "https://api-docs.deepseek.com/api/create-chat-completion (finish_reason)"
_ZAI = "https://docs.z.ai/api-reference/llm/chat-completion (finish_reason)"
_BEDROCK = "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html (stopReason)"
_OPENROUTER = "https://openrouter.ai/docs/api-reference/overview (finish_reason)"
_VLLM = "https://github.com/vllm-project/vllm/blob/main/vllm/v1/engine/__init__.py (FINISH_REASON_STRINGS)"
_SGLANG = "https://github.com/sgl-project/sglang (managers/schedule_batch.py, FINISH_ABORT)"
_TGI = "https://huggingface.github.io/text-generation-inference (FinishReason)"
_TOGETHER = "https://docs.together.ai/reference/chat-completions-1 (finish_reason)"
_OLLAMA = "https://github.com/ollama/ollama/blob/main/docs/api.md (done_reason)"
_LLAMA_CPP = "https://github.com/ggml-org/llama.cpp/tree/master/tools/server (stop_type)"
_WATSONX = "https://cloud.ibm.com/apidocs/watsonx-ai (stop_reason)"
_QIANFAN = "https://cloud.baidu.com/doc/WENXINWORKSHOP (finish_reason)"
_ALEPH_ALPHA = "https://docs.aleph-alpha.com/api/complete (finish_reason)"

_COMPLETE: Final = {
    "stop": ("OpenAI, Gemini", _OPENAI),
    "tool_calls": ("OpenAI", _OPENAI),
    "function_call": ("OpenAI", _OPENAI),
    "completed": ("OpenAI's Responses, as OpenRouter reports it", _OPENROUTER),
    "end_turn": ("Anthropic", _ANTHROPIC),
    "stop_sequence": ("Anthropic, Cohere, TGI", _ANTHROPIC),
    "tool_use": ("Anthropic, Bedrock", _ANTHROPIC),
    "finish_reason_unspecified": ("Gemini", _GEMINI),
    "complete": ("Cohere", _COHERE),
    "tool_call": ("Cohere", _COHERE),
    "eos_token": ("TGI, watsonx", _TGI),
    "eos": ("Together", _TOGETHER),
    "word": ("llama.cpp", _LLAMA_CPP),
    "normal": ("Qianfan", _QIANFAN),
    "end_of_text": ("Aleph Alpha", _ALEPH_ALPHA),
}
_TRUNCATED: Final = {
    "length": ("OpenAI", _OPENAI),
    "max_output_tokens": ("OpenAI's Responses", _RESPONSES),
    "max_tokens": ("Anthropic, Gemini, Cohere, Bedrock, watsonx", _ANTHROPIC),
    "model_context_window_exceeded": ("Anthropic, Bedrock, Z.AI", _ANTHROPIC),
    "pause_turn": ("Anthropic: the turn goes on in a further request", _ANTHROPIC),
    "compaction": ("Anthropic", _ANTHROPIC),
    "error_limit": ("Cohere v1: the context is full", _COHERE_V1),
    "model_length": ("Mistral", _MISTRAL),
    "token_limit": ("watsonx", _WATSONX),
    "limit": ("llama.cpp", _LLAMA_CPP),
    "maximum_tokens": ("Aleph Alpha", _ALEPH_ALPHA),
}
_FILTERED: Final = {
    "content_filter": ("OpenAI, Azure, DeepSeek, OpenRouter", _OPENAI),
    "refusal": ("Anthropic: its classifiers stopped the answer", _ANTHROPIC),
    "safety": ("Gemini", _GEMINI),
    "recitation": ("Gemini", _GEMINI),
    "language": ("Gemini", _GEMINI),
    "other": ("Gemini", _GEMINI),
    "blocklist": ("Gemini", _GEMINI),
    "prohibited_content": ("Gemini", _GEMINI),
    "spii": ("Gemini", _GEMINI),
    "image_safety": ("Gemini", _GEMINI),
    "image_prohibited_content": ("Gemini", _GEMINI),
    "image_recitation": ("Gemini", _GEMINI),
    "image_other": ("Gemini", _GEMINI),
    "model_armor": ("Vertex AI", _GEMINI),
    "error_toxic": ("Cohere v1", _COHERE_V1),
    "sensitive": ("Z.AI", _ZAI),
    "guardrail_intervened": ("Bedrock", _BEDROCK),
    "content_filtered": ("Bedrock", _BEDROCK),
}
_BROKEN: Final = {
    "error": ("OpenRouter, Mistral, Cohere, vLLM, gateways", _OPENROUTER),
    "timeout": ("Cohere", _COHERE),
    "user_cancel": ("Cohere v1", _COHERE_V1),
    "insufficient_system_resource": ("DeepSeek", _DEEPSEEK),
    "network_error": ("Z.AI", _ZAI),
    "malformed_function_call": ("Gemini", _GEMINI),
    "unexpected_tool_call": ("Gemini", _GEMINI),
    "too_many_tool_calls": ("Gemini", _GEMINI),
    "missing_thought_signature": ("Gemini", _GEMINI),
    "malformed_response": ("Gemini", _GEMINI),
    "no_image": ("Gemini", _GEMINI),
    "malformed_model_output": ("Bedrock", _BEDROCK),
    "malformed_tool_use": ("Bedrock", _BEDROCK),
    "abort": ("vLLM, SGLang", _SGLANG),
    "aborted": ("gateways in front of SGLang", _SGLANG),
    "repetition": ("vLLM: it stopped a model that repeats itself", _VLLM),
    "cancelled": ("watsonx", _WATSONX),
    "time_limit": ("watsonx", _WATSONX),
    "load": ("Ollama: the model was loaded, and nothing was generated", _OLLAMA),
    "unload": ("Ollama", _OLLAMA),
}
FINISH_REASONS: Final[Mapping[str, FinishClass]] = {
    **dict.fromkeys(_COMPLETE, FinishClass.COMPLETE),
    **dict.fromkeys(_TRUNCATED, FinishClass.TRUNCATED),
    **dict.fromkeys(_FILTERED, FinishClass.FILTERED),
    **dict.fromkeys(_BROKEN, FinishClass.BROKEN),
}
"""The class of each finish reason, in lower case."""
FINISH_REASON_SOURCES: Final[Mapping[str, tuple[str, str]]] = {**_COMPLETE, **_TRUNCATED, **_FILTERED, **_BROKEN}
"""Provider and documentation of each finish reason."""

# Where LiteLLM replaces the provider's word, it keeps it in the choice's `provider_specific_fields` by this name.
NATIVE: Final = "native_finish_reason"
_FAILED: Final = "the provider failed while it answered"
_BAD_CALL: Final = "the model made a malformed or unexpected tool call"
_BAD_TOOL_CALLS: Final = {
    "malformed_function_call", "unexpected_tool_call", "too_many_tool_calls", "missing_thought_signature",
    "malformed_tool_use",
}  # fmt: skip
# Parts of a message that say nothing by themselves.
_NO_ANSWER: Final = {"role", "provider_specific_fields", "annotations", "content"}
# Error types of requests that a content filter rejected: ours, LiteLLM's, and Azure's in batch files.
_FILTERED_TYPES: Final = {
    FailureType.CONTENT_FILTERED, FailureType.CONTENT_POLICY_VIOLATION, "content_filter", "content_policy_violation"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AnswerProblem:
    """Why an answer does not count as one: a row's error type and message.

    `detail` is the provider's own explanation, which may quote the prompt. `at_once` says that a retry need not wait,
    since the model is at fault and not the server.
    """

    type: str
    message: str
    retryable: bool = True
    detail: str = ""
    at_once: bool = False


def finish_class(choice: Mapping[str, Any]) -> FinishClass:
    """Return the class of a choice, by the provider's own finish reason and by LiteLLM's."""
    fields = choice.get("provider_specific_fields") or choice
    if not isinstance(fields, Mapping):
        return _class_of(choice.get("finish_reason"))
    if fields.get("error") and _choice_error(fields):
        return FinishClass.BROKEN
    native = fields.get(NATIVE)
    found = _class_of(choice.get("finish_reason"))
    return found if native is None else max(found, _class_of(native))


def own_reason(choice: Mapping[str, Any]) -> str | None:
    """Return the provider's own finish reason where LiteLLM's says less, else LiteLLM's."""
    reason, native = choice.get("finish_reason"), _native(choice)
    if native and ((reason == "stop" and _is_unknown(native)) or _class_of(native) > _class_of(reason)):
        return str(native)
    return str(reason) if reason else None


def unknown_reasons(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the finish reasons that no table knows, and that count as complete."""
    for choice in row.get("choices") or ():
        reason, native = choice.get("finish_reason"), _native(choice)
        # LiteLLM says "stop" for what it does not know.
        found = native if native and reason == "stop" else reason
        if found and _is_unknown(found):
            yield str(found)


def keep_native_reason(choice: dict[str, Any], reason: str | None) -> None:
    """Keep the provider's own finish reason of a choice where LiteLLM keeps it, if LiteLLM's is another."""
    if reason is not None and reason != choice.get("finish_reason"):
        choice["provider_specific_fields"] = {**(choice.get("provider_specific_fields") or {}), NATIVE: reason}


def has_plain_end(row: Mapping[str, Any]) -> bool:
    """Return whether a row is complete at a glance, so that nothing else here needs to look at it."""
    choices: list[Any] = row.get("choices") or []
    if len(choices) != 1:
        return False
    return choices[0].get("finish_reason") == "stop" and not choices[0].get("provider_specific_fields")


def is_truncated(row: Mapping[str, Any]) -> bool:
    """Return whether a choice was cut off at a token limit."""
    return any(finish_class(choice) is FinishClass.TRUNCATED for choice in row.get("choices") or ())


def is_filtered(row: Mapping[str, Any]) -> bool:
    """Return whether a content filter withheld or cut a choice, or rejected the whole request."""
    if "error" in row and row["error_details"]["type"] in _FILTERED_TYPES:
        return True
    return any(finish_class(choice) is FinishClass.FILTERED for choice in row.get("choices") or ())


def answer_problem(body: Mapping[str, Any]) -> AnswerProblem | None:
    """Return why the body of an answer (to a chat or to texts) does not count as one; None if it does."""
    choices = body.get("choices")
    if not choices:
        return _without_choices(body)
    empty, worst = True, FinishClass.COMPLETE
    for choice in choices:
        worst = max(worst, finish_class(choice))
        empty = empty and not says_anything(choice.get("message") or {})
    if worst is FinishClass.BROKEN:
        return _broken(choices)
    if not empty or worst is FinishClass.TRUNCATED:
        return None
    reason = next(own_reason(choice) for choice in choices if finish_class(choice) is worst)
    if worst is FinishClass.FILTERED:
        message = f"the provider's content filter withheld the answer (finish_reason {reason})"
        return AnswerProblem(FailureType.CONTENT_FILTERED, message, retryable=False)
    return AnswerProblem(FailureType.EMPTY_ANSWER, f"no text, tool call, refusal or reasoning (finish_reason {reason})")


def _without_choices(body: Mapping[str, Any]) -> AnswerProblem | None:
    if "data" not in body:
        return AnswerProblem(FailureType.EMPTY_ANSWER, "the provider answered without any choice")
    if any(item.get("embedding") for item in body["data"]):
        return None
    return AnswerProblem(FailureType.EMPTY_ANSWER, "the provider's answer has no vectors")


def _broken(choices: list[Mapping[str, Any]]) -> AnswerProblem:
    choice = next(choice for choice in choices if finish_class(choice) is FinishClass.BROKEN)
    fields = choice.get("provider_specific_fields") or choice
    error = _choice_error(fields) if isinstance(fields, Mapping) else None
    words = error.get("message") or error.get("code") if isinstance(error, Mapping) else error
    reason = own_reason(choice)
    bad_call = str(reason).lower() in _BAD_TOOL_CALLS
    message = f"{_BAD_CALL if bad_call else _FAILED} (finish_reason {reason})"
    return AnswerProblem(FailureType.BROKEN_ANSWER, message, detail=str(words or ""), at_once=bad_call)


def _native(choice: Mapping[str, Any]) -> Any:
    fields = choice.get("provider_specific_fields") or choice
    return fields.get(NATIVE) if isinstance(fields, Mapping) else None


def _choice_error(fields: Mapping[str, Any]) -> Mapping[str, Any] | str | None:
    """Return the error that OpenRouter puts next to a choice's message."""
    error = fields.get("error")
    return error if isinstance(error, Mapping | str) and error else None


def _class_of(reason: Any) -> FinishClass:
    if reason is None:
        return FinishClass.COMPLETE
    found = FINISH_REASONS.get(reason) if isinstance(reason, str) else None
    return FINISH_REASONS.get(str(reason).lower(), FinishClass.COMPLETE) if found is None else found


def _is_unknown(reason: Any) -> bool:
    return str(reason).lower() not in FINISH_REASONS


def says_anything(message: Mapping[str, Any]) -> bool:
    """Return whether a message has text, a tool call, a refusal, reasoning or media."""
    content = message.get("content")
    if content:
        return not isinstance(content, list) or any(map(_part_says_anything, content))
    if any(value for name, value in message.items() if name not in _NO_ANSWER):
        return True
    fields = message.get("provider_specific_fields")
    return isinstance(fields, Mapping) and bool(fields.get("refusal"))


def _part_says_anything(part: Any) -> bool:
    return bool(part.get("text")) or part.get("type") != "text" if isinstance(part, Mapping) else bool(part)
