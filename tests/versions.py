"""The versions that llmbatch stands on: the lowest that it admits, the pins of this checkout, the newest.

    uv run python -m tests.versions --renew    # writes the pins anew into pyproject.toml: the newest of everything

The pins bind this checkout (tests, lint, types, CI), not who installs the package.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = ROOT / "pyproject.toml"
UV = shutil.which("uv") or "uv"


def resolved(requirements: list[str], *options: str) -> list[str]:
    """Exact versions, for every Python and platform that the project is for, of requirements and what they need."""
    text = PROJECT.read_text()
    with tempfile.TemporaryDirectory() as folder:
        # Without the pins, with all else that the project tells uv.
        (Path(folder) / "pyproject.toml").write_text(re.sub(r"(constraint-dependencies = )\[[^]]*\]", r"\1[]", text))
        command = [UV, "pip", "compile", "--quiet", "--universal", "--no-header", "--no-annotate", *options]
        floor = tomllib.loads(text)["project"]["requires-python"].removeprefix(">=")
        done = subprocess.run([*command, "--python-version", floor, "-"], cwd=folder, text=True, check=True,
                              input="\n".join(requirements), stdout=subprocess.PIPE)  # fmt: skip
    return done.stdout.split("\n")[:-1]


def renew() -> None:
    """Write the newest versions of everything into `pyproject.toml`."""
    project = tomllib.loads(PROJECT.read_text())
    extras = [need for needs in project["project"]["optional-dependencies"].values() for need in needs]
    needs = project["project"]["dependencies"] + extras + project["dependency-groups"]["dev"]
    _write("constraint-dependencies", resolved(needs))
    _write("build-constraint-dependencies", resolved(project["build-system"]["requires"]))


def _write(name: str, pins: list[str]) -> None:
    lines = "".join(f'    "{pin}",\n' for pin in pins)
    text = re.sub(rf"(?m)^({name} = )\[[^]]*\]", lambda found: f"{found[1]}[\n{lines}]", PROJECT.read_text())
    PROJECT.write_text(text)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renew", action="store_true", help="write the pins anew")
    if parser.parse_args().renew:
        renew()


if __name__ == "__main__":
    main()
