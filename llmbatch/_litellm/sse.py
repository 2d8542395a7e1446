"""What a streamed answer says on the wire. LiteLLM replaces or hides some of it, depending on the provider's route.

LiteLLM skips a chunk that is not JSON, makes up a finish reason for a stream that was cut, estimates a usage that was
not sent, and finds no answer in a server's plain JSON. `StreamWatch` sees the bytes before LiteLLM does.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

_MAX_LINE_BYTES = 4 * 1024 * 1024
_MAX_PLAIN_BYTES = 64 * 1024 * 1024
# Of the servers that stream one JSON object a line.
_USAGE_IN_LINES = (b'"usage"', b'"eval_count"')


class BrokenStreamError(aiohttp.ClientPayloadError):
    """A stream whose answer would be wrong or too short."""


class _Decompressor(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


@dataclass(slots=True)
class StreamRecord:
    """The response to one streaming request.

    Attributes:
        watch: None until the response comes, or if LiteLLM uses another session.
        direct: whether the response is decompressed already, and its chunks are to be kept.
    """

    watch: StreamWatch | None = None
    direct: bool = False


_record: ContextVar[StreamRecord | None] = ContextVar("llmbatch_stream_record", default=None)


@contextlib.contextmanager
def recording(record: StreamRecord) -> Iterator[None]:
    """Have the responses that arrive in this context watched for a streaming request."""
    token = _record.set(record)
    try:
        yield
    finally:
        _record.reset(token)


def watch_for(content_type: str, encoding: str) -> StreamWatch | None:
    """Return a watch for a response that has begun, None if it is no stream and nobody asked for one."""
    record = _record.get()
    if record is None and content_type != "text/event-stream":
        return None
    direct = record is not None and record.direct
    watch = StreamWatch("" if direct else encoding, keep_chunks=direct)
    if record is not None:
        record.watch = watch
    return watch


class StreamWatch:
    """Takes every byte of one stream, and raises BrokenStreamError where it breaks.

    Attributes:
        done: whether the provider said that the stream is over (`[DONE]`).
        reasons: the provider's own finish reason of each choice.
        usage: the last usage that the provider sent; None if it sent none.
        chunks: those of the events that have been read; None if they are not kept.
    """

    def __init__(self, encoding: str = "", *, keep_chunks: bool = False) -> None:
        self.done = False
        self.reasons: dict[int, str] = {}
        self.usage: Mapping[str, Any] | None = None
        self.chunks: list[dict[str, Any]] | None = [] if keep_chunks else None
        self._decompressor: _Decompressor | None = None
        self._off = False
        self._plain: bytearray | None = None
        self._events = False
        self._tail = b""
        self._data: list[bytes] = []
        self._open: set[int] = set()
        self._finished: set[int] = set()
        if encoding in {"gzip", "x-gzip", "deflate"}:
            self._decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)
        elif encoding not in {"", "identity"}:
            self._decompressor = _other_decompressor(encoding)
            self._off = self._decompressor is None

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        if self._off:
            return
        if self._decompressor is not None:
            piece = self._decompressed(piece)
        if self._plain is not None:
            self._plain += piece
            self._off = len(self._plain) > _MAX_PLAIN_BYTES
            return
        *lines, self._tail = (self._tail + piece).split(b"\n")
        if not self._events and (lines[0] if lines else self._tail).lstrip()[:1] in {b"{", b"["}:
            self._plain = bytearray(b"\n".join([*lines, self._tail]))
            return
        self._off = len(self._tail) > _MAX_LINE_BYTES
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif not line.strip() and self._data:
                self._event()

    def end(self) -> None:
        """Check a stream that is over. Without the provider's `[DONE]` every choice needs a finish reason."""
        if self._data and not self._off:
            self._event()  # some servers leave out the last empty line
        if self._open and not self._off and not self.done:
            raise BrokenStreamError("the stream ended before its finish reason")

    @property
    def sent_usage(self) -> bool:
        """Whether the provider sent a usage, or the watch could not see."""
        lines = self._plain is not None and any(word in self._plain for word in _USAGE_IN_LINES)
        return self.usage is not None or self._off or lines or not (self._events or self._plain)

    def plain_json(self) -> dict[str, Any] | None:
        """Return the one JSON object that a server answered instead of a stream, None for a stream."""
        if self._plain is None:
            return None
        try:
            found = json.loads(self._plain)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) and not found.keys().isdisjoint({"choices", "error"}) else None

    def _decompressed(self, piece: bytes) -> bytes:
        assert self._decompressor is not None  # noqa: S101 - the caller has looked
        try:
            return self._decompressor.decompress(piece)
        except Exception as exc:  # noqa: BLE001 - zlib, brotli and zstandard each raise their own
            raise BrokenStreamError(f"the stream cannot be decompressed ({type(exc).__name__})") from None

    def _event(self) -> None:
        data, self._data = self._data, []
        self._events = True
        if self.done:
            return  # whatever comes after `[DONE]` belongs to no answer
        try:
            chunks = [json.loads(b"\n".join(data))] if data[0].startswith(b"{") else []
        except ValueError:
            chunks = [self._parsed(line) for line in data if line.startswith(b"{")]
        for chunk in chunks:
            if isinstance(chunk, dict):
                self._chunk(chunk)
        self.done = data[-1] == b"[DONE]" and not self._off

    @staticmethod
    def _parsed(line: bytes) -> object:
        try:
            return json.loads(line)
        except ValueError:
            raise BrokenStreamError("a chunk of the stream is not JSON") from None

    def _chunk(self, chunk: dict[str, Any]) -> None:
        if self.chunks is not None:
            self.chunks.append(chunk)
        if chunk.get("error"):
            self._off = True  # LiteLLM raises it
            return
        self.usage = _usage_in(chunk) or self.usage
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            index = choice.get("index", 0) if isinstance(choice, dict) else 0
            if isinstance(choice, dict) and (reason := choice.get("finish_reason")):
                self.reasons[index] = str(reason)
                self._finished.add(index)
                self._open.discard(index)
            elif index not in self._finished:
                self._open.add(index)
        if choices is None:
            self._native_chunk(chunk)

    def _native_chunk(self, chunk: dict[str, Any]) -> None:
        """Read the finish reason of a chunk in Gemini's or Anthropic's own format."""
        candidates, delta = chunk.get("candidates"), chunk.get("delta")
        for at, candidate in enumerate(candidates if isinstance(candidates, list) else ()):
            if isinstance(candidate, dict) and (reason := candidate.get("finishReason")):
                self.reasons[candidate.get("index", at)] = str(reason)
        if isinstance(delta, dict) and (reason := delta.get("stop_reason")):
            self.reasons[0] = str(reason)


def _usage_in(chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the usage in a chunk of OpenAI's, Gemini's, Anthropic's or Cohere's format."""
    for holder in (chunk, *chunk.values()):
        if isinstance(holder, Mapping):
            found = holder.get("usage") or holder.get("usageMetadata")
            if isinstance(found, Mapping):
                return found
    return None


def _other_decompressor(encoding: str) -> _Decompressor | None:
    """Return a decompressor of Brotli or Zstandard. Where neither is installed LiteLLM does not accept them."""
    with contextlib.suppress(ImportError):
        if encoding == "br":
            import brotli  # type: ignore[import-not-found]  # noqa: PLC0415 - optional

            made = brotli.Decompressor()
            made.decompress = getattr(made, "decompress", None) or made.process
            return made  # type: ignore[no-any-return]
        if encoding == "zstd":
            import zstandard  # type: ignore[import-not-found]  # noqa: PLC0415 - optional

            return zstandard.ZstdDecompressor().decompressobj()  # type: ignore[no-any-return]
    return None
