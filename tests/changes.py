"""Small wrong changes to the functions of a module, and the same functions telling which statements are reached."""

from __future__ import annotations
import __future__

import ast
import difflib
import inspect
import re
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal, operator_assignment, operator_string
from mutmut.mutation.pragma_handling import IgnoredCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Change", "changes", "functions", "telling"]

# What no caller is promised: words of messages, and hints to a type checker.
NOT_CHANGED = re.compile(r"^\s*(msg = |if TYPE_CHECKING|assert |logger\.)")
# Of mutmut's operators not those whose changes fail at once, or are near another's: arguments left out, None assigned.
OPERATORS = [
    (kind, operator)
    for kind, operator in mutation_operators
    if operator not in {operator_arg_removal, operator_assignment, operator_string}
]


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
        name, first = _around(tree, line)
        if line in ignored or name not in live:
            continue
        function = mutation.contained_by_top_level_function.with_changes(leading_lines=[])  # type: ignore[union-attr]
        wrong = deep_replace(function, mutation.original_node, mutation.mutated_node)
        before, after = (
            [" " * 4 * name.count(".") + text for text in wrapper.module.code_for_node(node).splitlines()]  # type: ignore[arg-type]
            for node in (function, wrong)
        )
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


def _around(node: ast.AST, line: int, prefix: str = "") -> tuple[str, int]:
    """The qualified name and the first line of the function or method that a line is in."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)) and inner.lineno <= line <= (
            inner.end_lineno or 0
        ):
            return prefix + inner.name, inner.lineno
        if isinstance(inner, ast.ClassDef) and (found := _around(inner, line, f"{inner.name}."))[0]:
            return found
    return "", 0


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


def telling(module: ModuleType, reached: Callable[[int], object]) -> None:
    """Have each statement of the module's functions call `reached` with its line."""
    told = _Telling().visit(ast.parse(undecorated(inspect.getsource(module)).code))
    vars(module)["__reached__"] = reached
    live = functions(module)
    for name, code in codes(ast.fix_missing_locations(told), module).items():
        if name in live:
            live[name].__code__ = code
