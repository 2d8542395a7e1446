"""Tests that are collected once and run in many forks, each of which may first change something of its own."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from llmbatch._litellm import load
from tests.effort import set_effort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["Forks", "Ran", "Task", "collected"]

FORKS = 4  # at once, more than cores: most of a test is waiting
# Seconds after which a test hangs: so many, and so many times what it usually takes.
LONGEST_SILENCE, TIMES_SLOWER = 15.0, 10


@dataclass(eq=False)
class Task:
    """Tests to be run up to the first that fails, after `prepare`; `subject` is the caller's."""

    tests: list[pytest.Item]
    subject: Any = None
    prepare: Callable[[], object] | None = None
    told: Callable[[], object] | None = None  # asked after each test
    keep_going: bool = False
    usual: Mapping[pytest.Item, float] = field(default_factory=dict)  # seconds that each takes, 30 unless it says


@dataclass
class Ran:
    """What became of a test."""

    test: str
    passed: bool
    seconds: float
    told: Any = None


@dataclass(eq=False)
class _Fork:
    task: Task
    pid: int
    pipe: int
    heard_at: float = field(default_factory=time.monotonic)
    heard: bytes = b""
    hung: bool = False

    def listen(self) -> bool:
        """Whether there is more to come."""
        news = os.read(self.pipe, 1 << 20)
        self.heard += news
        self.heard_at = time.monotonic()
        return bool(news)

    def impatient(self) -> None:
        """End it when it hangs."""
        running = self.task.tests[min(self.heard.count(b"\n"), len(self.task.tests) - 1)]
        if time.monotonic() - self.heard_at > LONGEST_SILENCE + TIMES_SLOWER * self.task.usual.get(running, 30.0):
            self.hung = True
            self.kill()

    def kill(self) -> None:
        """It and what it has started."""
        os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> list[Ran]:
        """What its tests have come to; one that did not come back has failed."""
        self.kill()
        os.waitpid(self.pid, 0)
        os.close(self.pipe)
        ran = [Ran(**json.loads(line)) for line in self.heard.splitlines()]
        if len(ran) < len(self.task.tests) and all(one.passed for one in ran):
            ran.append(Ran(self.task.tests[len(ran)].nodeid, passed=False, seconds=0.0))
        return ran


class Forks:
    """Runs tasks in forks of a process that has imported everything and run nothing."""

    def __init__(self, session: pytest.Session, folder: str) -> None:
        self.session, self.folder = session, folder
        self.tests = session.items
        self._running: dict[int, _Fork] = {}

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, list[Ran], bool]]:
        """Each task with what its tests came to, and whether the last of them hung."""
        left = iter(tasks)
        try:
            while True:
                while len(self._running) < FORKS and (task := next(left, None)):
                    if task.tests:
                        fork = self._fork(task)
                        self._running[fork.pipe] = fork
                    else:
                        yield task, [], False
                if not self._running:
                    return
                for fork in self._ended():
                    del self._running[fork.pipe]
                    yield fork.task, fork.end(), fork.hung
        finally:
            for fork in self._running.values():
                fork.end()
            self._running.clear()

    def import_what_they_import(self) -> None:
        """Before any of them does; garbage is not looked for among what is there already."""
        some = Task(self.tests[::5], told=lambda: list(sys.modules), keep_going=True)
        for _, ran, _ in self.run([some]):
            for name in ran[-1].told:
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
        sys.modules["tests.conftest"]._freeze()

    def _ended(self) -> list[_Fork]:
        with selectors.DefaultSelector() as selector:
            for fork in self._running.values():
                fork.impatient()
                selector.register(fork.pipe, selectors.EVENT_READ, fork)
            return [key.data for key, _ in selector.select(1.0) if not key.data.listen()]

    def _fork(self, task: Task) -> _Fork:
        ours, theirs = os.pipe()
        if pid := os.fork():
            os.close(theirs)
            return _Fork(task, pid, ours)
        try:
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(nowhere, standard)
            self._run(task, theirs)
        finally:
            os._exit(0)

    def _run(self, task: Task, pipe: int) -> NoReturn:
        factory = self.session.config._tmp_path_factory  # type: ignore[attr-defined]  # each has folders of its own
        factory._basetemp = Path(tempfile.mkdtemp(dir=self.folder))
        if task.prepare:
            task.prepare()
        left = deque(task.tests)
        while left:
            test, failed, began = left.popleft(), self.session.testsfailed, time.monotonic()
            test.config.hook.pytest_runtest_protocol(item=test, nextitem=left[0] if left else None)
            passed = self.session.testsfailed == failed
            ran = Ran(test.nodeid, passed, time.monotonic() - began, task.told and task.told())
            os.write(pipe, json.dumps(vars(ran)).encode() + b"\n")
            if not passed and not task.keep_going:
                break
        os._exit(0)


class _Instead:
    def __init__(self, work: Callable[[Forks], object]) -> None:
        self.work = work

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of running them."""
        load()
        with tempfile.TemporaryDirectory(prefix="llmbatch-forks-", ignore_cleanup_errors=True) as folder:
            forks = Forks(session, folder)
            forks.import_what_they_import()
            self.work(forks)
        return True


def collected(files: list[str], work: Callable[[Forks], object]) -> None:
    """Collect the quick tests of these files and do some work with them."""
    set_effort("mutants")
    options = ["-qq", "-s", "-o", "addopts=", "-o", "timeout=0", "-p", "no:cacheprovider", "-m", "not processes"]
    if pytest.main([*options, *files], plugins=[_Instead(work)]) not in {0, pytest.ExitCode.NO_TESTS_COLLECTED}:
        raise SystemExit(1)
