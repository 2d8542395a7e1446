"""The limiter against models of providers, in virtual time: the whole matrix takes seconds and is the same each time.

    uv run python -m tests.benchmarks.limiter_lab [--seeds 5] [--controllers llmbatch,sdk,aimd] [NAME …]

For each scenario: the ideal's seconds, and for each controller the share of the ideal that it reached and the 429s that
it met (medians over the seeds; `!`: in some seed it did not end within an hour). `llmbatch` is the project's own
`Limiter` with its rule for how long a rate-limited row pauses; `sdk` is a semaphore with the OpenAI SDK's backoff, for
ever; `aimd` adapts the number in flight: one more for each window answered, four fifths after a 429 (once an episode).

The ideal knows the provider's rule, and 429s are free for it: the time that the limits and the workers need for the
rows, and one latency.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import selectors
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmbatch._limits.limiter import Limiter
from llmbatch._request.retry import throttle_pause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

__all__ = ["CONTROLLERS", "SCENARIOS", "Scenario", "measure"]

AN_HOUR = 3600.0
ROUND_TRIP = 0.01


@dataclass(frozen=True)
class Scenario:
    """A provider's rules and the work to be done there. `share` and `max_429s` are the bar."""

    name: str
    share: float
    max_429s: int | None = None
    rows: int = 600
    workers: int = 32
    latency: float = 0.5  # seconds, the mean of a log-normal
    sigma: float = 0.4
    rpm: float = 0.0  # a token bucket, unless there is a window
    burst: float = 2.0  # seconds of quota that the bucket holds
    window: float = 0.0  # seconds of the fixed windows in which the rpm counts
    concurrency: int = 0  # number in flight at which 429s begin
    queue: int = 0  # number that is worked on at once; the others wait, without 429s
    random: float = 0.0  # share that gets a 429 whatever the rate
    random_from: float = 0.0  # seconds
    headers: bool = False  # what the bucket holds
    retry_after: bool = False
    busy_for: float = 0.0  # seconds that the Retry-After of a concurrency limit says, whatever answers take
    step: tuple[float, float] | None = None  # from this second on, this rpm
    others: float = 0.0  # the share of the rpm that others take, 10 s on, 10 s off
    outage: tuple[float, float] | None = None  # between these seconds everything gets a 429
    jitter: float = 0.0  # seconds by which requests overtake each other on their way
    late: tuple[float, float] | None = None  # seconds, least and most, that a 429 takes beyond the round trip

    def ideal(self) -> float:
        """The seconds that somebody needs who knows all this."""
        need = (
            self.rows * self.latency / min(self.workers, self.concurrency or self.workers, self.queue or self.workers)
        )
        if self.window:
            need = max(need, (self.rows - 1) // (self.rpm * self.window / 60) * self.window)
        elif self.rpm:
            rate = self.rpm / 60
            left = self.rows - max(1.0, rate * self.burst)
            usable = 1 - self.others / 2
            at, then = self.step or (0.0, self.rpm)
            before = min(left, at * rate * usable)
            need = max(need, (before / rate + (left - before) / (then / 60)) / usable)
        if self.outage and need > self.outage[0]:
            need += self.outage[1] - self.outage[0]
        return need + self.latency


SCENARIOS = [
    Scenario("rpm, headers and Retry-After", 0.97, 2, rpm=1200, headers=True, retry_after=True),
    Scenario("rpm, Retry-After only", 0.97, 10, rpm=1200, retry_after=True),
    Scenario("rpm, blind", 0.97, 10, rpm=1200),
    Scenario("rpm low (60)", 0.85, 20, rows=60, rpm=60),
    Scenario("rpm high (30,000), 256 workers", 0.90, 0, rows=6000, workers=256, rpm=30_000),
    Scenario("rpm falls by half at 10 s", 0.90, 12, rpm=2400, step=(10, 1200)),
    Scenario("rpm doubles at 10 s", 0.85, 12, rows=900, rpm=1200, step=(10, 2400)),
    Scenario("rpm shared with others, headers", 0.97, 10, rpm=1200, others=0.6, headers=True, retry_after=True),
    Scenario("rpm shared with others, blind", 0.88, 20, rpm=1200, others=0.6),
    Scenario("window of 10 s", 0.80, 30, rpm=1200, window=10),
    Scenario("window of 60 s, Retry-After", 0.98, 10, rows=300, rpm=120, window=60, retry_after=True),
    Scenario("random 2 %", 0.90, random=0.02),
    Scenario("random 5 %", 0.88, random=0.05),
    Scenario("random 20 %", 0.80, random=0.2),
    Scenario("random 20 %, Retry-After 1 s", 0.60, random=0.2, retry_after=True),
    Scenario("random 50 %", 0.40, random=0.5),
    Scenario("random 2 % and rpm 1200", 0.90, rows=1500, random=0.02, rpm=1200),
    Scenario("random 5 % and rpm 1200", 0.93, rows=1500, random=0.05, rpm=1200),
    Scenario("random 20 % and rpm 1200", 0.80, 300, random=0.2, rpm=1200),
    Scenario("random 20 %, rpm 6000 in headers", 0.85, random=0.2, rpm=6000, headers=True),
    Scenario("random 20 % from 8 s on", 0.80, rows=1500, random=0.2, random_from=8),
    Scenario("random 50 % from 8 s on", 0.65, rows=1500, random=0.5, random_from=8),
    Scenario("random 30 % from 5 s on, 100 workers", 0.80, rows=3000, workers=100, random=0.3, random_from=5),
    Scenario("random 25 % from 10 s on, 8 workers", 0.80, rows=800, workers=8, random=0.25, random_from=10),
    Scenario("random 25 % from 8 s on, rpm 2400", 0.60, rows=1500, random=0.25, random_from=8, rpm=2400),
    Scenario("concurrency 10", 0.85, 60, concurrency=10),
    Scenario("concurrency 3", 0.85, 40, rows=150, concurrency=3),
    Scenario("concurrency 100, 256 workers", 0.85, 150, rows=3000, workers=256, concurrency=100),
    Scenario("one worker, random 60 %", 0.05, rows=25, workers=1, random=0.6, latency=0.05),
    Scenario("no limit, 32 workers", 0.95, rows=1000),
    Scenario("no limit, answers of 20 s, 256 workers", 0.85, rows=1500, workers=256, latency=20),
    Scenario("outage from 20 to 50 s", 0.90, 60, rows=1500, outage=(20, 50)),
    Scenario("outage from 10 to 600 s, random 5 %", 0.85, rows=1500, outage=(10, 600), random=0.05),
    Scenario("rpm, late 429s", 0.90, 20, rpm=1200, late=(0.05, 0.25)),
    Scenario("random 5 %, late 429s", 0.80, random=0.05, late=(0.05, 0.25)),
    Scenario("random 20 %, late 429s", 0.60, random=0.2, late=(0.05, 0.25)),
    Scenario(
        "random 10 %, late by seconds, 256 workers",
        0.35,
        rows=3000,
        workers=256,
        random=0.1,
        retry_after=True,
        late=(1, 3),
    ),
    Scenario("concurrency 10, late 429s", 0.80, 60, concurrency=10, late=(0.05, 0.25)),
    Scenario("random 10 % and concurrency 20", 0.75, 250, rows=900, workers=48, random=0.1, concurrency=20),
    Scenario("queue of 8, 64 workers", 0.97, 0, rows=400, queue=8, workers=64),
    Scenario("window of 5 s, Retry-After", 0.90, 30, rpm=1200, window=5, retry_after=True),
    Scenario("window of 20 s, Retry-After", 0.90, 20, rows=400, rpm=300, window=20, retry_after=True),
    Scenario("rpm low (120), answers of 3 s", 0.85, 120, rows=200, rpm=120, latency=3),
    Scenario("rpm low (60), answers of 5 s", 0.80, 100, rows=100, rpm=60, latency=5),
    Scenario("concurrency 10, Retry-After 60 s", 0.90, 40, concurrency=10, retry_after=True, busy_for=60),
    Scenario(
        "concurrency 5, Retry-After 60 s, 10 workers",
        0.85,
        25,
        rows=100,
        workers=10,
        concurrency=5,
        latency=3,
        retry_after=True,
        busy_for=60,
        jitter=0.005,
    ),
]


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        """The virtual clock."""
        return self.now


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.loop.now += max(timeout or 0.0, 1e-6)
        return super().select(0)


@dataclass
class Reply:
    """What came back: an answer, or a 429 with its Retry-After."""

    good: bool
    headers: Mapping[str, str]
    retry_after: float | None = None


class Provider:
    """Answers, or rejects with a 429 by a scenario's rules."""

    def __init__(self, scenario: Scenario, loop: VirtualLoop, rng: random.Random) -> None:
        self.scenario, self.loop, self.rng = scenario, loop, rng
        self.began = self.at = self.window_began = loop.time()
        self.rate = scenario.rpm / 60
        self.level = self.capacity = max(1.0, self.rate * scenario.burst)
        self.in_flight = self.in_window = self.rate_limited = 0
        self.queue = asyncio.Semaphore(scenario.queue or 1_000_000)

    async def ask(self) -> Reply:
        """One request."""
        now = self.loop.time()
        jitter = self.scenario.jitter
        await asyncio.sleep(ROUND_TRIP + (self.rng.uniform(0, jitter) if jitter else 0.0))
        limited, retry_after = self._is_limited(now)
        if limited:
            self.rate_limited += 1
            if self.scenario.late:
                await asyncio.sleep(self.rng.uniform(*self.scenario.late))
            return Reply(False, self._headers(), retry_after if self.scenario.retry_after else None)
        self.in_flight += 1
        sigma = self.scenario.sigma
        async with self.queue:
            await asyncio.sleep(self.scenario.latency * self.rng.lognormvariate(-(sigma**2) / 2, sigma))
        self.in_flight -= 1
        return Reply(True, self._headers())

    def _is_limited(self, now: float) -> tuple[bool, float | None]:
        s = self.scenario
        if s.outage and s.outage[0] <= now - self.began < s.outage[1]:
            return True, None
        if s.concurrency and self.in_flight >= s.concurrency:
            return True, s.busy_for or s.latency
        if s.random and now - self.began >= s.random_from and self.rng.random() < s.random:
            return True, 1.0
        if s.window:
            if now - self.window_began >= s.window:
                self.in_window, self.window_began = 0, now - (now - self.window_began) % s.window
            self.in_window += 1
            return self.in_window > s.rpm * s.window / 60, self.window_began + s.window - now
        if s.rpm:
            self._refill(now)
            if self.level < 1:
                return True, (1 - self.level) / self.rate
            self.level -= 1
        return False, None

    def _refill(self, now: float) -> None:
        s = self.scenario
        if s.step and now - self.began >= s.step[0]:
            self.rate = s.step[1] / 60
            self.capacity = max(1.0, self.rate * s.burst)
        others = s.others if int((now - self.began) / 10) % 2 else 0.0
        self.level = min(self.capacity, self.level + (now - self.at) * self.rate * (1 - others))
        self.at = now

    def _headers(self) -> dict[str, str]:
        if not self.scenario.headers:
            return {}
        return {
            "x-ratelimit-limit-requests": str(int(self.rate * 60)),
            "x-ratelimit-remaining-requests": str(int(max(0.0, self.level))),
            "x-ratelimit-reset-requests": f"{max(0.0, (self.capacity - self.level) / self.rate):.3f}s",
        }


async def _workers(number: int, one: Callable[[int], Awaitable[None]], rows: Iterator[int]) -> None:
    async def worker() -> None:
        for row in rows:
            await one(row)

    await asyncio.gather(*(worker() for _ in range(number)))


async def llmbatch(scenario: Scenario, provider: Provider) -> None:
    """The project's limiter, as its sender uses it."""
    limiter = Limiter(clock=provider.loop.time)

    async def one(row: int) -> None:
        limited = 0
        while True:
            permit = await limiter.acquire(row, 10.0)
            reply = await provider.ask()
            if reply.good:
                limiter.on_success(permit, reply.headers, 10.0)
                return
            limiter.on_rate_limit(permit, reply.headers, reply.retry_after)
            limited += 1
            await limiter.pause(throttle_pause(limited, reply.retry_after, provider.rng.random()))

    await _workers(scenario.workers, one, iter(range(scenario.rows)))


async def sdk(scenario: Scenario, provider: Provider) -> None:
    """The OpenAI SDK's backoff: 0.5 s, doubling to 8 s, less a quarter at random; Retry-After up to a minute."""

    async def one(_: int) -> None:
        tries = 0
        while not (reply := await provider.ask()).good:
            backoff = min(0.5 * 2**tries, 8.0) * (1 - 0.25 * provider.rng.random())
            await asyncio.sleep(
                reply.retry_after if reply.retry_after is not None and reply.retry_after <= 60 else backoff
            )
            tries += 1

    await _workers(scenario.workers, one, iter(range(scenario.rows)))


async def aimd(scenario: Scenario, provider: Provider) -> None:
    """A limit on concurrency that adapts: one more a window of answers, four fifths for an episode of 429s."""
    window, in_flight, cut_at = 8.0, 0, 0.0
    turn = asyncio.Condition()

    async def one(_: int) -> None:
        nonlocal window, in_flight, cut_at
        while True:
            async with turn:
                while in_flight >= int(window):
                    await turn.wait()
                in_flight += 1
            sent = provider.loop.time()
            reply = await provider.ask()
            async with turn:
                in_flight -= 1
                if reply.good:
                    window = min(window + 1 / window, scenario.workers)
                elif sent >= cut_at:
                    window, cut_at = max(1.0, window * 0.8), provider.loop.time()
                turn.notify_all()
            if reply.good:
                return
            await asyncio.sleep(reply.retry_after or 0.5 * (1 + provider.rng.random()))

    await _workers(scenario.workers, one, iter(range(scenario.rows)))


CONTROLLERS = {controller.__name__: controller for controller in (llmbatch, sdk, aimd)}


@dataclass
class Measured:
    """One run: its share of the ideal, the 429s that it met, and whether it ended within an hour."""

    share: float
    rate_limited: int
    ended: bool


def measure(scenario: Scenario, controller: str, seed: int) -> Measured:
    """Run one controller through a scenario."""
    loop = VirtualLoop()
    try:
        provider = Provider(scenario, loop, random.Random(seed))  # noqa: S311 - reproducible, not secret

        async def main() -> bool:
            try:
                await asyncio.wait_for(CONTROLLERS[controller](scenario, provider), AN_HOUR)
            except TimeoutError:
                return False
            return True

        ended = loop.run_until_complete(main())
        return Measured(scenario.ideal() / (loop.time() - provider.began), provider.rate_limited, ended)
    finally:
        loop.close()


def main() -> None:
    """Print the matrix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--controllers", default=",".join(CONTROLLERS))
    parser.add_argument("names", nargs="*", help="parts of scenarios' names; all of them by default")
    given = parser.parse_args()
    controllers = given.controllers.split(",")
    print(f"{'':40} {'ideal s':>8} {'bar':>10} " + " ".join(f"{name:>14}" for name in controllers))
    for scenario in SCENARIOS:
        if given.names and not any(name in scenario.name for name in given.names):
            continue
        cells = []
        for controller in controllers:
            runs = [measure(scenario, controller, seed) for seed in range(given.seeds)]
            share, limited = (
                statistics.median(getattr(run, name) for run in runs) for name in ("share", "rate_limited")
            )
            cells.append(f"{share:7.2f} /{limited:6.0f}{' ' if all(run.ended for run in runs) else '!'}")
        bar = f"{scenario.share:.2f}" + ("" if scenario.max_429s is None else f"/{scenario.max_429s}")
        print(
            f"{scenario.name:40} {scenario.ideal():8.1f} {bar:>10} " + " ".join(f"{cell:>14}" for cell in cells),
            flush=True,
        )


if __name__ == "__main__":
    main()
