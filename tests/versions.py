"""Prove the versions that llmbatch supports: the lowest dependencies, the pins, the newest, and every Python.

    uv run python -m tests.versions                    # proves all three in throw-away environments (15 minutes)
    uv run python -m tests.versions pin --python       # the pins on every Python that is found (3 minutes for each)
    uv run python -m tests.versions pin --python 3.13 /usr/bin/python3.11   # on these
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

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = ROOT / "pyproject.toml"
UV = shutil.which("uv") or "uv"
NAME = re.compile(r"[\w.-]+")
PINS = "constraint-dependencies"
COLUMNS = ("", "Python", "left out", "litellm", "openai", "pydantic", "tests", "first call's stderr, lines",
           "good rows under -W error", "short cuts",
           "CPU of bare (openai/, hosted_vllm/)", "of AsyncOpenAI")  # fmt: skip
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
print(*filter(is_available, ["quiet_logging", "fast_prices"]))
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


def pythons() -> dict[str, str | None]:
    """Return where each Python that the project supports is on this machine, None for one that is not."""
    found: dict[str, str | None] = {}
    for classifier in project()["project"]["classifiers"]:
        if version := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier):
            command = [UV, "python", "find", "--no-project", "--no-python-downloads", version[1]]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found[version[1]] = done.stdout.strip() or None
    return found


def left_out(version: str) -> list[str]:
    """Return the packages that the project does not ask for on this Python."""
    python = {"python_version": version.rpartition(".")[0], "python_full_version": version}
    asked = [Requirement(need) for group in needs() for need in group]
    return sorted({need.name for need in asked if need.marker and not need.marker.evaluate(python)})


def renew() -> None:
    """Write the newest versions of everything into `pyproject.toml`."""
    own, tools = needs()
    found = {PINS: resolved(own + tools), f"build-{PINS}": resolved(project()["build-system"]["requires"])}
    for name, pins in found.items():
        lines = "".join(f'    "{pin}",\n' for pin in pins)
        text = re.sub(rf"(?m)^({name} = )\[[^]]*\]", lambda at: f"{at[1]}[\n{lines}]", PROJECT.read_text())  # noqa: B023
        PROJECT.write_text(text)


def prove(which: str, folder: Path, on: str, *chosen: str, benchmark: bool) -> tuple[list[str], bool]:
    """Return a line of the table, and whether all tests have passed, in an environment made for it.

    `on` is the Python, as uv finds one. `chosen` are pytest's options.
    """
    place = Path(tempfile.mkdtemp(dir=folder))
    python = place / "venv" / "bin" / "python"
    listed = place / "requirements.txt"
    listed.write_text("\n".join(requirements(which)))
    install = [UV, "pip", "install", "--quiet", "--python", str(python), "--no-deps"]
    for command in (
        [UV, "venv", "--quiet", "--python", on, str(place / "venv")],
        [*install, "--compile-bytecode", "-r", str(listed)],
        [*install, "--editable", str(ROOT)],
    ):
        subprocess.run(command, check=True, cwd=folder)  # where no pins bind

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "VIRTUAL_ENV": str(place / "venv")}
        return subprocess.run(
            [python, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    version = run("-c", "import platform; print(platform.python_version())").stdout.strip()
    tests = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen)
    print(*(line for line in tests.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), sep="\n", flush=True)
    row_stats = tests.stdout.splitlines()[-1].strip("= ") if tests.stdout else tests.stderr[-200:]
    script = place / "first_call.py"
    script.write_text(FIRST_CALL)
    first, strict = run(str(script)), run("-W", "error", str(script))
    short = run("-c", SHORT_CUTS)
    versions = [re.search(rf"(?m)^{name}==(\S+)", listed.read_text())[1] for name in COLUMNS[3:6]]  # type: ignore[index]
    line = [
        which,
        version,
        ", ".join(left_out(version)),
        *versions,
        row_stats,
        str(len(first.stderr.splitlines())),
        strict.stdout.strip(),
        short.stdout.strip(),
    ]
    return [*line, *(_cpu(run) if benchmark else [])], tests.returncode == 0


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
    parser.add_argument(
        "--python", nargs="*", help="Pythons to run the quick half on (every one found, if none is named)"
    )
    parser.add_argument("--renew", action="store_true", help="write the pins anew")
    given = parser.parse_args()
    if given.renew:
        renew()
        return
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    chosen = ["-m", "contract"] if given.contract else [] if given.python is None else ["-m", "not processes"]
    missing = [version for version, found in pythons().items() if not found] if given.python == [] else []
    print(*(f"Python {version} is not on this machine" for version in missing), sep="\n", end="\n" if missing else "")
    found = given.python or ([here] if given.python is None else list(filter(None, pythons().values())))
    good = True
    print("|", " | ".join(COLUMNS), "|\n|" + "---|" * len(COLUMNS), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for which in given.which or ("floor", "pin", "newest"):
            for python in found:
                line, passed = prove(which, Path(folder), python, *chosen, benchmark=not chosen)
                print("|", " | ".join(line), "|", flush=True)
                good &= passed
    sys.exit(not good)


if __name__ == "__main__":
    main()
