"""Mutants of source code: each changes one operator, number, condition, call or result."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
# Log messages are for people; tests do not check them.
_LOG_METHODS = {"debug", "info", "warning", "exception", "_log"}


@dataclass(frozen=True)
class Mutant:
    """One change of a source file.

    `start` and `end` are the bytes of `file` that `text` replaces; `line` is where they begin, from 1.
    """

    file: str
    line: int
    start: int
    end: int
    kind: str
    before: str
    text: str

    def apply(self, source: bytes) -> bytes:
        """Return the mutated source."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def draw(root: Path, folders: Sequence[str], number: int, seed: int) -> list[Mutant]:
    """Draw `number` of all mutants of the Python files in `folders` of `root`, without replacement."""
    files = sorted(file for folder in folders for file in (root / folder).rglob("*.py"))
    every = [mutant for file in files for mutant in mutants_of(str(file.relative_to(root)), file.read_bytes())]
    return random.Random(seed).sample(every, number)


def mutants_of(file: str, source: bytes) -> Iterator[Mutant]:
    """All mutants of one source file, in the order of the syntax tree."""
    offsets = [0]
    for line in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    for node in _nodes(ast.parse(source)):
        start = offsets[node.lineno - 1] + node.col_offset
        assert node.end_lineno is not None and node.end_col_offset is not None
        end = offsets[node.end_lineno - 1] + node.end_col_offset
        before = source[start:end].decode()
        for kind, changed in _changes(node):
            text = ast.unparse(changed)
            if isinstance(node, ast.expr):
                text = f"({text})"
            yield Mutant(file, node.lineno, start, end, kind, before, text)


def _nodes(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Expressions and statements whose mutation may change behaviour."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list") or isinstance(tree, ast.JoinedStr):
            continue  # annotations are not evaluated; inside f-strings, Python 3.11 gives no positions
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_for_readers(child):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            yield from _nodes(child)


def _is_for_readers(node: ast.AST) -> bool:
    if not isinstance(node, ast.Expr):
        return isinstance(node, ast.Import | ast.ImportFrom | ast.Assert)
    call = node.value
    return isinstance(call, ast.Constant) or (
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _LOG_METHODS
    )


def _changes(node: ast.expr | ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                changed = copy.deepcopy(node)
                changed.ops[index] = _COMPARISONS[type(operator)]()
                yield "comparison", changed
        case ast.BinOp() if type(node.op) in _ARITHMETIC and not _makes_text(node):
            yield "arithmetic", ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
        case ast.AugAssign() if type(node.op) in _ARITHMETIC:
            yield "arithmetic", ast.AugAssign(node.target, _ARITHMETIC[type(node.op)](), node.value)
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "and/or", ast.BoolOp(other, node.values)
        case ast.UnaryOp(op=ast.Not()):
            yield "negation", node.operand
        case ast.IfExp():
            yield "condition", ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        case ast.Constant(value=bool()):
            yield "constant", ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield "constant", ast.Constant(node.value + 1)
        case ast.Call():
            for index, keyword in enumerate(node.keywords):
                if keyword.arg is not None:
                    remaining = node.keywords[:index] + node.keywords[index + 1 :]
                    yield "argument left out", ast.Call(node.func, node.args, remaining)
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise() | ast.Delete():
            yield "statement left out", ast.Pass()
        case ast.Break():
            yield "loop", ast.Continue()
        case ast.Continue():
            yield "loop", ast.Break()
        case ast.Return(value=ast.expr()) if not _is_none(node.value):
            yield "result", ast.Return(ast.Constant(None))


def _makes_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in (node.left, node.right)
    )


def _is_none(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
