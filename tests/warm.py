"""Scripts and commands that are spared the seconds in which a process imports LiteLLM.

One process has imported it, and forks a child for each: a process like any other, in the caller's folder, with its
environment, input and output, that can be killed and waited for.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.talk import script

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORKING = """
import gc, json, os, select, signal, socket, sys
import openai.resources.chat.completions
import llmbatch.cli, tests.talk, tests.batch_server
from llmbatch._litellm import load
load()
gc.freeze()  # for a child, the interpreter's last collections would take a second
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print(flush=True)
while True:
    if 0 in select.select([listener, 0], [], [])[0]:
        sys.exit()
    caller, _ = listener.accept()
    told, files, *_ = socket.recv_fds(caller, 65536, 3)
    if not os.fork():
        break
    for file in (*files, caller.detach()):
        os.close(file)
listener.close()
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
if child := os.fork():
    for file in (0, 1, 2, *files):
        os.close(file)
    caller.sendall(f"{child:10}".encode())
    caller.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    os._exit(0)
caller.close()
for number, file in enumerate(files):
    os.dup2(file, number)
    os.close(file)
folder, environment, code, *sys.argv[1:] = json.loads(told)
os.chdir(folder)
os.environ.clear()
os.environ.update(environment)
exec(compile(code, "<script>", "exec"), {"__name__": "__main__"})
"""
_ASKING = """#!{python} -SE
import json, os, socket, sys
caller = socket.socket(socket.AF_UNIX)
caller.connect({address!r})
told = [os.getcwd(), dict(os.environ), "from llmbatch.cli import main; main(prog_name='llmbatch')", *sys.argv[1:]]
socket.send_fds(caller, [json.dumps(told).encode()], [0, 1, 2])
caller.recv(10, socket.MSG_WAITALL)
sys.exit(int(caller.recv(9) or 70))
"""


class Forked:
    """As much of a `subprocess.Popen` as tests need."""

    def __init__(self, address: str, code: str, *arguments: str, terminal: int | None = None) -> None:
        self._caller = socket.socket(socket.AF_UNIX)
        self._caller.connect(address)
        ends = [os.pipe() for _ in range(3)]
        self.stdin, self.stdout, self.stderr = os.fdopen(ends[0][1], "w"), os.fdopen(ends[1][0]), os.fdopen(ends[2][0])
        theirs = [ends[0][0], ends[1][1], ends[2][1]]
        shown = theirs if terminal is None else [theirs[0], terminal, terminal]
        told = [str(Path.cwd()), dict(os.environ), code, *arguments]
        socket.send_fds(self._caller, [json.dumps(told).encode()], shown)
        for end in theirs:
            os.close(end)
        self.pid = int(self._caller.recv(10, socket.MSG_WAITALL))
        self.returncode: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self.wait()
        for end in (self.stdin, self.stdout, self.stderr, self._caller):
            end.close()

    def wait(self) -> int:
        """The exit code, negative for the signal that ended it."""
        if self.returncode is None:
            self.returncode = int(self._caller.recv(9))
        return self.returncode

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.returncode is None and select.select([self._caller], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """To the process, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """At once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """What it prints until it has ended, to stdout and to stderr."""
        self.stdin.close()
        with ThreadPoolExecutor(2) as pool:  # at once: it must not wait for one while we wait for the other
            said, complained = pool.map(lambda end: end.read(), (self.stdout, self.stderr))
        self.wait()
        return said, complained


@dataclass(frozen=True)
class Warm:
    """A process that forks scripts and commands."""

    address: str

    def script(self, code: str, *arguments: str, terminal: int | None = None) -> Forked:
        """A process that runs `code`; its input and output are piped, or go to a terminal."""
        return Forked(self.address, code, *arguments, terminal=terminal)

    def command(self, folder: Path) -> None:
        """`folder`, for the PATH, has an `llmbatch`."""
        command = folder / "llmbatch"
        command.write_text(_ASKING.format(python=sys.executable, address=self.address))
        command.chmod(0o700)


@contextmanager
def started(folder: Path) -> Iterator[Warm]:
    """The forking process, which ends with this one at the latest; its socket is in `folder`."""
    address = str(folder / "socket")
    given = {"stdin": subprocess.PIPE, "cwd": Path(__file__).parent.parent}
    with script(_FORKING, address, flags=(), **given) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield Warm(address)
