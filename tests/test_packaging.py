"""What is released: it builds, installs with pip alone, and runs where nothing of this checkout is."""

from __future__ import annotations

import ensurepip
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.test_readme import BLOCKS, ROOT

if TYPE_CHECKING:
    from tests.server import Server

pytestmark = [pytest.mark.processes, pytest.mark.nightly]


def ran(*command: str | Path, **how: Any) -> str:
    """What the command prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_of_the_source_distribution_runs_in_a_bare_environment(server: Server, tmp_path: Path) -> None:
    """Pip finds the dependencies in place, offline, and the README's first example answers."""
    pytest.importorskip("hatchling")
    ran(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        # Python 3.11.4 brought the filters.
        sources.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        sources.extractall(tmp_path)  # noqa: S202 - filtered, where Python can
    (unpacked,) = tmp_path.glob("llmbatch-*/")
    assert (unpacked / "tests" / "test_packaging.py").exists()
    ran(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=unpacked)
    (wheel,) = tmp_path.glob("*.whl")

    ran(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    installed = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")}))
    # The dependencies, without this checkout, which that folder's own files name.
    (installed / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (pip,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    at = {"cwd": tmp_path, "env": {**environment, "OPENAI_BASE_URL": server.api_base, "OPENAI_API_KEY": "sk-test"}}
    bin_ = tmp_path / "env" / "bin"
    ran(bin_ / "python", pip / "pip", "install", "--no-index", "--no-cache-dir", wheel, **at)

    out = ran(bin_ / "python", "-W", "error", "-c", f"import llmbatch; print(llmbatch.__file__)\n{BLOCKS[0]}", **at)
    file, *lines = out.splitlines()
    assert Path(file).is_relative_to(installed)
    assert [line.partition(" -> ")[1:2] for line in lines[:3]] == [(" -> ",)] * 3
    assert lines[3].startswith("3/3 rows succeeded")
    assert len(server.requests) == 3
    assert "Usage: llmbatch" in ran(bin_ / "llmbatch", "--help", **at)
    (told,) = installed.glob("llmbatch-*.dist-info")
    assert "MIT License" in (told / "licenses" / "LICENSE").read_text()
    needed = re.findall(r"(?m)^Requires-Dist: (?!.*extra ==)(.*)", (told / "METADATA").read_text())
    assert len(needed) == 6
    assert not [need for need in needed if "==" in need], "ranges, no pins"
    assert {path.name for path in installed.glob("*/__init__.py")} & {"tests", "examples"} == set()
