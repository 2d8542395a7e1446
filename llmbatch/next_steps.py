"""What can follow a batch: the prompts of its failed rows, those rows once more, the next turn of its conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from llmbatch._rows.row import Row
from llmbatch._util.background_loop import awaited, in_background


class NextSteps(list[Row]):
    """Rows that may know the requests that they answer, and the call that has made them.

    Attributes:
        asked: the requests, if they were a list.
    """

    asked: Sequence[Any] | None = None
    _call: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_call"} | {"_call": None}

    def prompt_of(self, row: Row) -> Any:
        """Return the request that a row answers, as it was given.

        Raises ValueError if the requests were no list, and for a row that is not one of these.

        Example:
            for row in results.failed:
                print(row["error"], results.prompt_of(row))
        """
        inputs = self._inputs(None)
        index = next((at for at, own in enumerate(self) if own is row), None)
        if index is None:
            raise ValueError(
                "the row is not one of these results. Pass an item of the results, as results.failed has them"
            )
        return inputs[index]

    def follow_up(self, text: str | Callable[[Row], Any], *, prompts: Sequence[Any] | None = None) -> list[Any]:
        """Return the requests for the next turn: each conversation with its answer, and what the user says next.

        Args:
            text: the next message, or a function of a row that returns it: text, a list of parts, a message, or a list
                of messages such as tool results; None ends the conversation.
            prompts: the list of requests that was answered, if the results do not know it (a generator's, a slice).

        A row that failed has None in its place, which becomes an error row that is not sent. A request keeps its own
        parameters and metadata; pass the options of the first batch again, `system` included.

        Example:
            shorter = create_chat_completions_batch(results.follow_up("Now in one word."), "gpt-4o-mini")
        """
        requests: list[Any] = self._past_call().next_turn(self, self._inputs(prompts), text)
        return requests

    def retry_failed(self, model: str | None = None, *, prompts: Sequence[Any] | None = None, **options: Any) -> Self:
        """Send the failed rows again, and return results with their new rows in place.

        Args:
            model: another model for them, in place of the call's and the requests' own.
            prompts: as in `follow_up`.
            options: options of the call to change, such as `max_tokens=1000`; the others stay.

        Tokens, attempts and cost of a row include those of its failed attempts. The call's `max_cost` is for the call
        and the retry together; pass `max_cost` here to give the retry its own.

        Example:
            results = results.retry_failed(model="gpt-4o")
        """
        call, inputs = self._past_call(), self._inputs(prompts)
        results: Self = in_background(call.retried(self, inputs, model, options))
        return results

    async def aretry_failed(
        self, model: str | None = None, *, prompts: Sequence[Any] | None = None, **options: Any
    ) -> Self:
        """Send the failed rows again; the async version of `retry_failed`."""
        call, inputs = self._past_call(), self._inputs(prompts)
        return await awaited(call.retried(self, inputs, model, options))

    def set_call(self, call: Any) -> None:
        """Set the call that has made the results."""
        self._call = call

    def _past_call(self) -> Any:
        if self._call is None:
            raise ValueError("these results are not of a batch of chats in this process. Keep those of the call itself")
        return self._call

    def _inputs(self, prompts: Sequence[Any] | None) -> Sequence[Any]:
        """Return the requests. Raises ValueError if they are unknown, or not as many as rows."""
        inputs = self.asked if prompts is None else prompts
        if inputs is None:
            raise ValueError("prompts are not stored here; pass prompts=your_list")
        if len(inputs) != len(self):
            raise ValueError(f"there are {len(inputs)} prompts for {len(self)} rows. Pass one for each row")
        return inputs
