"""Small wrong changes to what decides about money, rows and waiting, and whether a test notices each.

    uv run --with mutmut==3.8.1 python -m tests.mutants guards retry  # all modules of `TESTS` without arguments
    uv run --with mutmut==3.8.1 python -m tests.mutants sender --minutes 6 --function Sender._once

mutmut and `removed` think of them. One process collects the tests and runs them once, to know which statements each
reaches and how long it takes. Then each change is made in a fork, where tests that reach it run until one fails, those
first that take little time and have noticed much. It takes about a second a change, and is no part of CI. What survived
is shown: it gets a test, or a reason in `REASONS`. Tests marked `processes` are left out.
"""

from __future__ import annotations
import __future__

import argparse
import ast
import difflib
import importlib
import inspect
import itertools
import re
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal, operator_assignment, operator_string
from mutmut.mutation.pragma_handling import IgnoredCode

from tests.forks import LONGEST_SILENCE, Forks, Task, collected

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Each module, and the tests that concern it.
TESTS = {
    "_request/guards": ("budget", "fail_fast", "worst_case"),
    "_request/retry": ("retry", "copilot", "fail_fast"),
    "_request/worst": ("worst_case",),
    "_batch/rows": ("structured", "asks", "rows", "request_forms", "job_failed_rows"),
    "_batch/checkpoint": ("checkpoint",),
    "_request/sender": ("budget", "fail_fast", "keys", "retry", "copilot", "rows", "deadline_interrupt"),
    "_request/failures": ("retry", "fail_fast", "hostile_server", "litellm_failures", "keys", "secrecy"),
    "_request/limits": ("limits_learnt", "limiter_lab", "limits"),
    "_request/refusals": ("limits_learnt", "limiter_lab"),
    "_request/pace": ("limits_learnt", "limiter_lab"),
    "_request/evidence": ("limits_learnt", "limiter_lab"),
}
# What no caller is promised: words of messages, and hints to a type checker.
NOT_CHANGED = re.compile(r"^\s*(msg = |if TYPE_CHECKING|assert |logger\.)")
# Of mutmut's operators not those whose changes fail at once, or are near another's: arguments left out, None assigned.
OPERATORS = [
    (kind, operator)
    for kind, operator in mutation_operators
    if operator not in {operator_arg_removal, operator_assignment, operator_string}
]
# Changes that nobody can tell from the right code, each as a pattern of its diff.
REASONS = {
    r"^[+].*lock[(][a-z_.]+, None[)]|^[+].*(_in_use|CheckpointError)[(]None[)]": "only words of a message",
    r"^-.*win32|^-.*_locked[.]": "another system, or what tests of processes show",
    r"^[+].*until[.]reschedule[(]1[)]": "any moment of the past",
    r'^[+].*"NotSent", f.*(shared=(None|False)|retryable=True, [)])': "what is not sent is not split either",
    r"^-.*spent > [A-Z]+_SECONDS\n[+].*spent >= ": "to the microsecond",
    r"^-.*raise OSError[(]0": "a number that is not shown",
    r"^-\s+dropped [+]= ": "only whether it is 0 counts",
    r"^[+]\s+written = os[.]write": "a file takes a line at once",
    r"^[+].*ensure_ascii=None": "None is false",
    r"^--- _let_go": "what a forked process does, which tests of processes show",
    r'^-.*fields[.]pop[(]"messages"': "nothing, in other words",
    r"^[+].*os[.]pread[(].*, 2, size - 1": "there is no more to be read",
    r"^-.*super[(][)].__init__[(]failure.type[)]": "the words of an exception that nobody sees",
    r"^-.*retry_state.outcome else None": "there always is one: for the type checker",
    r"^-.*exc[.]errors[(]include_input": "what is left out is not asked for",
    r'^-.*row_text[(]row[)] or ""': "no JSON either",
    r"^-.*if not until[.]expired": "nothing that is waited for raises a TimeoutError of its own",
    r"^-.*(self.reserved [+] worst|self.reserved > worst).*\n[+].*>= ": "equal to the last bit",
}


@dataclass(frozen=True)
class Change:
    """One change to a function of a module, at a statement that begins on this line of `undecorated` source."""

    function: str
    line: int
    diff: str
    code: CodeType


def removed(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A statement that is not there, a branch that is never taken, an argument that is None, other letters."""
    if isinstance(node, cst.If):
        yield node.with_changes(test=cst.Name("False"))
    elif isinstance(node, cst.SimpleString):
        yield from list(operator_string(node))[:1]
    elif isinstance(node, cst.Call):
        yield from (changed for changed in operator_arg_removal(node) if len(changed.args) == len(node.args))
    elif (
        isinstance(node, cst.AugAssign)
        or (isinstance(node, cst.Expr) and not isinstance(node.value, cst.BaseString))
        or (isinstance(node, cst.Assign) and not isinstance(node.targets[0].target, cst.Name))
    ):
        yield cst.Pass()


class _Visitor(MutationVisitor):
    """Knows where each change is."""

    lines: list[int]

    def _create_mutations(self, node: cst.CSTNode) -> None:
        super()._create_mutations(node)
        line = self.get_metadata(PositionProvider, node).start.line
        self.lines += [line] * (len(self.mutations) - len(self.lines))


def undecorated(source: str) -> cst.Module:
    """Without the decorators of functions and methods, which mutmut would leave alone for them."""

    def bare(body: Iterable[cst.CSTNode]) -> list[cst.CSTNode]:
        return [node.with_changes(decorators=[]) if isinstance(node, cst.FunctionDef) else node for node in body]

    module = cst.parse_module(source)
    classes = [
        node.with_changes(body=node.body.with_changes(body=bare(node.body.body)))
        if isinstance(node, cst.ClassDef)
        else node
        for node in module.body
    ]
    return cst.parse_module(module.with_changes(body=bare(classes)).code)


def changes(module: ModuleType) -> Iterator[Change]:
    """All that are made to a module's functions."""
    wrapper = MetadataWrapper(undecorated(inspect.getsource(module)))
    source = wrapper.module.code.splitlines()
    ignored = {number for number, line in enumerate(source, 1) if NOT_CHANGED.match(line)}
    visitor = _Visitor([*OPERATORS, (cst.CSTNode, removed)], IgnoredCode(set(), set(), ignored))
    visitor.lines = []
    wrapper.visit(visitor)
    tree, live = ast.parse(wrapper.module.code), functions(module)
    statements = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    for mutation, line in zip(visitor.mutations, visitor.lines, strict=True):
        name, first, last = _around(tree, line)
        if line in ignored or name not in live:
            continue
        function = mutation.contained_by_top_level_function.with_changes(leading_lines=[])  # type: ignore[union-attr]
        wrong = deep_replace(function, mutation.original_node, mutation.mutated_node)
        before = source[first - 1 : last]
        after = [" " * 4 * name.count(".") + text for text in wrapper.module.code_for_node(wrong).splitlines()]  # type: ignore[arg-type]
        try:
            right_code, code = (compiled(lines, name, first, module) for lines in (before, after))
        except SyntaxError:
            continue
        if code != right_code:
            diff = difflib.unified_diff(before, after, f"{name}, line {line}", "", n=0, lineterm="")
            yield Change(name, max(at for at in statements if at <= line), "\n".join(diff), code)


def compiled(lines: list[str], name: str, first: int, module: ModuleType) -> CodeType:
    """A function's code; a method's as in its class."""
    owner = [f"class {name.partition('.')[0]}:"] if "." in name else []
    source = "\n" * (first - 1 - len(owner)) + "\n".join([*owner, *lines])
    return codes(source, module)[name]


def _around(node: ast.AST, line: int, prefix: str = "") -> tuple[str, int, int]:
    """The qualified name, first and last line of the function or method that a line is in."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)) and inner.lineno <= line <= (
            inner.end_lineno or 0
        ):
            return prefix + inner.name, inner.lineno, inner.end_lineno or 0
        if isinstance(inner, ast.ClassDef) and (found := _around(inner, line, f"{inner.name}."))[0]:
            return found
    return "", 0, 0


def codes(source: str | ast.Module, module: ModuleType) -> dict[str, CodeType]:
    """The compiled functions of a module's source, by their qualified names."""
    flags = __future__.annotations.compiler_flag
    found, left = {}, [compile(source, str(module.__file__), "exec", flags, dont_inherit=True)]
    while left:
        inner = [code for code in left.pop().co_consts if isinstance(code, CodeType) and "<" not in code.co_qualname]
        found.update({code.co_qualname: code for code in inner if code.co_flags & inspect.CO_OPTIMIZED})
        left += inner
    return found


def functions(module: ModuleType) -> dict[str, FunctionType]:
    """The functions of a module and of its classes, by their qualified names."""
    owners = [module, *(value for value in vars(module).values() if inspect.isclass(value))]
    found = {}
    for value in (value for owner in owners for value in vars(owner).values()):
        function = inspect.unwrap(getattr(value, "fget", getattr(value, "__func__", value)))
        if isinstance(function, FunctionType) and function.__module__ == module.__name__:
            found[function.__qualname__] = function
    return found


class _Telling(ast.NodeTransformer):
    """Each statement of a function says that it is reached."""

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node, (ast.Module, ast.ClassDef)):
            return node
        for name in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, name, None), list):
                told = [[ast.parse(f"__reached__({statement.lineno})").body[0], statement] for statement in block]
                setattr(node, name, [statement for pair in told for statement in pair])
        return node


def reached(module: ModuleType, tests: list[Any], forks: Forks) -> tuple[dict[int, list[Any]], dict[Any, float]]:
    """The tests that reach each line, and how long each takes."""
    lines: set[int] = set()

    def tell() -> None:
        told = _Telling().visit(ast.parse(undecorated(inspect.getsource(module)).code))
        vars(module)["__reached__"] = lines.add
        live = functions(module)
        for name, code in codes(ast.fix_missing_locations(told), module).items():
            if name in live:
                live[name].__code__ = code

    def these() -> list[int]:
        found = sorted(lines)
        lines.clear()
        return found

    seconds, by_line = {}, defaultdict(list)
    items = {test.nodeid: test for test in tests}
    shares = [Task(tests[at::6], prepare=tell, told=these, keep_going=True) for at in range(6)]
    for ran in (ran for _, share, _ in forks.run(shares) for ran in share):
        if not ran.passed:
            print(f"not used, since it fails as things are: {ran.test}")
            continue
        seconds[items[ran.test]] = ran.seconds
        for line in ran.told:
            by_line[line].append(items[ran.test])
    return by_line, seconds


def reason(change: Change) -> str | None:
    """Why nobody can notice a change, None where somebody should."""
    before, after = (
        "\n".join(re.findall(rf"^[{sign}](?![{sign}])(.*)", change.diff, re.MULTILINE)) for sign in ("-", "+")
    )
    quoted = " ".join(re.findall(r'"([^"]*)"', after))
    if " " in quoted and before.casefold() == after.replace("XX", "").casefold():
        return "the words of a message"
    return next((why for pattern, why in REASONS.items() if re.search(pattern, change.diff, re.MULTILINE)), None)


def judged(module: ModuleType, forks: Forks, wanted: argparse.Namespace, tests: list[Any]) -> None:
    """Make the changes of a module, and print what survived, without what has a reason."""
    began = time.monotonic()
    by_line, seconds = reached(module, tests, forks)
    live, made = functions(module), list(changes(module))
    killers: Counter[str] = Counter()
    if wanted.function:
        made = [change for change in made if change.function in wanted.function]

    def tasks(changes: Iterable[Change]) -> Iterator[Task]:
        for change in changes:
            if wanted.minutes and time.monotonic() - began > 60 * wanted.minutes:
                return
            function, reaching = live[change.function], by_line.get(change.line, [])
            reaching = sorted(reaching, key=lambda test: seconds[test] / (1 + killers[test.nodeid]))
            spent = itertools.accumulate(seconds[test] for test in reaching)
            yield Task(
                [test for test, until in zip(reaching, spent, strict=True) if until < wanted.seconds] or reaching[:1],
                change,
                prepare=lambda function=function, change=change: setattr(function, "__code__", change.code),  # type: ignore[misc]
                usual=seconds,
            )

    count: Counter[str] = Counter()
    for task, ran, hung in forks.run(tasks(made)):
        change = task.subject
        if ran and not ran[-1].passed:
            count["hung" if hung else "killed"] += 1
            killers[ran[-1].test] += 1
            if wanted.verbose:
                print(f"{change.diff}\n{'hung' if hung else 'killed'} by {ran[-1].test}\n", flush=True)
        elif why := reason(change):
            count[f"survived: {why}"] += 1
        else:
            count["survived" if ran else "survived, reached by no test"] += 1
            print(f"survived {len(ran)} tests\n{change.diff}\n", flush=True)
    count["not checked"] = len(made) - count.total()
    print(f"{module.__name__}: {len(made)} changes in {time.monotonic() - began:.0f} s: {dict(count)}\n", flush=True)
    control(forks, [test for test in tests if test.nodeid in killers])


def control(forks: Forks, tests: list[Any]) -> None:
    """Those that noticed something notice nothing in the right code, under the same load."""
    for _, ran, _ in forks.run(Task(tests[at::6], keep_going=True) for at in range(6)):
        for one in ran:
            if not one.passed or one.seconds > LONGEST_SILENCE / 2:
                print(f"not to be trusted, since it fails or takes {one.seconds:.0f} s now and then: {one.test}")


def main() -> None:
    """Judge what the command names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="by their file's name; all unless given")
    parser.add_argument("--minutes", type=float, help="for each module at most")
    parser.add_argument("--seconds", type=float, default=20.0, help="of tests for each change at most")
    parser.add_argument("--function", action="append", help="only this one, as Class.method")
    parser.add_argument("--verbose", action="store_true", help="which test noticed what, too")
    wanted = parser.parse_args()
    modules = [module for module in TESTS if not wanted.modules or Path(module).name in wanted.modules]
    files = {module: [f"tests/test_{name}.py" for name in TESTS[module]] for module in modules}

    def work(forks: Forks) -> None:
        for module in modules:
            tests = [test for test in forks.tests if test.nodeid.partition("::")[0] in files[module]]
            judged(importlib.import_module(f"llmbatch.{module.replace('/', '.')}"), forks, wanted, tests)

    collected(sorted({file for some in files.values() for file in some}), work)


if __name__ == "__main__":
    sys.exit(main())
