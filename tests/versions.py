"""The versions that llmbatch stands on: the lowest that it admits, the pins of this checkout, the newest.

    uv run python -m tests.versions                    # proves all three in throw-away environments (15 minutes)
    uv run python -m tests.versions newest --contract  # a minute's look: what llmbatch knows of LiteLLM, on the newest
    uv run python -m tests.versions --renew            # writes the pins anew into pyproject.toml: the newest of all

The pins bind this checkout (tests, lint, types, CI), not who installs the package.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PROJECT = ROOT / "pyproject.toml"
UV = shutil.which("uv") or "uv"
NAME = re.compile(r"[\w.-]+")
PINS = "constraint-dependencies"
COLUMNS = ("", "litellm", "openai", "pydantic", "tests", "first call's stderr, lines", "good rows under -W error",
           "short cuts", "CPU of bare (openai/, hosted_vllm/)", "of AsyncOpenAI")  # fmt: skip
FIRST_CALL = """
import llmbatch
from tests.server import server_process
from tests.talk import chats, place
if __name__ == "__main__":
    with server_process(log=False) as server:
        rows = [row for route in ("openai/gpt-4o-mini", "hosted_vllm/x") for at in [place(server.api_base, model=route)]
                for row in (*llmbatch.create_chat_completions_batch(chats(20), progress=False, **at),
                            *(e["row"] for e in llmbatch.stream_chat_completions_batch(chats(20), **at) if "row" in e))]
    print(sum("error" not in row for row in rows), "of", len(rows))
"""
SHORT_CUTS = """
from llmbatch._litellm.private_api import is_available
print(*filter(is_available, ["quiet", "linear"]))
"""


def project() -> dict[str, Any]:
    """What `pyproject.toml` says."""
    return tomllib.loads(PROJECT.read_text())


def needs() -> tuple[list[str], list[str]]:
    """What the package asks for, with its extras, and what its development asks for besides."""
    told = project()
    own = told["project"]["dependencies"] + [n for e in told["project"]["optional-dependencies"].values() for n in e]
    names = {NAME.match(need)[0] for need in own}  # type: ignore[index]
    return own, [need for need in told["dependency-groups"]["dev"] if NAME.match(need)[0] not in names]  # type: ignore[index]


def resolved(requirements: list[str], *options: str) -> list[str]:
    """Exact versions, for every Python and platform that the project is for, of requirements and what they need."""
    text = PROJECT.read_text()
    with tempfile.TemporaryDirectory() as folder:
        # Without the pins, with all else that the project tells uv.
        (Path(folder) / "pyproject.toml").write_text(re.sub(rf"({PINS} = )\[[^]]*\]", r"\1[]", text))
        command = [UV, "pip", "compile", "--quiet", "--universal", "--no-header", "--no-annotate", *options]
        floor = project()["project"]["requires-python"].removeprefix(">=")
        done = subprocess.run([*command, "--python-version", floor, "-"], cwd=folder, text=True, check=True,
                              input="\n".join(requirements), stdout=subprocess.PIPE)  # fmt: skip
    return done.stdout.splitlines()


def requirements(which: str) -> list[str]:
    """All packages of an environment. The floors are the package's own: they are proven with the tools of today."""
    own, tools = needs()
    pins = project()["tool"]["uv"][PINS]
    if which == "pin":
        return list(pins)
    if which == "newest":
        return resolved(own + tools)
    pinned = {NAME.match(pin)[0]: pin for pin in pins}  # type: ignore[index]
    return resolved(own + [pinned[NAME.match(tool)[0]] for tool in tools], "--resolution", "lowest-direct")  # type: ignore[index]


def renew() -> None:
    """Write the newest versions of everything into `pyproject.toml`."""
    own, tools = needs()
    found = {PINS: resolved(own + tools), f"build-{PINS}": resolved(project()["build-system"]["requires"])}
    for name, pins in found.items():
        lines = "".join(f'    "{pin}",\n' for pin in pins)
        text = re.sub(rf"(?m)^({name} = )\[[^]]*\]", lambda at: f"{at[1]}[\n{lines}]", PROJECT.read_text())  # noqa: B023
        PROJECT.write_text(text)


def prove(which: str, folder: Path, *, contract: bool) -> tuple[list[str], bool]:
    """A line of the table, and whether all tests have passed, in an environment made for it."""
    python = folder / which / "bin" / "python"
    listed = folder / f"{which}.txt"
    listed.write_text("\n".join(requirements(which)))
    install = [UV, "pip", "install", "--quiet", "--python", str(python), "--no-deps"]
    for command in (
        [UV, "venv", "--quiet", "--python", f"{sys.version_info[0]}.{sys.version_info[1]}", str(folder / which)],
        [*install, "--compile-bytecode", "-r", str(listed)],
        [*install, "--editable", str(ROOT)],
    ):
        subprocess.run(command, check=True, cwd=folder)  # where no pins bind

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "VIRTUAL_ENV": str(folder / which)}
        return subprocess.run(
            [python, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    tests = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *(["-m", "contract"] if contract else []))
    print(*(line for line in tests.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), sep="\n", flush=True)
    tally = tests.stdout.splitlines()[-1].strip("= ") if tests.stdout else tests.stderr[-200:]
    script = folder / "first_call.py"
    script.write_text(FIRST_CALL)
    first, strict = run(str(script)), run("-W", "error", str(script))
    short = run("-c", SHORT_CUTS)
    versions = [re.search(rf"(?m)^{name}==(\S+)", listed.read_text())[1] for name in COLUMNS[1:4]]  # type: ignore[index]
    line = [which, *versions, tally, str(len(first.stderr.splitlines())), strict.stdout.strip(), short.stdout.strip()]
    return [*line, *([] if contract else _cpu(run))], tests.returncode == 0


def _cpu(run: Any) -> list[str]:
    """Ratios of CPU a row, from the benchmark's medians."""
    said = run("-m", "tests.benchmarks.throughput", "--rounds", "7").stdout
    found = {name: [float(x) for x in re.findall(rf": {name}: median CPU a row ([\d.]+)x", said)]
             for name in ("llmbatch", "openai SDK")}  # fmt: skip
    of_sdk = [f"{ours / sdk:.2f}" for ours, sdk in zip(found["llmbatch"], found["openai SDK"], strict=True)]
    return [", ".join(f"{ratio:.2f}" for ratio in found["llmbatch"]), ", ".join(of_sdk)]


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help="floor, pin, newest (all, if none is named)")
    parser.add_argument("--contract", action="store_true", help="only what llmbatch knows of LiteLLM's internals")
    parser.add_argument("--renew", action="store_true", help="write the pins anew")
    given = parser.parse_args()
    if given.renew:
        renew()
        return
    good = True
    print("|", " | ".join(COLUMNS), "|\n|" + "---|" * len(COLUMNS), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for which in given.which or ("floor", "pin", "newest"):
            line, passed = prove(which, Path(folder), contract=given.contract)
            print("|", " | ".join(line), "|", flush=True)
            good &= passed
    sys.exit(not good)


if __name__ == "__main__":
    main()
