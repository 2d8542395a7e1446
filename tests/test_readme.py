"""The README's code runs, as it stands, against a loopback provider."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from loguru import logger

import llmbatch
from llmbatch.options import Options
from llmbatch.providers import registry
from tests import versions
from tests.batch_server import BatchProvider
from tests.replies import chat_reply

if TYPE_CHECKING:
    from tests.server import Request, Server
    from tests.warm import Warm

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = ROOT / "examples"
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SENTIMENT = '{"positive": true, "reason": "It says so."}'


@pytest.fixture
def desk(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """A reader's empty folder and keys; the loopback server is OpenAI, with batch jobs, and Copilot."""
    BatchProvider(server)
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "GITHUB_COPILOT_API_BASE"):
        monkeypatch.setenv(name, server.api_base)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("GITHUB_TOKEN", "gho_test")
    monkeypatch.setenv("COPILOT_REQUESTS_PER_MINUTE", "6000")
    files = server.handler

    def answers(request: Request) -> Any:
        if isinstance(request.json, dict) and "response_format" in request.json:
            reply = chat_reply(request)
            reply.body["choices"][0]["message"]["content"] = SENTIMENT
            return reply
        return files(request) if files else None

    server.handler = answers
    return server


@pytest.mark.usefixtures("desk")
def test_every_block_runs() -> None:
    """The Python blocks, in their order and in one namespace, as a reader would run them."""
    shutil.copytree(ROOT / "cassettes", "cassettes")
    namespace: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"README.md, Python block {number + 1}", "exec"), namespace)  # noqa: S102 - it is our own
        if "results" in namespace:
            assert not namespace["results"].failed, f"block {number + 1}"


@pytest.mark.processes
@pytest.mark.nightly
def test_a_type_checker_accepts_every_block(tmp_path: Path) -> None:
    """In strict mode mypy finds nothing in the Python blocks, one after the other."""
    (tmp_path / "readme.py").write_text("\n".join(BLOCKS))
    command = [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "readme.py")]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.usefixtures("desk")
def test_help_of_every_function_has_an_example_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands in `help()`, given `chats`; a few leave behind what others read."""
    monkeypatch.setattr(registry, "_providers", dict(registry._providers))
    names = {name: getattr(llmbatch, name) for name in llmbatch.__all__}
    Path("photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("clip.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVE")
    Path("report.pdf").write_bytes(b"%PDF-1.7")
    namespace = {**names, "chats": [[{"role": "user", "content": text}] for text in ("Hi", "Ho")]}
    for name in dict.fromkeys(["write_batch_file", "submit_batch_job", "Provider", *names]):
        example = (inspect.getdoc(names[name]) or "").partition("Example:\n")[2]
        assert example or inspect.isclass(names[name]), f"{name} has no example"
        code = compile(textwrap.dedent(example), name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if (awaiting := eval(code, namespace)) is not None:  # noqa: S307 - it is our own
            asyncio.run(awaiting)
    logger.disable("llmbatch")


class Table:
    """Stands for a dataset of Ray or a frame of Spark, and works on its one block at once."""

    def __init__(self, frame: Any) -> None:
        self.frame = frame

    def map_batches(self, cls: Any, *, fn_constructor_args: Any, fn_constructor_kwargs: Any, **_: Any) -> Table:
        return Table(cls(*fn_constructor_args, **fn_constructor_kwargs)(self.frame))

    def mapInPandas(self, function: Any, schema: Any) -> None:  # noqa: N802 - Spark's name
        (made,) = function(iter([self.frame]))
        assert made["answer"].notna().all()

    def write_parquet(self, path: str) -> None:
        assert self.frame["answer"].notna().all()
        self.frame.to_parquet(path)


@pytest.mark.processes
@pytest.mark.usefixtures("desk")
def test_the_shell_commands_run(warm: Warm, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> None:
    """Each line in a shell of its own, as pasted; where there is no jq, the summary is only passed on."""
    Path("prompts.jsonl").write_text('{"prompt": "Capital of France?"}\n{"prompt": "Capital of Italy?"}\n')
    Path("reviews.csv").write_text("review\nA good hotel\n")
    Path("city.json").write_text('{"title": "city", "type": "object", "properties": {"name": {"type": "string"}}}')
    (block,) = (found for found in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "llmbatch run" in found)
    path = tmp_path_factory.mktemp("bin")
    warm.command(path)
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    for command in block.splitlines():
        pasted = command if shutil.which("jq") else command.replace("jq .cost", "cat")
        shell = [shutil.which("bash") or "bash", "-o", "pipefail", "-c", pasted]
        done = subprocess.run(shell, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert len(Path("answers.jsonl").read_text().splitlines()) == 2


OTHERS = {EXAMPLES / f"{name}.py" for name in ("demo_batch_completions", "clusters", "streamlit_app")}
RECIPES = sorted(set(EXAMPLES.glob("*.py")) - OTHERS)


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(recipe, marks=[pytest.mark.processes] * (recipe.stem == "past_one_core")) for recipe in RECIPES],
    ids=lambda recipe: recipe.stem,
)
def test_a_recipe_runs(recipe: Path, desk: Server, request: pytest.FixtureRequest) -> None:
    """As it stands, and what it calls `results` has no failed row."""
    if recipe.stem == "local_model":
        request.getfixturevalue("local_model")
    shutil.copytree(ROOT / "cassettes", "cassettes")
    done = runpy.run_path(str(recipe), run_name="__main__")
    assert not done["results"].failed if "results" in done else desk.requests
    logger.disable("llmbatch")


def test_the_recipe_for_clusters_runs(desk: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Dask as it is; for Ray and Spark a table stands in, which `test_ray.py` puts in its place."""
    import pandas as pd

    frame = pd.DataFrame({"text": ["good", "bad"]})
    dask = pytest.importorskip("dask.dataframe").from_pandas(frame, npartitions=1)
    pytest.importorskip("ray")
    monkeypatch.setattr("ray.data.read_parquet", lambda path: Table(frame))
    code = (EXAMPLES / "clusters.py").read_text().replace("/shared/answers", "shared")
    recipe: dict[str, Any] = {"__name__": "clusters"}
    exec(code, recipe)  # noqa: S102 - it is our own
    recipe["on_ray"]("reviews", "answers")
    recipe["on_dask"](dask)
    recipe["on_spark"](Table(frame), None)
    assert len(desk.requests) == 4, "Dask waits for compute()"
    assert recipe["on_partitions"](dask).compute()["answer"].notna().all()


@pytest.mark.usefixtures("desk")
def test_the_recipe_for_streamlit_runs() -> None:
    """A click answers the table, as streamlit's own test of an app sees it."""
    app = pytest.importorskip("streamlit.testing.v1").AppTest.from_file(str(EXAMPLES / "streamlit_app.py")).run()
    app.button[0].click().run(timeout=60)
    assert not app.exception
    assert app.dataframe[0].value["answer"].notna().all()


def test_every_recipe_is_linked() -> None:
    """The README names each file of `examples/`, and links to nothing that is not there."""
    linked = set(re.findall(r"\(examples/([\w.]+)\)", README)) | set(re.findall(r"examples/([\w.]+)", README))
    assert linked == {path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".ipynb"}}


def test_every_public_name_and_option_is_in_the_reference() -> None:
    """A name or option that users can pass is in the README."""
    missing = [name for name in llmbatch.__all__ if not re.search(rf"\b{name.removeprefix('a')}\b|\b{name}\b", README)]
    assert missing == []
    assert [name for name in Options.__dataclass_fields__ if f"`{name}`" not in README] == []


def test_readme_table_of_failure_types_is_complete() -> None:
    """It names each member of `FailureType` once, and nothing else."""
    table = README.partition("## Errors")[2].partition("## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(kind.value for kind in llmbatch.FailureType)


def test_readme_table_of_options_has_the_defaults() -> None:
    """Numbers, flags and words are those of `Options`; "none" is None or empty."""
    table = README.partition("## Options")[2].partition("## ")[0]
    shown: dict[str, str] = {}
    for row in table.splitlines():
        if row.startswith("| `"):
            _, names, defaults, *_ = (cell.strip() for cell in row.split("|"))
            listed = re.findall(r"`(\w+)`", names)
            shown |= dict(zip(listed, defaults.split(", ") if len(listed) > 1 else [defaults], strict=False))
    for name, field in Options.__dataclass_fields__.items():
        default = "none" if field.default in (None, ()) else str(field.default).removesuffix(".0")
        assert shown.get(name, default).strip('`"') in {default, "learned", "derived", "None"}, name


def test_readme_has_at_most_200_lines() -> None:
    """A stranger reads it whole."""
    assert len(README.splitlines()) <= 200


def test_every_package_is_pinned_and_the_proven_versions_are_named() -> None:
    """All that is asked for has an exact version, and CONTRIBUTING names LiteLLM's and the SDK's."""
    own, tools = versions.needs()
    told = versions.project()
    pins = dict(pin.partition(" ")[0].split("==") for pin in told["tool"]["uv"]["constraint-dependencies"])
    building = dict(pin.split("==") for pin in told["tool"]["uv"]["build-constraint-dependencies"])
    for known, needed in ((pins, own + tools), (building, told["build-system"]["requires"])):
        assert {re.match(r"[\w.-]+", need)[0] for need in needed} <= known.keys()  # type: ignore[index]
    (floor,) = (need.partition(">=")[2].partition(",")[0] for need in own if need.startswith("litellm"))
    for proven in (f"LiteLLM {floor}", f"LiteLLM {pins['litellm']}", f"{pins['openai']} (the pins)"):
        assert proven in " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
