"""The project's shape: who may import whom, what is public, and what importing costs."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import jedi
import pytest

import llmbatch
from llmbatch.cli.run_command import run
from llmbatch.options import CHATS_ONLY, ChatOptions, EmbeddingsOptions, Options

ROOT = Path(llmbatch.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

MODULE_NAMES = {module.removeprefix("llmbatch.") for module in MODULES}
TABLE = (ROOT.parent / "CONTRIBUTING.md").read_text().partition("## Layers")[2].partition("##")[0]
# The layers of CONTRIBUTING.md, from the bottom up.
LAYERS = [
    {name.rstrip("/") for name in re.findall(r"`(\w+/?)`", row.split("|")[2])}
    for row in reversed(TABLE.splitlines())
    if row.startswith("|") and "`" in row
]


def imports_of(path: Path, *, types: bool = True) -> set[str]:
    """Names of the llmbatch modules that a file imports, `llmbatch.` left out; `types`: those for annotations too."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    if not types:
        tree.body = [node for node in tree.body if ast.unparse(node).partition(":")[0] != "if TYPE_CHECKING"]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "llmbatch":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("llmbatch."):
            found.add(node.module.removeprefix("llmbatch."))
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("llmbatch.") for a in node.names if a.name.startswith("llmbatch.")}
    return found


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found


def packages_imported(*, types: bool) -> dict[str, set[str]]:
    """For each module or package directly in `llmbatch`, the others that it imports."""
    imports: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        package = module.removeprefix("llmbatch.").partition(".")[0]
        if package != "llmbatch":
            others = {name.partition(".")[0] for name in imports_of(path, types=types)}
            imports.setdefault(package, set()).update(others - {package})
    return imports


def test_imports_go_down() -> None:
    """A module imports from its own layer and those below; every module has a layer."""
    layer_of = {name: number for number, names in enumerate(LAYERS) for name in names}
    imports = packages_imported(types=True)
    assert imports.keys() == layer_of.keys()
    named = {(package, other) for package, others in imports.items() for other in others if other in layer_of}
    assert {(package, other) for package, other in named if layer_of[other] > layer_of[package]} == set()


def test_imports_have_no_cycles() -> None:
    """No package and no module imports itself through others, not even for annotations or inside a function."""
    TopologicalSorter(packages_imported(types=True)).prepare()  # raises for a cycle
    modules = {module.removeprefix("llmbatch."): imports_of(path) & MODULE_NAMES for module, path in MODULES.items()}
    TopologicalSorter({module: imports - {module} for module, imports in modules.items()}).prepare()


def test_folders_say_what_lives_in_them() -> None:
    """What is private lives in folders, whose docstrings say what may live there and what may not."""
    assert [m for m in MODULES if re.fullmatch(r"llmbatch\._\w+", m) and MODULES[m].name != "__init__.py"] == []
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text())), module


def test_only_one_package_imports_litellm() -> None:
    """LiteLLM and the OpenAI SDK are imported in `_litellm/` only."""
    importers = {m for m, path in MODULES.items() if imported_packages(path) & {"litellm", "openai", "httpx"}}
    assert {m for m in importers if not m.startswith("llmbatch._litellm")} == set()


def test_importing_is_light() -> None:
    """`import llmbatch` pulls in neither litellm nor openai nor pandas nor ray."""
    code = (
        "import sys, llmbatch; llmbatch.BatchResults;"
        "heavy = {'litellm', 'openai', 'pandas', 'ray', 'httpx', 'aiohttp'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented() -> None:
    """`__all__` is what is visible, and `help()` of each name says something."""
    assert llmbatch.__all__ == sorted(llmbatch.__all__)
    assert set(dir(llmbatch)) == set(llmbatch.__all__)
    for name in llmbatch.__all__:
        assert (inspect.getdoc(getattr(llmbatch, name)) or "").strip(), name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = llmbatch.no_such_name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("acreate_chat_completions_batch", "create_chat_completions_batch"),
        ("as_completed", "create_chat_completions_batch"),
        ("stream_chat_completions_batch", "create_chat_completions_batch"),
        ("acreate_chat_completion", "create_chat_completion"),
        ("acomplete_table", "complete_table"),
        ("acreate_embeddings_batch", "create_embeddings_batch"),
        ("acreate_chat_completions_batch_copilot", "create_chat_completions_batch_copilot"),
        ("asubmit_batch_job", "submit_batch_job"),
        ("aretrieve_batch_job", "retrieve_batch_job"),
    ],
)
def test_twins_have_the_same_parameters(one: str, other: str) -> None:
    """Blocking, async and iterating forms cannot drift apart."""
    first, second = (inspect.signature(getattr(llmbatch, name)) for name in (one, other))
    assert list(first.parameters.values()) == list(second.parameters.values())


def test_a_jobs_twins_have_the_same_parameters() -> None:
    """Each method of BatchJob that asks the provider has an awaitable twin with its parameters."""
    names = ("refresh", "refresh_from", "wait", "cancel", "results", "resubmit_failed", "run_failed_live")
    for one, other in (("await_" if name == "wait" else f"a{name}", name) for name in names):
        first, second = (inspect.signature(getattr(llmbatch.BatchJob, name)) for name in (one, other))
        assert list(first.parameters.values()) == list(second.parameters.values()), other


def test_public_functions_are_plain() -> None:
    """Each is a `def` with its docstring in the source, and an editor (Jedi) shows both."""
    for name in llmbatch.__all__:
        value = getattr(llmbatch, name)
        if not inspect.isfunction(value):
            continue
        assert not {"__signature__", "__wrapped__"} & vars(value).keys(), name
        source = f"import llmbatch\nllmbatch.{name}"
        (hover,) = jedi.Script(source).infer(2, len("llmbatch.") + 1)
        assert hover.docstring(raw=True).strip() == inspect.cleandoc(value.__doc__).strip(), name
        signatures = hover.get_signatures()
        shown = [parameter.name for parameter in signatures[0].params]
        assert shown == list(inspect.signature(value).parameters), name


def test_options_are_the_same_everywhere() -> None:
    """Chats, embeddings and the command line take them with the same defaults; `help()` says what each is."""
    known = {field.name: field.default for field in dataclasses.fields(Options)}
    chats = set(ChatOptions.__annotations__) | {"max_workers"}
    embeddings = set(EmbeddingsOptions.__annotations__) | {"max_workers"}
    assert known.keys() <= chats
    assert (
        known.keys() - embeddings
        == {"dedupe", "fallbacks", "lane", "reask", "system", "validate", "warm_prompt_cache"}
        == CHATS_ONLY - {"batch_job"}
    )
    workers = inspect.signature(llmbatch.create_chat_completions_batch).parameters["max_workers"]
    assert workers.default == known["max_workers"]
    command = {option.name: option.default for option in run.params}
    for name in ("max_workers", "retries", "timeout"):
        assert command[name] in {known[name], str(known[name])}, name
    told = inspect.getdoc(llmbatch.create_chat_completions_batch) or ""
    assert [name for name in known if not re.search(rf"\b{name}[,:]", told)] == []


def test_the_seeds_signature_is_kept() -> None:
    """The seed's parameters come first, in its order, with its defaults."""
    parameters = inspect.signature(llmbatch.create_chat_completions_batch).parameters
    seed = {name: parameters[name].default for name in list(parameters)[:5]}
    assert seed == {
        "messages_list": inspect.Parameter.empty, "model": None, "temperature": 0.3, "max_tokens": 200,
        "max_workers": 10,
    }  # fmt: skip
    copilot = inspect.signature(llmbatch.create_chat_completions_batch_copilot).parameters
    assert copilot["model"].default == "gpt-4o"


def test_files_stay_small() -> None:
    """Most modules are under 300 lines, none over 400."""
    sizes = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {m: n for m, n in sizes.items() if n > 400} == {}
    assert sum(n > 300 for n in sizes.values()) <= len(sizes) // 10
