"""One account is one account: its limiter, its configured limit and its circuit breaker, however it is spelt."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

from llmbatch._limits import registry
from llmbatch._limits.account import account_at
from llmbatch._limits.registry import LimiterRegistry
from llmbatch._request.account import account_of, route_key
from llmbatch._request.plans import plan_chat
from llmbatch.providers import copilot
from tests.talk import KEY, answered, batch, chats

if TYPE_CHECKING:
    from llmbatch._limits.account import Account
    from tests.server import Server

HOST = "https://host.example"


def account(model: str = "openai/m", **given: Any) -> Account:
    """Return the account of a call's plan."""
    return account_of(plan_chat(model, None, None, **given))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_ORGANIZATION", "USE_COPILOT_CHAT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")


@pytest.mark.parametrize(
    "address",
    [
        f"{HOST}/v1/", f"{HOST}//", HOST, "https://HOST.Example/v1", "HTTPS://host.example:443/v1",
        "https://host.example./v1", f" {HOST}/v1",
    ],
)  # fmt: skip
def test_account_address_spelt_differently_is_same(address: str) -> None:
    """A slash, the case of the host, and the default port make no other account."""
    assert account(api_base=address, api_key="k") == account(base_url=f"{HOST}/v1", api_key="k")


@pytest.mark.parametrize(
    "address",
    [
        "http://host.example/v1", "https://host.example:444/v1", "https://other.example/v1",
        f"{HOST}/tenant/v1", f"{HOST}/V1", "https://user@host.example/v1", f"{HOST}/v1?key=a", "https://[::1]:1/v1",
        "https://[::1/v1", "host.example",
    ],
)  # fmt: skip
def test_account_other_address_is_other(address: str) -> None:
    """Scheme, port, host, path and credentials tell accounts apart; broken addresses are taken as they are."""
    assert account_at("p", address, "k") != account_at("p", f"{HOST}/v1", "k")
    assert account_at("p", address, "k") == account_at("q", address + "/", "k") or "?" in address or "[::1/" in address


def test_account_key_from_environment_is_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key passed and the same key in the environment; another key in the environment is another account."""
    before = account()
    assert (
        before == account(api_key="sk-env") == account("gpt-4o-mini") == account(api_base="https://api.openai.com/v1")
    )
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    assert before != account() == account(api_key="sk-other")


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("openai/m", "OPENAI_BASE_URL"), ("openai/m", "OPENAI_API_BASE"), ("azure/m", "AZURE_API_BASE"),
        ("anthropic/m", "ANTHROPIC_API_BASE"), ("anthropic/m", "ANTHROPIC_BASE_URL"), ("groq/m", "GROQ_API_BASE"),
        ("hosted_vllm/m", "HOSTED_VLLM_API_BASE"), ("litellm_proxy/m", "LITELLM_PROXY_API_BASE"),
    ],
)  # fmt: skip
def test_account_address_from_environment_is_same(monkeypatch: pytest.MonkeyPatch, model: str, variable: str) -> None:
    """Whatever the variable is called."""
    passed, without = account(model, api_base=f"{HOST}/v1"), account(model)
    monkeypatch.setenv(variable, f"{HOST}/v1/")
    assert passed == account(model) != without


@pytest.mark.parametrize(
    ("model", "variable"),
    [("anthropic/m", "ANTHROPIC_API_KEY"), ("gemini/m", "GEMINI_API_KEY"), ("azure/m", "AZURE_API_KEY"),
     ("groq/m", "GROQ_API_KEY"), ("mistral/m", "MISTRAL_API_KEY"), ("openrouter/m", "OPENROUTER_API_KEY")],
)  # fmt: skip
def test_account_key_of_provider_from_environment_is_same(
    monkeypatch: pytest.MonkeyPatch, model: str, variable: str
) -> None:
    """As LiteLLM finds it."""
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    passed, without = account(model, api_key="k-1"), account(model)
    monkeypatch.setenv(variable, "k-1")
    assert passed == account(model) != without


def test_account_provider_name_at_same_address_is_same() -> None:
    """The server counts requests, not LiteLLM's name for it."""
    given = {"api_base": f"{HOST}/v1", "api_key": "k"}
    assert account("openai/m", **given) == account("litellm_proxy/m", **given) == account("hosted_vllm/n", **given)


@pytest.mark.parametrize("given", [{"organization": "o"}, {"api_key": "k"}, {"api_base": HOST}])
def test_account_other_identity_is_other(given: dict[str, Any]) -> None:
    """Another organization, key or server has limits of its own."""
    assert account(**given) != account()


def test_account_of_copilot_is_github_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passed or from the environment; another token is another account."""
    monkeypatch.setenv("GITHUB_TOKEN", "gho_a")

    def by(**given: Any) -> Account:
        return account_of(copilot.plan("copilot/gpt-4o", None, None, given, {}))

    assert by() == by(api_key="gho_a") != by(api_key="gho_b")


def test_account_shows_no_secret() -> None:
    """Neither the key nor what an address holds of one."""
    shown = repr(account_at("p", "https://user:sk-secret@host.example/v1?key=sk-secret", "sk-secret"))
    assert "secret" not in shown


def test_limiter_in_use_is_never_dropped() -> None:
    """However many other accounts come by; those that nobody uses are forgotten in the end, their limits too."""
    limiters = LimiterRegistry()
    mine = account_at("p", HOST, "mine")
    kept = limiters.limiter_for(mine, "m")
    for number in range(2 * registry.MAX_IDLE_LIMITERS):
        limiters.limiter_for(account_at("p", HOST, str(number)), "m")
    gc.collect()
    assert limiters.limiter_for(mine, "m") is kept
    assert limiters.limiter_for(mine, "n").account is kept.account
    assert len(limiters._limiters) == len(limiters._recent) == registry.MAX_IDLE_LIMITERS
    assert len(limiters._accounts) <= registry.MAX_IDLE_LIMITERS


def test_dedupe_other_accounts_are_not_merged(server: Server) -> None:
    """The same question by another key, organization or header is no duplicate."""
    (chat,) = chats(1)
    others: list[dict[str, Any]] = [
        {}, {"api_key": "k-2"}, {"organization": "o"}, {"extra_headers": {"x-tenant": "t"}}, {"api_key": KEY},
        {"api_base": server.api_base + "/", "api_key": KEY},
    ]  # fmt: skip
    rows = batch(server.api_base, [{"messages": chat, **given} for given in others], dedupe=True)
    assert all(answered(row, 0) for row in rows)
    assert [row.get("same_as") for row in rows] == [None, None, None, None, 0, 0]
    assert len(server.requests) == 4


def test_route_key_is_computed_once_for_a_plan() -> None:
    """Each row asks for it."""
    plan = plan_chat("openai/m", None, None)
    assert route_key(plan) is route_key(plan)
    assert route_key(plan) == route_key(plan_chat("openai/m", None, None, api_key="sk-env"))
