"""The blocking functions work wherever they are called, and leave nothing behind."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import llmbatch
from tests.talk import answered, batch, chats, place

if TYPE_CHECKING:
    from tests.server import Server
    from tests.warm import Warm


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_inside_a_running_loop(server: Server) -> None:
    """As in a notebook's cell and in `async def` code."""

    async def cell() -> None:
        assert answered(batch(server.api_base, chats(2))[1], 1)
        assert answered(await asyncio.to_thread(lambda: batch(server.api_base, chats(1))[0]), 0)

    asyncio.run(cell())


def test_from_four_threads_at_once(server: Server) -> None:
    """Each thread gets its own rows."""

    def one(number: int) -> bool:
        rows = batch(server.api_base, chats(10, start=number * 10), max_workers=3)
        return all(answered(row, number * 10 + i) for i, row in enumerate(rows))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(12)))


def test_two_hundred_calls_leave_no_sockets_and_no_threads(server: Server) -> None:
    """Connections are kept and used again; nothing grows with the number of calls."""
    batch(server.api_base, chats(2))
    descriptors, threads = open_files(), threading.active_count()
    for i in range(200):
        assert answered(batch(server.api_base, chats(1, start=i))[0], i)
    assert open_files() <= descriptors + 2
    assert threading.active_count() <= threads + 2
    assert server.stats.connections_made < 10


def test_repeated_asyncio_run_of_the_async_forms(server: Server) -> None:
    """A new loop for each call never meets a client of a dead one."""
    descriptors = 0
    for i in range(40):
        rows = asyncio.run(llmbatch.acreate_chat_completions_batch(chats(2, start=i), **place(server.api_base)))
        assert all(answered(row, i + at) for at, row in enumerate(rows))
        descriptors = descriptors or open_files()
    assert open_files() <= descriptors + 2
    assert server.stats.connections_made < 10


def test_many_awaited_batches_share_one_loop(server: Server) -> None:
    """`asyncio.gather` over the async form gives each its own rows."""

    async def run() -> list[llmbatch.BatchResults]:
        given = place(server.api_base)
        calls = [llmbatch.acreate_chat_completions_batch(chats(3, start=i * 3), **given) for i in range(8)]
        return await asyncio.gather(*calls)

    for number, rows in enumerate(asyncio.run(run())):
        assert all(answered(row, number * 3 + i) for i, row in enumerate(rows))


FORKED = """
import llmbatch, multiprocessing, os, sys
from tests.talk import answered, batch, chats, place
assert answered(batch(sys.argv[1], chats(1))[0], 0)
slow = iter(llmbatch.as_completed(chats(5), requests_per_minute=1, **place(sys.argv[1])))
next(slow)
child = os.fork()
if child == 0:
    ok = all(answered(row, i) for i, row in enumerate(batch(sys.argv[1], chats(5), deadline=30)))
    sys.stdout.write("child " + str(ok)); sys.stdout.flush(); os._exit(0)
os.waitpid(child, 0)
slow.close()
assert answered(batch(sys.argv[1], chats(1))[0], 0)
"""


@pytest.mark.processes
def test_after_a_fork(warm: Warm, server: Server) -> None:
    """A forked worker has a loop of its own, and limits that no batch of its parent holds."""
    with warm.script(FORKED, server.api_base) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (0, "child True"), err


EVERYTHING = """
import asyncio, sys, threading, warnings, llmbatch
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "Accessing the 'model_", DeprecationWarning)  # LiteLLM's, of each streamed piece
from tests.talk import batch, chats, place
base = sys.argv[1]
given = place(base)
assert not batch(base, chats(3)).failed
assert not batch(base, chats(3), stream=True).failed
assert not batch(base, chats(2), model="hosted_vllm/m").failed
batch("http://127.0.0.1:9/v1", chats(1), retries=0)
assert not llmbatch.create_embeddings_batch(["a", "b"], **{**given, "model": "openai/e"}).failed
for _ in range(3):
    asyncio.run(llmbatch.acreate_chat_completions_batch(chats(2), **given))
for index, row in llmbatch.as_completed(chats(9), **given):
    break
for event in llmbatch.stream_chat_completions_batch(chats(9), **given):
    break
thread = threading.Thread(target=lambda: batch(base, chats(2)))
thread.start()
thread.join()
async def cancelled():
    task = asyncio.ensure_future(llmbatch.acreate_chat_completions_batch(chats(50), **given))
    await asyncio.sleep(0.02)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
asyncio.run(cancelled())
abandoned = iter(llmbatch.as_completed(chats(50), **given))
next(abandoned)
print("done")
"""


@pytest.mark.processes
def test_a_script_that_uses_everything_ends_without_a_word(warm: Warm, server: Server) -> None:
    """No "unclosed session", no "event loop is closed", no task destroyed, with warnings as errors.

    Not even for an iterator that is neither finished nor closed.
    """
    server.set(latency=0.005)
    with warm.script(EVERYTHING, server.api_base) as process:
        out, err = process.communicate()
    assert (process.returncode, out.strip(), err) == (0, "done", "")
