"""Watches an event stream for what LiteLLM lets pass on some routes: a corrupt piece, or an end before its time.

A piece that is no JSON is skipped there, and `[DONE]` counts as a finish reason: the answer would lack some text.
"""

from __future__ import annotations

import json

import aiohttp

_LONGEST_LINE = 4 * 1024 * 1024


class BrokenStreamError(aiohttp.ClientPayloadError):
    """A stream that would make a wrong or a short answer."""


class StreamWatch:
    """Given every byte of one stream, raises BrokenStreamError where it breaks."""

    def __init__(self) -> None:
        self._tail = b""
        self._data: list[bytes] = []
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._off = False

    def feed(self, piece: bytes) -> None:
        """The next bytes."""
        if self._off:
            return
        *lines, self._tail = (self._tail + piece).split(b"\n")
        self._off = len(self._tail) > _LONGEST_LINE
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif not line.strip() and self._data:
                self._event()

    def end(self) -> None:
        """The stream is over: every choice that began must have its finish reason."""
        if self._open and not self._off:
            raise BrokenStreamError("the stream ended before its finish reason")

    def _event(self) -> None:
        data, self._data = self._data, []
        try:
            chunks = [json.loads(b"\n".join(data))] if data[0].startswith(b"{") else []
        except ValueError:
            chunks = [self._parsed(line) for line in data if line.startswith(b"{")]
        for chunk in chunks:
            self._chunk(chunk)
        if data[-1] == b"[DONE]":
            self.end()

    @staticmethod
    def _parsed(line: bytes) -> object:
        try:
            return json.loads(line)
        except ValueError:
            raise BrokenStreamError("a piece of the stream is corrupt") from None

    def _chunk(self, chunk: object) -> None:
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        if isinstance(chunk, dict) and chunk.get("error"):
            self._off = True  # LiteLLM tells of it
        for choice in choices if isinstance(choices, list) else ():
            index = choice.get("index", 0) if isinstance(choice, dict) else 0
            if isinstance(choice, dict) and choice.get("finish_reason"):
                self._finished.add(index)
                self._open.discard(index)
            elif index not in self._finished:
                self._open.add(index)
