"""With warm_prompt_cache one row of each shared beginning is answered before the others are sent."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import llmbatch
from tests.replies import reply
from tests.server import Request, Response
from tests.talk import batch, place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Server


def row(beginning: int, number: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": f"Long context {beginning}"},
        {"role": "user", "content": f"{beginning}-{number}"},
    ]


def leaders_then(server: Server, group: Callable[[Request], Any], count: int) -> None:
    """The first request of each group is answered after 0.2 s, the others when so many have arrived in all."""
    led: set[Any] = set()

    def handler(request: Request) -> Response:
        leads = group(request) not in led
        led.add(group(request))
        return replace(
            reply(request), **({"delay": 0.2} if leads else {"until": lambda: len(server.requests) >= count})
        )

    server.handler = handler


def test_one_row_of_each_beginning_goes_first(server: Server) -> None:
    """The others follow when it has answered; different beginnings do not wait for each other."""
    leaders_then(server, lambda request: request.text[0], 3 + 4)
    rows = [row(beginning, number) for number in range(6) for beginning in range(3)]
    assert not batch(server.api_base, rows, max_workers=18, warm_prompt_cache=True, deadline=120).failed
    for beginning in range(3):
        first, *others = sorted(request.at for request in server.requests if request.text.startswith(f"{beginning}-"))
        assert len(others) == 5
        assert min(others) - first >= 0.2 * 0.99
    assert server.stats.peak_in_flight > 3


def test_each_model_has_a_cache_of_its_own(server: Server) -> None:
    """One row of each model leads."""
    leaders_then(server, lambda request: request.json["model"], 2 + 6)
    models = ("openai/gpt-4o-mini", "openai/gpt-4o")
    rows = [{"messages": row(0, number), "model": model} for number in range(4) for model in models]
    assert not batch(server.api_base, rows, max_workers=8, warm_prompt_cache=True, deadline=120).failed
    for name in ("gpt-4o-mini", "gpt-4o"):
        first, *others = sorted(request.at for request in server.requests if request.json["model"] == name)
        assert len(others) == 3
        assert min(others) - first >= 0.2 * 0.99
    assert server.stats.peak_in_flight == 6


def test_a_leader_that_fails_does_not_hold_the_others(server: Server) -> None:
    """The cache is then cold, but every row is sent."""
    server.handler = lambda request: Response(400) if request.text == "0-0" else None
    results = batch(server.api_base, [row(0, number) for number in range(5)], warm_prompt_cache=True)
    assert ["error" in made for made in results] == [True, False, False, False, False]


def test_without_it_nobody_waits(server: Server) -> None:
    """By default the others are answered while the first row is not."""
    server.handler = lambda request: Response(200, delay=60) if request.text == "0-0" else None
    rows = llmbatch.as_completed([row(0, number) for number in range(6)], **place(server.api_base), max_workers=6)
    assert sorted(index for index, _ in itertools.islice(rows, 5)) == [1, 2, 3, 4, 5]


def test_rows_known_from_a_checkpoint_warm_nothing(server: Server, tmp_path: Path) -> None:
    """The first row that is really sent leads."""
    path: Any = tmp_path / "run.jsonl"
    batch(server.api_base, [row(0, 0)], checkpoint=path)
    server.reset()
    server.set(latency=0.2)
    batch(server.api_base, [row(0, number) for number in range(5)], checkpoint=path, warm_prompt_cache=True)
    first, *others = sorted(request.at for request in server.requests)
    assert len(others) == 3
    assert min(others) - first >= 0.2 * 0.99
