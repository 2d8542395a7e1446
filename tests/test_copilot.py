"""GitHub Copilot: tokens exchanged once and refreshed, headers, pacing, routing, and clear refusals."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.server import Response
from tests.talk import KEY, answered, batch, chats

if TYPE_CHECKING:
    from tests.server import Request, Server


class Copilot:
    """A token exchange and a chat server behind one address."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.lasts = 1800.0
        self.good: set[str] = set()
        self.exchanges: list[Request] = []
        self.chats: list[Request] = []
        self.refuse_exchange: Response | None = None
        server.handler = self

    def __call__(self, request: Request) -> Response | None:
        if request.path.startswith("/token"):
            self.exchanges.append(request)
            if self.refuse_exchange:
                return self.refuse_exchange
            token = f"tid={len(self.exchanges)};exp=soon"
            self.good.add(token)
            return Response(body={"token": token, "expires_at": int(time.time() + self.lasts), "refresh_in": 1500})
        self.chats.append(request)
        bearer = request.headers["authorization"].removeprefix("Bearer ")
        return None if bearer in self.good else Response(401, {"content-type": "text/plain"}, "IDE token expired")


@pytest.fixture
def copilot(server: Server, monkeypatch: pytest.MonkeyPatch, quick_backoff: None) -> Copilot:
    monkeypatch.setenv("GITHUB_COPILOT_API_BASE", server.url)
    monkeypatch.setenv("GITHUB_COPILOT_API_KEY_URL", f"{server.url}/token")
    monkeypatch.setenv("COPILOT_REQUESTS_PER_MINUTE", "60000")
    monkeypatch.setenv("GITHUB_TOKEN", "ghu_0123456789abcdef")
    return Copilot(server)


def ask(count: int, **options: Any) -> llmbatch.BatchResults:
    return llmbatch.create_chat_completions_batch_copilot(chats(count), **options)


def test_many_rows_exchange_the_token_once(copilot: Copilot) -> None:
    """A ghu_ token is exchanged; the rows carry what came back, and the editor's headers."""
    rows = ask(30)
    assert all(answered(row, i) for i, row in enumerate(rows))
    (exchange,) = copilot.exchanges
    assert exchange.headers["authorization"] == "token ghu_0123456789abcdef"
    for request in copilot.chats:
        assert request.path == "/chat/completions"
        assert request.headers["authorization"] == "Bearer tid=1;exp=soon"
        assert request.headers["copilot-integration-id"] == "vscode-chat"
        assert request.headers["editor-version"].startswith("vscode/")
    assert {row["cost"] for row in rows} == {None}


def test_token_about_to_expire_is_refreshed_before(copilot: Copilot) -> None:
    """No row is sent with a token that may expire on its way."""
    copilot.lasts = 60
    assert not ask(3, max_workers=1).failed
    assert len(copilot.exchanges) == 3
    assert len(copilot.chats) == 3, "no 401 was needed to find out"


def test_401_leads_to_one_refresh_for_all_rows(copilot: Copilot) -> None:
    """Whatever the number of rows in flight when the token dies, and whatever the retries."""
    copilot.server.set(latency=0.05)
    good = copilot.good

    def forget(index: int, row: Any) -> None:
        if index == 0:
            good.discard("tid=1;exp=soon")

    rows = ask(40, max_workers=8, on_result=forget, retries=0)
    assert all(answered(row, i) for i, row in enumerate(rows))
    assert len(copilot.exchanges) == 2


def test_token_that_stays_rejected_fails_the_rows(copilot: Copilot) -> None:
    """One refresh a row, then a failed row with its 401, and the sending stops."""
    copilot.good = type("Never", (set,), {"__contains__": lambda self, item: False})()
    rows = ask(60, max_workers=2)
    sent = [row for row in rows if row["attempts"]]
    assert {row["error_details"]["status_code"] for row in sent} == {401}
    assert max(row["attempts"] for row in sent) == 2
    assert len(sent) <= 5 + 1 + 3 + 1


def test_direct_token_that_cannot_be_renewed_keeps_its_401(copilot: Copilot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange that gho_ tokens are refused by is tried, and does not hide why the row failed."""
    monkeypatch.setenv("GITHUB_TOKEN", "gho_expired")
    monkeypatch.delenv("GITHUB_COPILOT_API_KEY_URL")
    monkeypatch.setattr("llmbatch.providers.copilot.TOKEN_URL", f"{copilot.server.url}/token")
    copilot.refuse_exchange = Response(404)
    (row,) = ask(1)
    assert (row["error_details"]["status_code"], row["error_details"]["retryable"]) == (401, False)
    assert (len(copilot.chats), len(copilot.exchanges)) == (1, 1)


def test_rejected_exchange_says_why(copilot: Copilot) -> None:
    """A 403 for the plan is the rows' error, and few exchanges are tried."""
    copilot.refuse_exchange = Response(403, body={"message": "Resource not accessible", "documentation_url": "x"})
    rows = ask(30, max_workers=2)
    assert len(rows.failed) == 30
    assert not copilot.chats
    assert len(copilot.exchanges) <= 12
    assert rows[0]["error_details"]["status_code"] == 403


def test_oauth_token_is_used_directly(copilot: Copilot, monkeypatch: pytest.MonkeyPatch) -> None:
    """gho_ tokens are the bearer themselves."""
    monkeypatch.delenv("GITHUB_COPILOT_API_KEY_URL")
    monkeypatch.setenv("GITHUB_TOKEN", "gho_direct")
    copilot.good.add("gho_direct")
    assert not ask(5).failed
    assert not copilot.exchanges


@pytest.mark.parametrize(
    ("token", "why"), [("github_pat_x1", "fine-grained"), ("ghp_x1", "classic"), ("", "GITHUB_TOKEN")]
)
def test_tokens_that_cannot_work_raise_and_say_the_fix(
    copilot: Copilot, monkeypatch: pytest.MonkeyPatch, token: str, why: str
) -> None:
    """Before anything is sent, and without showing the token."""
    monkeypatch.setenv("GITHUB_TOKEN", token)
    with pytest.raises(llmbatch.CopilotTokenError, match=why) as caught:
        ask(2)
    assert "x1" not in str(caught.value)
    assert not copilot.server.requests


def test_headers_can_be_overridden(copilot: Copilot) -> None:
    """The caller's own win."""
    ask(1, extra_headers={"Editor-Version": "mine/1", "X-More": "yes"})
    assert copilot.chats[0].headers["editor-version"] == "mine/1"
    assert copilot.chats[0].headers["x-more"] == "yes"
    assert copilot.chats[0].headers["copilot-integration-id"] == "vscode-chat"


def test_requests_are_spread_evenly(copilot: Copilot, monkeypatch: pytest.MonkeyPatch) -> None:
    """COPILOT_REQUESTS_PER_MINUTE without bursts."""
    monkeypatch.setenv("COPILOT_REQUESTS_PER_MINUTE", "600")
    monkeypatch.setenv("GITHUB_TOKEN", "ghu_another_account")
    assert not ask(20, model="gpt-4.1").failed
    times = sorted(request.at for request in copilot.chats)
    assert times[-1] - times[0] >= 1.9 * 0.98
    assert max(sum(start <= at < start + 0.5 for at in times) for start in times) <= 6 + 1


def test_environment_routes_plain_functions_to_copilot(copilot: Copilot, monkeypatch: pytest.MonkeyPatch) -> None:
    """USE_COPILOT_CHAT=true sends bare models to Copilot, and leaves a named server alone."""
    monkeypatch.setenv("USE_COPILOT_CHAT", "true")
    assert not llmbatch.create_chat_completions_batch(chats(2), model="gpt-4o").failed
    assert len(copilot.chats) == 2
    copilot.good.add(KEY)
    assert not batch(f"{copilot.server.url}/v1", chats(1)).failed
    assert copilot.chats[-1].path == "/v1/chat/completions"


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_invalid_requests_per_minute_raises(copilot: Copilot, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Before anything is sent."""
    monkeypatch.setenv("COPILOT_REQUESTS_PER_MINUTE", value)
    with pytest.raises(ValueError, match="COPILOT_REQUESTS_PER_MINUTE"):
        ask(1)
    assert not copilot.server.requests
