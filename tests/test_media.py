"""Parts with media are built from paths, bytes and URLs by the caller; no path in a message is ever read."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Server

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + b"0" * 20
PDF = b"%PDF-1.7\n" + b"0" * 20


def url_of(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_image_part_makes_data_url_of_path_and_bytes(tmp_path: Path) -> None:
    """The first bytes say the type, and not the suffix; a URL stays as it is."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(PNG)
    for source in (path, str(path), PNG, bytearray(PNG)):
        assert llmbatch.image_part(source) == {"type": "image_url", "image_url": {"url": url_of(PNG, "image/png")}}
    for url in ("https://example.com/a.png", url_of(PNG, "image/png"), "gs://bucket/a.png"):
        assert llmbatch.image_part(url, detail="low")["image_url"] == {"url": url, "detail": "low"}
    jpeg, webp = b"\xff\xd8\xff\xe0", b"RIFF\x00\x00\x00\x00WEBPVP8 "
    assert llmbatch.image_part(jpeg)["image_url"]["url"].startswith("data:image/jpeg;")
    assert llmbatch.image_part(webp)["image_url"]["url"].startswith("data:image/webp;")
    path.write_bytes(b"unknown")
    assert llmbatch.image_part(path)["image_url"]["url"].startswith("data:image/jpeg;")


def test_audio_part_and_file_part(tmp_path: Path) -> None:
    """In the forms of OpenAI that LiteLLM translates for other providers."""
    data = base64.b64encode(WAV).decode()
    assert llmbatch.audio_part(WAV) == {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    path = tmp_path / "report.pdf"
    path.write_bytes(PDF)
    file = {"file_data": url_of(PDF, "application/pdf"), "filename": "report.pdf"}
    assert llmbatch.file_part(path) == {"type": "file", "file": file}
    assert llmbatch.file_part(PDF)["file"]["filename"] == "file.pdf"
    assert llmbatch.file_part("https://example.com/a.pdf") == {
        "type": "file", "file": {"file_id": "https://example.com/a.pdf"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("function", "source", "error", "fix"),
    [
        ("image_part", PDF, ValueError, "Use llmbatch.file_part"),
        ("audio_part", PNG, ValueError, "Use llmbatch.image_part"),
        ("audio_part", "https://example.com/a.wav", ValueError, "Download the file first"),
        ("image_part", b"", ValueError, "is empty"),
        ("image_part", b"who knows", ValueError, "media_type="),
        ("image_part", 7, TypeError, "a path, bytes or a URL"),
        ("image_part", "no-such-file.png", FileNotFoundError, "no-such-file"),
    ],
)
def test_part_that_cannot_be_built_raises(function: str, source: Any, error: type[Exception], fix: str) -> None:
    """With the helper or the argument that is right."""
    with pytest.raises(error, match=fix):
        getattr(llmbatch, function)(source)


def test_part_has_a_size_limit(tmp_path: Path) -> None:
    """No more is read of a large file."""
    path = tmp_path / "big.png"
    path.write_bytes(PNG * 10)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        llmbatch.image_part(path, max_bytes=100)
    assert llmbatch.image_part(path, max_bytes=len(PNG) * 10)


def test_image_is_sent(server: Server) -> None:
    """As the part was built."""
    content = [{"type": "text", "text": "What is this?"}, llmbatch.image_part(PNG)]
    place = {"api_base": server.api_base, "api_key": "sk-test"}
    results = llmbatch.create_chat_completions_batch([[{"role": "user", "content": content}]], "openai/gpt-4o", **place)
    assert not results.failed
    assert server.requests[0].json["messages"][0]["content"] == content


@pytest.mark.parametrize(
    ("part", "helper"),
    [
        ({"type": "image_url", "image_url": {"url": "{path}"}}, "image_part"),
        ({"type": "image_url", "image_url": "{path}"}, "image_part"),
        ({"type": "image_url", "image_url": {"url": "file://{path}"}}, "image_part"),
        ({"type": "image_url", "image_url": {"url": "FILE:{path}"}}, "image_part"),
        ({"type": "image_url", "image_url": {"url": "photo.png"}}, "image_part"),
        ({"type": "image_url", "image_url": {"url": "~/my photo.JPG"}}, "image_part"),
        ({"type": "image_url", "image_url": {"url": "..\\photo"}}, "image_part"),
        ({"type": "image_url", "image_url": {"url": "C:\\photos\\a.png"}}, "image_part"),
        ({"type": "image", "source": {"type": "url", "url": "/etc/passwd"}}, "image_part"),
        ({"type": "video_url", "video_url": {"url": "./a.mp4"}}, "image_part"),
        ({"type": "input_audio", "input_audio": {"data": "clip.wav", "format": "wav"}}, "audio_part"),
        ({"type": "file", "file": {"file_data": "{path}"}}, "file_part"),
        ({"type": "file", "file": {"file_id": "report.pdf"}}, "file_part"),
    ],
)
def test_local_file_in_message_is_an_error_row(
    server: Server, tmp_path: Path, part: dict[str, Any], helper: str
) -> None:
    """It is neither read nor sent, the path is not in the error, and the others are answered."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    filled = {
        key: value.replace("{path}", str(secret)) if isinstance(value, str)
        else {name: text.replace("{path}", str(secret)) for name, text in value.items()}
        for key, value in part.items()
    }  # fmt: skip
    content = [{"type": "text", "text": "What is this?"}, filled]
    place = {"api_base": server.api_base, "api_key": "sk-test"}
    rows = llmbatch.create_chat_completions_batch(
        [[{"role": "user", "content": content}], "hello"], "openai/gpt-4o", **place
    )
    assert ["error" in row for row in rows] == [True, False]
    assert rows[0]["error"].startswith("InvalidRow: message 0 (user) names a local file in part 1")
    assert f"llmbatch.{helper}(path)" in rows[0]["error"]
    assert "secret" not in rows[0]["error"]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "/etc/passwd"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png?x=/b"}},
        {"type": "image_url", "image_url": {"url": "/9j/4AAQSkZJRgABAQ"}},
        {"type": "image_url", "image_url": {"url": "gs://bucket/a.png"}},
        {"type": "file", "file": {"file_id": "file-abc123"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "notes.txt"}},
    ],
)
def test_part_without_local_file_is_sent(server: Server, part: dict[str, Any]) -> None:
    """URLs, ids of uploaded files, data in base64 and text are none."""
    place = {"api_base": server.api_base, "api_key": "sk-test"}
    message = {"role": "user", "content": [part]}
    assert not llmbatch.create_chat_completions_batch([[message]], "hosted_vllm/m", **place).failed
