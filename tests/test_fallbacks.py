"""Another model answers only where it was named, and the row says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from tests.server import Response, Server
from tests.talk import KEY, answered, batch, chats, question

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.usefixtures("quick_backoff")


def failing(*models: str) -> Callable[[Any], Response | None]:
    return lambda request: Response(400) if request.json["model"] in models else None


def test_nothing_falls_back_unless_named(server: Server) -> None:
    """A failed row stays failed; no other model is asked."""
    server.handler = failing("gpt-4o-mini")
    assert len(batch(server.api_base, chats(3)).failed) == 3
    assert {request.json["model"] for request in server.requests} == {"gpt-4o-mini"}


def test_the_row_names_who_answered_and_why_the_first_did_not(server: Server, log: list[str]) -> None:
    """Tried in order, after the first has finally failed; each is logged."""
    server.handler = failing("gpt-4o-mini", "gpt-4o")
    (row,) = batch(server.api_base, chats(1), fallbacks=["openai/gpt-4o", "openai/gpt-4.1-mini"])
    assert "error" not in row
    assert row["model"] == "gpt-4.1-mini"
    assert row["fallback"]["instead_of"] == "openai/gpt-4o-mini"
    assert row["fallback"]["error"].startswith("BadRequestError")
    assert row["attempts"] == 3
    (told,) = (line for line in log if line.startswith("WARNING"))
    assert "1 fallback to openai/gpt-4o, 1 fallback to openai/gpt-4.1-mini" in told
    said = [line for line in log if line.startswith("DEBUG") and "falls back to" in line]
    assert len(said) == 2
    assert not any(question(0) in line or KEY in line for line in said)


def test_only_failed_rows_are_asked_again(server: Server) -> None:
    """Rows that the first model answered stay its own."""
    server.handler = lambda request: (
        Response(400) if request.text == question(1) and request.json["model"] == "gpt-4o-mini" else None
    )
    rows = batch(server.api_base, chats(3), fallbacks=["openai/gpt-4o"])
    assert [row["model"] for row in rows] == ["gpt-4o-mini", "gpt-4o", "gpt-4o-mini"]
    assert ["fallback" in row for row in rows] == [False, True, False]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"azure_ad_token": "of-the-first"},
        {"aws_secret_access_key": "of-the-first"},
        {"vertex_credentials": "of-the-first"},
        {"headers": {"X-Team": "of-the-first"}},
        {"extra_headers": {"X-Team": "of-the-first"}},
    ],
    ids=lambda given: next(iter(given), "the key"),
)
def test_no_means_to_reach_the_first_provider_goes_to_another(
    server: Server, provider: Callable[..., Server], given: dict[str, Any]
) -> None:
    """Neither in a header nor in the body, nor the other way round; whatever else was asked goes along."""
    other = provider()
    server.handler = failing("gpt-4o-mini")
    entry = {"model": "hosted_vllm/m", "api_base": other.api_base, "api_key": "sk-the-other"}
    (row,) = batch(server.api_base, chats(1), fallbacks=[entry], seed=7, **given)
    assert answered(row, 0)
    assert other.requests[0].json["seed"] == 7
    told = f"{other.requests[0].headers} {other.requests[0].json}"
    assert KEY not in told
    assert "of-the-first" not in told
    assert "sk-the-other" not in str(server.requests[0].headers)


def test_a_fallback_answers_when_the_first_provider_is_down(server: Server, provider: Callable[..., Server]) -> None:
    """After the breaker has stopped the sending to the first, the second answers all rows."""
    other = provider()
    server.handler = lambda request: Response(401)
    entry = {"model": "openai/gpt-4o", "api_base": other.api_base, "api_key": "sk-x"}
    rows = batch(server.api_base, chats(60), fallbacks=[entry], max_workers=4)
    assert not rows.failed
    assert len(server.requests) <= 5 + 3 + 3
    assert len(other.requests) == 60


class Shape(BaseModel):
    """What the echoing server never answers with."""

    good: bool


def test_what_the_first_model_was_paid_stays_in_the_sums(server: Server) -> None:
    """An answer that does not fit was used and paid for, whether the next model answers, fits, or fails."""
    first = batch(server.api_base, chats(1), response_format=Shape)[0]
    assert first["error_details"]["type"] == "ValidationError"
    server.handler = failing("gpt-4o")
    (row,) = batch(server.api_base, chats(1), fallbacks=["openai/gpt-4o"], response_format=Shape)
    assert row["error_details"]["type"] == "BadRequestError"
    assert row["usage"]["total_tokens"] == first["usage"]["total_tokens"] > 0
    assert row["cost"] == first["cost"]
    assert row["attempts"] == row["error_details"]["attempts"] == 2
    server.handler = None
    (row,) = batch(server.api_base, chats(1), fallbacks=["openai/gpt-4o"], response_format=Shape)
    assert row["usage"]["total_tokens"] == 2 * first["usage"]["total_tokens"]
    assert row["cost"] > 2 * first["cost"]


def test_the_callers_limit_holds_for_all_models_of_the_account_together(server: Server) -> None:
    """Rows that fail and fall back are two requests each; another account has limits of its own."""
    server.handler = failing("of-one-account")
    given = {"requests_per_minute": 1200, "max_workers": 20}
    rows = batch(
        server.api_base, chats(20), model="openai/of-one-account", fallbacks=["openai/of-the-same-account"], **given
    )
    assert not rows.failed
    times = sorted(request.at for request in server.requests)
    assert len(times) == 40
    assert times[-1] - times[0] >= 39 / 20 - 0.1


def test_when_all_fail_the_row_says_so(server: Server) -> None:
    """The last model's error is the row's, the first one's is beside it."""
    server.handler = failing("gpt-4o-mini", "gpt-4o")
    (row,) = batch(server.api_base, chats(1), fallbacks=["openai/gpt-4o"])
    assert "error" in row
    assert row["fallback"]["instead_of"] == "openai/gpt-4o-mini"
