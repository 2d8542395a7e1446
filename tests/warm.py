"""An `llmbatch` for the PATH that spares each command the seconds in which a process imports LiteLLM.

One process has imported it, and forks a child for each command line, in the caller's folder, with its input and output.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.talk import script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FORKING = """
import json, os, signal, socket, sys
import openai.resources.chat.completions
from llmbatch._litellm import load
from llmbatch.cli import main
load()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print(flush=True)
while True:
    caller, _ = listener.accept()
    told, files, *_ = socket.recv_fds(caller, 65536, 3)
    if os.fork():
        for file in (*files, caller.detach()):
            os.close(file)
        continue
    for number, file in enumerate(files):
        os.dup2(file, number)
    folder, *arguments = json.loads(told)
    os.chdir(folder)
    try:
        main(arguments, "llmbatch")
    except SystemExit as done:
        sys.stdout.flush()
        caller.sendall(str(int(done.code or 0)).encode())
    os._exit(0)
"""
_ASKING = """#!{python} -SE
import json, os, socket, sys
caller = socket.socket(socket.AF_UNIX)
caller.connect({address!r})
socket.send_fds(caller, [json.dumps([os.getcwd(), *sys.argv[1:]]).encode()], [0, 1, 2])
sys.exit(int(caller.recv(9) or 70))
"""


@contextmanager
def warm_command(folder: Path) -> Iterator[None]:
    """`folder` has the command, while it lasts."""
    address = str(folder / "socket")
    command = folder / "llmbatch"
    command.write_text(_ASKING.format(python=sys.executable, address=address))
    command.chmod(0o700)
    with script(_FORKING, address, flags=()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
