"""The project's shape: who may import whom, what is public, and what importing costs."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import llmbatch
from llmbatch._options import OPTIONS_DOC, Options
from llmbatch.cli import run

ROOT = Path(llmbatch.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

TABLE = (ROOT.parent / "README.md").read_text().partition("## Inside")[2].partition("## Contributing")[0]
# The README's map, from the ground up.
FLOORS = [
    {name.rstrip("/") for name in re.findall(r"`(\w+/?)`", row.split("|")[2])}
    for row in reversed(TABLE.splitlines())
    if row.startswith("|") and "`" in row
]
# Made when called: a batch as a job, results as a table.
UPWARD = {("completions", "jobs"), ("results", "_frame")}


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


def rooms_imported(*, types: bool) -> dict[str, set[str]]:
    """For each module or package directly in `llmbatch`, the others that it imports."""
    imports: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        room = module.removeprefix("llmbatch.").partition(".")[0]
        if room != "llmbatch":
            others = {name.partition(".")[0] for name in imports_of(path, types=types)}
            imports.setdefault(room, set()).update(others - {room})
    return imports


def test_imports_go_down() -> None:
    """A module imports from its own floor and those below; every module has a floor."""
    floor_of = {name: number for number, names in enumerate(FLOORS) for name in names}
    imports = rooms_imported(types=True)
    assert imports.keys() == floor_of.keys()
    named = {(room, other) for room, others in imports.items() for other in others if other in floor_of}
    assert {(room, other) for room, other in named if floor_of[other] > floor_of[room]} == UPWARD


def test_there_are_no_circles() -> None:
    """But for the upward imports, the modules can be read one after the other."""
    imports = rooms_imported(types=False)
    for room, other in UPWARD:
        imports[room].discard(other)
    TopologicalSorter(imports).prepare()  # raises for a circle


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
        ("acreate_embeddings_batch", "create_embeddings_batch"),
        ("acreate_chat_completions_batch_copilot", "create_chat_completions_batch_copilot"),
    ],
)
def test_twins_have_the_same_parameters(one: str, other: str) -> None:
    """Blocking, async and iterating forms cannot drift apart."""
    first, second = (inspect.signature(getattr(llmbatch, name)) for name in (one, other))
    assert list(first.parameters.values()) == list(second.parameters.values())


def test_options_are_the_same_everywhere() -> None:
    """Chats, embeddings and the command line take them with the same defaults; `help()` says what each is."""
    chats = inspect.signature(llmbatch.create_chat_completions_batch).parameters
    embeddings = inspect.signature(llmbatch.create_embeddings_batch).parameters
    command = {option.name: option.default for option in run.params}
    options = set(Options.__dataclass_fields__)
    assert options <= chats.keys()
    assert options - embeddings.keys() == {"fallbacks", "warm_prompt_cache"}
    for name in options & embeddings.keys():
        assert embeddings[name].default == chats[name].default, name
    for name in ("max_workers", "retries", "timeout"):
        assert command[name] in {chats[name].default, str(chats[name].default)}, name
    assert [name for name in options if not re.search(rf"\b{name}[,:]", OPTIONS_DOC)] == []


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
