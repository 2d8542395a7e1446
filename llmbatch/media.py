"""Parts of a message that hold media: images, audio and files as data URLs.

Messages are never searched for paths to read, since they may come from strangers: a file is sent only if the program
itself builds a part of it.
"""

from __future__ import annotations

import base64
import mimetypes
import os
import re
from pathlib import Path
from typing import Any

__all__ = ["audio_part", "file_part", "image_part"]

Source = str | os.PathLike[str] | bytes | bytearray | memoryview

MAX_BYTES = 20_000_000
"""The default size limit: OpenAI takes images of 20 MB, most providers less."""

_URL = re.compile(r"(https?|gs|s3|data):", re.IGNORECASE)
# What files begin with. RIFF is followed by the kind of file in bytes 8 to 12.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\xff\xf3", "audio/mpeg"),
    (b"\xff\xf2", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
_FTYP = {b"avif": "image/avif", b"heic": "image/heic", b"M4A ": "audio/mp4"}
# The `format` of OpenAI's input_audio, by media type.
_AUDIO_FORMATS = {
    "audio/aac": "aac", "audio/flac": "flac", "audio/mp4": "m4a", "audio/mpeg": "mp3", "audio/ogg": "ogg",
    "audio/opus": "opus", "audio/wav": "wav", "audio/webm": "webm", "audio/x-wav": "wav", "audio/x-m4a": "m4a",
}  # fmt: skip


def image_part(
    source: Source, *, media_type: str | None = None, detail: str | None = None, max_bytes: int = MAX_BYTES
) -> dict[str, Any]:
    """Return a message part for an image: a path or bytes become a data URL, a URL stays as it is.

    Args:
        source: a path, the image's bytes, or a URL (http, https, data, gs, s3).
        media_type: such as "image/png"; else recognised by the first bytes, or from the path's suffix.
        detail: "low", "high" or "auto", for models that know it.
        max_bytes: the size limit of a file or of bytes; ValueError above it.

    Example:
        question = [{"type": "text", "text": "What is this?"}, image_part("photo.png")]
        create_chat_completions_batch([[{"role": "user", "content": question}]], "gpt-4o-mini")
    """
    url = _url(source)
    if url is None:
        data, found = _read(source, media_type, max_bytes)
        _check_kind("image_part", found, "image/")
        url = _data_url(data, found)
    return {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}}


def audio_part(source: Source, *, media_type: str | None = None, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return a message part for audio (`input_audio`), from a path or bytes.

    Takes `media_type` and `max_bytes` as `image_part` does. Raises ValueError for a URL: providers take the data only.

    Example:
        question = [{"type": "text", "text": "What is said?"}, audio_part("clip.wav")]
    """
    if _url(source) is not None:
        raise ValueError("audio_part must be given a path or bytes, not a URL. Download the file first")
    data, found = _read(source, media_type, max_bytes)
    _check_kind("audio_part", found, "audio/")
    kind = _AUDIO_FORMATS.get(found, found.partition("/")[2])
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def file_part(
    source: Source, *, media_type: str | None = None, filename: str | None = None, max_bytes: int = MAX_BYTES
) -> dict[str, Any]:
    """Return a message part for a document such as a PDF (`file`), from a path, bytes or a URL.

    Takes `media_type` and `max_bytes` as `image_part` does; `filename`, else the path's name, is what the model sees.

    Example:
        question = [{"type": "text", "text": "Summarise this."}, file_part("report.pdf")]
    """
    url = _url(source)
    if url is not None and not url.lower().startswith("data:"):
        return {"type": "file", "file": {"file_id": url, **({"format": media_type} if media_type else {})}}
    if url is None:
        data, found = _read(source, media_type, max_bytes)
        url = _data_url(data, found)
        if filename is None:  # OpenAI wants one
            path = Path(source) if isinstance(source, str | os.PathLike) else None
            filename = path.name if path else f"file{mimetypes.guess_extension(found) or ''}"
    return {"type": "file", "file": {"file_data": url, **({"filename": filename} if filename else {})}}


def _url(source: Source) -> str | None:
    return source if isinstance(source, str) and _URL.match(source) else None


def _read(source: Source, media_type: str | None, max_bytes: int) -> tuple[bytes, str]:
    """Return the bytes and their media type. Raises ValueError for too many bytes, none, or an unknown type."""
    suffix_type = None
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        suffix_type = mimetypes.guess_type(path.name)[0]
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    else:
        raise TypeError(f"a part must be built from a path, bytes or a URL, not {type(source).__name__}")
    if len(data) > max_bytes:
        raise ValueError(f"the file has more than {max_bytes:,} bytes. Make it smaller, or raise max_bytes=")
    if not data:
        raise ValueError("the file is empty. Pass a file with content")
    found = media_type or _magic_type(data) or suffix_type
    if found is None:
        raise ValueError('the media type cannot be determined. Pass it, as in media_type="image/png"')
    return data, found


def _magic_type(data: bytes) -> str | None:
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12])
    if data[4:8] == b"ftyp":
        return _FTYP.get(data[8:12])
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


def _check_kind(function: str, media_type: str, prefix: str) -> None:
    if not media_type.startswith(prefix):
        helpers = {"image": "image_part", "audio": "audio_part"}
        helper = helpers.get(media_type.partition("/")[0], "file_part")
        raise ValueError(f"{function} was given {media_type}. Use llmbatch.{helper}, or pass the right media_type=")


def _data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
