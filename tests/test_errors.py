"""Exceptions and failure types: everything that llmbatch raises on purpose is documented in `errors`."""

from __future__ import annotations

import ast
import builtins
import json
import pickle
import re
from pathlib import Path

import pytest

import llmbatch
from llmbatch import errors
from llmbatch.errors import FailureType, failure_types_table

ROOT = Path(llmbatch.__file__).parent
# Never seen by users: each is caught where its comment says.
INTERNAL = {
    "AnswerTooLargeError",  # becomes a row
    "APIError",  # of the OpenAI SDK; becomes a row
    "AttemptFailedError",  # becomes a row
    "BrokenStreamError",  # becomes a row
    "ErrorAnswerError",  # becomes a row
    "IncompleteStreamError",  # becomes a row
    "NotSentError",  # becomes a row
    "StoppedRequest",  # is caught where it was asked for
    "RedirectedElsewhereError",  # becomes a row
    "SocksProxyError",  # becomes a row
    "CancelledError",  # asyncio's own
    "AttributeError",  # the module's own __getattr__
    "AssertionError",  # unreachable code
    "OSError",  # of a checkpoint that is not a regular file; becomes a CheckpointError
}


def raised() -> dict[str, list[str]]:
    """Names of the exception classes that `raise` statements construct, with the modules that do."""
    found: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None:
                made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                name = ast.unparse(made).rpartition(".")[2]
                abstract = name == "NotImplementedError" and not isinstance(node.exc, ast.Call)
                if re.fullmatch(r"[A-Z]\w+", name) and not abstract:
                    found.setdefault(name, []).append(str(path.relative_to(ROOT)))
    return found


def classes_of_package() -> dict[str, list[str]]:
    """Base classes, by name, of each exception class that the package defines."""
    bases: dict[str, list[str]] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
    return bases


def is_misuse(name: str, bases: dict[str, list[str]]) -> bool:
    """Whether a class is a ValueError or a TypeError."""
    known = getattr(builtins, name, None)
    if isinstance(known, type):
        return issubclass(known, ValueError | TypeError)
    return any(is_misuse(base, bases) for base in bases.get(name, []))


def test_exceptions_raised_on_purpose_are_in_errors() -> None:
    """Each is in `errors`, is a ValueError or TypeError, or never leaves the package."""
    bases = classes_of_package()
    documented = set(errors.__all__)
    unknown = {
        name: places
        for name, places in raised().items()
        if name not in documented | INTERNAL and not is_misuse(name, bases) and name != "ProviderFailedError"
    }
    assert unknown == {}
    assert "class ProviderFailedError(BatchJobError)" in (ROOT / "_jobs/remote.py").read_text()


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("BatchNotSupportedError", (NotImplementedError,)),
        ("BatchJobTimeoutError", (errors.BatchJobError, TimeoutError)),
        ("MissingExtraError", (ImportError,)),
        ("BlockingCallError", (RuntimeError,)),
        ("CassetteNotFoundError", (FileNotFoundError,)),
        ("CassetteInUseError", (RuntimeError,)),
    ],
)
def test_exceptions_keep_their_standard_base(name: str, bases: tuple[type, ...]) -> None:
    """Code that catches the standard exception still does, and LLMBatchError catches all."""
    kind = getattr(errors, name)
    assert getattr(llmbatch, name) is kind
    assert issubclass(kind, errors.LLMBatchError)
    assert all(issubclass(kind, base) for base in bases)
    assert str(pickle.loads(pickle.dumps(kind("what")))) == "what"  # noqa: S301 - our own


def test_failure_types_are_documented_strings() -> None:
    """Each member is the plain string that rows hold, with what happened and what to do."""
    assert llmbatch.FailureType is FailureType
    for kind in FailureType:
        assert kind == kind.value == str(kind) == json.loads(json.dumps({"type": kind}))["type"]
        assert kind.meaning
        assert re.search(r"[Rr]etried|Not |[Rr]un again|Re-asked", kind.action), kind
        assert f"| `{kind.value}` | {kind.meaning} | {kind.action} |" in failure_types_table()
    assert len({kind.value for kind in FailureType}) == len(FailureType)


def test_failure_types_in_code_are_members() -> None:
    """A `Failure` or error row is made with a member, a class name of LiteLLM's, or the provider's own code."""
    known = {kind.value for kind in FailureType}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Failure" and node.args:
                literal = node.args[0]
                assert not isinstance(literal, ast.Constant), (path, literal.lineno, known)
