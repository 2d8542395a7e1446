"""A conversation built step by step, to be answered live or rendered as a batch request.

payload = chat("gpt-4o-mini").with_temperature(0.7).for_batch_request().ask("What's 2 + 2?")
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from llmbatch import completions
from llmbatch._jobs.input_files import chat_plans
from llmbatch._request.plans import default_model
from llmbatch._rows.row import Row
from llmbatch._util.identity import CustomIds, custom_id_for
from llmbatch.errors import RequestFailedError
from llmbatch.providers.base import Payload

__all__ = ["Chat", "chat"]

# Ids of payloads are unique in a process. Rendering the same requests in the same order gives the same ids.
_ids, _ids_lock = CustomIds(), threading.Lock()


def chat(model: str | None = None, provider: str | None = None, **params: Any) -> Chat:
    """Start a conversation.

    `model` is LiteLLM's model string (MODEL_CHOICE or gpt-4o-mini unless given), `provider` the provider that serves
    it, and `params` whatever `create_chat_completion` takes. Every `with_…` method returns the chat, in any order.

    Example:
        answer = chat("gpt-4o-mini").with_instructions("Answer in one word.").ask("The capital of France?")
        answer["choices"][0]["message"]["content"]
    """
    return Chat(model, provider, params)


class Chat:
    """A conversation with its settings and history; see `chat`.

    `ask` and `complete` return the answer as a row and add it to the history. After `for_batch_request` they return a
    payload `{custom_id, method, url, body}` instead: nothing is sent, and `complete` adds nothing to the history.

    Example:
        talk = chat("gpt-4o-mini").with_instructions("Answer in one word.")
        talk.ask("The capital of France?")
        talk.ask("And of Italy?")
    """

    def __init__(self, model: str | None, provider: str | None, params: Mapping[str, Any]) -> None:
        self._model, self._provider = model, provider
        self._params: dict[str, Any] = {"temperature": None, "max_tokens": None, **params}
        self._tools: list[Any] = []
        self._instructions: list[str] = []
        self._history: list[dict[str, Any]] = []
        self._batch_request = False
        self._custom_id: str | None = None
        self._own_ids: dict[str, str] = {}

    def with_model(self, model: str, provider: str | None = None) -> Self:
        """Use this model."""
        self._model, self._provider = model, provider
        return self

    def with_temperature(self, temperature: float | None) -> Self:
        """Set the temperature, 0 to 2; None leaves it to the model."""
        self._params["temperature"] = temperature
        return self

    def with_tool(self, *tools: Any) -> Self:
        """Offer tools: typed functions, pydantic models or OpenAI tool dicts. The answer has the tool calls."""
        self._tools += tools
        return self

    def with_schema(self, schema: Any) -> Self:
        """Request JSON of this form: a pydantic class, a JSON schema, or a whole response_format dict."""
        if isinstance(schema, Mapping) and schema.get("type") not in {"json_schema", "json_object", "text"}:
            name = schema.get("title") or "response"
            schema = {"type": "json_schema", "json_schema": {"name": name, "schema": dict(schema), "strict": True}}
        self._params["response_format"] = schema
        return self

    def with_params(self, **params: Any) -> Self:
        """Set anything else that `create_chat_completion` takes: `max_tokens`, `seed`, `timeout` and so on."""
        self._params.update(params)
        return self

    def with_instructions(self, text: str, *, append: bool = False) -> Self:
        """Set the system message, or with `append=True` add another one."""
        self._instructions = [*self._instructions, text] if append else [text]
        return self

    def add_message(self, message: Mapping[str, Any] | None = None, /, **fields: Any) -> Self:
        """Add a message: `role=` and `content=`, or a whole message dict (a tool's result, an answer)."""
        self._history.append({**(message or {}), **fields})
        return self

    def for_batch_request(self, custom_id: str | None = None) -> Self:
        """Return payloads instead of answers from now on. Ids are derived from the requests unless one is given."""
        self._batch_request, self._custom_id = True, custom_id
        return self

    @property
    def messages(self) -> list[dict[str, Any]]:
        """A copy of what is sent next: the instructions and the history."""
        instructions = [{"role": "system", "content": text} for text in self._instructions]
        return copy.deepcopy([*instructions, *self._history])

    def ask(self, text: str, on_chunk: Callable[[str], object] | None = None) -> Any:
        """Add a user message and `complete`; if that raises, the message is removed again."""
        with self._asking(text):
            return self.complete(on_chunk)

    def complete(self, on_chunk: Callable[[str], object] | None = None) -> Any:
        """Get the answer to the history; `on_chunk` is called with each text delta as it arrives.

        No text comes twice: if a stream is cut and retried, what has come is left out of the new one. An answer that
        does not begin like the cut one comes whole, after a line break.

        Raises RequestFailedError when the request fails for good; for batch requests BatchNotSupportedError (a
        NotImplementedError) if the provider has no batch support, and ValueError for `on_chunk`.
        """
        if self._batch_request:
            return self._payload(on_chunk)
        if on_chunk is None:
            row = completions.create_chat_completion(self.messages, **self._arguments())
        else:
            row = self._streamed(on_chunk)
        return self._with_answer(row)

    async def aask(self, text: str) -> Any:
        """Add a user message and complete; the async version of `ask`."""
        with self._asking(text):
            return await self.acomplete()

    async def acomplete(self) -> Any:
        """Get the answer to the history; the async version of `complete`."""
        if self._batch_request:
            return self._payload(None)
        return self._with_answer(await completions.acreate_chat_completion(self.messages, **self._arguments()))

    @contextlib.contextmanager
    def _asking(self, text: str) -> Iterator[None]:
        question = {"role": "user", "content": text}
        self._history.append(question)
        try:
            yield
        except BaseException:
            self._history = [message for message in self._history if message is not question]
            raise

    def _arguments(self) -> dict[str, Any]:
        model = self._model
        if self._provider is not None:
            model = f"{self._provider}/{default_model(model).removeprefix(f'{self._provider}/')}"
        tools = [*(self._params.get("tools") or []), *self._tools]
        return {"model": model, **self._params, **({"tools": tools} if tools else {})}

    def _payload(self, on_chunk: Any) -> Payload:
        arguments = self._arguments()
        if on_chunk is not None or arguments.get("stream"):
            raise ValueError("Streaming is not supported for batch requests. Leave out on_chunk and stream")
        plan, provider = chat_plans(arguments).first
        request = plan.request(self.messages)
        return provider.render_payload_for_batch_request(request, self._custom_id or self._id_of(request))

    def _id_of(self, request: Mapping[str, Any]) -> str:
        """Return the payload's id: the same if this chat renders it again, another one in another chat."""
        plain = custom_id_for(request)
        with _ids_lock:
            return self._own_ids.get(plain) or self._own_ids.setdefault(plain, _ids(request))

    def _streamed(self, on_chunk: Callable[[str], object]) -> Row:
        row: Row | None = None
        deltas = _Deltas(on_chunk)
        for event in completions.stream_chat_completions_batch([self.messages], progress=False, **self._arguments()):
            if "row" in event:
                row = event["row"]
            elif "choice" not in event:
                deltas.add(event["attempt"], event["delta"])
        assert row is not None  # noqa: S101 - one conversation, one row
        if "error" in row:
            raise RequestFailedError(row)
        deltas.end()
        return row

    def _with_answer(self, row: Row) -> Row:
        answer = row["choices"][0]["message"]
        kept = {name: answer[name] for name in ("content", "tool_calls") if answer.get(name) is not None}
        self._history.append({"role": "assistant", "content": None, **copy.deepcopy(kept)})
        return row


class _Deltas:
    """Deltas of an answer for a caller, without those that a retried stream repeats."""

    def __init__(self, on_chunk: Callable[[str], object]) -> None:
        self._on_chunk = on_chunk
        self._attempt = 0
        self._given = self._text = ""

    def add(self, attempt: int, delta: str) -> None:
        """Add the next delta of an attempt."""
        if attempt != self._attempt:
            self._attempt, self._text = attempt, ""
        self._text += delta
        if not self._given.startswith(self._text):
            self._give()

    def end(self) -> None:
        """Pass on what is left once the last attempt has ended; it may be shorter than a cut one."""
        if self._text != self._given:
            self._give()

    def _give(self) -> None:
        """Pass on what the caller has not seen yet."""
        follows = self._text.startswith(self._given)
        self._on_chunk(self._text[len(self._given) :] if follows else f"\n{self._text}")
        self._given = self._text
