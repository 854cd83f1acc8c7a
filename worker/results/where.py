"""Conditions on columns of the results, as a user writes them: ``snr > 100 and not flag_bad``."""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Double,
    Integer,
    Text,
    and_,
    func,
    literal,
    not_,
    or_,
)

from worker.database.tables import UtcDateTime
from worker.errors import UsageError
from worker.results.columns import table_columns

#: The rows that a page shows first. Not by `flag_bad` and `flag_warn`: see docs/results.md.
GOOD = "e_fe_h < 0.1 and not flag_unlike_training"
#: Longer conditions were not written by a person; deep ones exhaust the stack of Python or SQLite.
_LONGEST = 2000
_DEEPEST = 40
_LARGEST = 2**63

#: Joins what two parts of an expression mean, for the database.
_Operator = Callable[[Any, Any], Any]

_COMPARISONS: dict[type[ast.cmpop], _Operator] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], _Operator] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda one, other: one / func.nullif(other, 0, type_=Double),  # PostgreSQL fails on 0
    ast.BitAnd: lambda bits, mask: _integer(bits).bitwise_and(_integer(mask)),
}


def condition(text: str) -> ColumnElement[bool]:
    """What an expression in Python's grammar says of a row, for the database.

    There are the columns of an exported table, numbers, texts in quotes, comparisons, ``in
    (...)``, ``is None``, ``and``, ``or``, ``not``, ``+ - * /``, ``abs()``, and ``&`` for bits.
    Moments compare with texts such as ``'2026-11-23'``, in UTC. A row in which a compared column
    is missing does not count.

    Raises
    ------
    UsageError
        It is not of that kind, or names a column that there is not.
    """
    if len(text) > _LONGEST:
        raise UsageError(f"--where takes {_LONGEST} characters at most.")
    try:
        meant: ColumnElement[bool] = _truth(_meaning(_parsed(text)))
    except (
        SyntaxError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    ):
        raise UsageError(
            f"--where {text!r} cannot be understood; it looks like "
            '"snr > 100 and not flag_bad" or "kind == \'coadd\'".'
        ) from None
    return meant


def _parsed(text: str) -> ast.expr:
    body = ast.parse(text.strip(), mode="eval").body
    generation: list[ast.AST] = [body]
    for _ in range(_DEEPEST):
        generation = [child for node in generation for child in ast.iter_child_nodes(node)]
    return _unknown(body) if generation else body


def _meaning(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() as value):
            return _literal(value)
        case ast.Name(id=name):
            return _column(name)
        case ast.BoolOp(op=joint, values=parts):
            join = and_ if isinstance(joint, ast.And) else or_
            return join(*(_truth(_meaning(part)) for part in parts))
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return not_(_truth(_meaning(part)))
        case ast.UnaryOp(op=ast.USub(), operand=part):
            return -_number(_meaning(part))
        case ast.BinOp(left=left, op=operation, right=right):
            combine: _Operator = _ARITHMETIC.get(type(operation), _unknown)
            return combine(_number(_meaning(left)), _number(_meaning(right)))
        case ast.Call(func=ast.Name(id="abs"), args=[part], keywords=[]):
            return func.abs(_number(_meaning(part)), type_=Double)
        case ast.Compare(left=left, ops=[op], comparators=[ast.Constant(value=None)]):
            return _missing(_meaning(left), op)
        case ast.Compare(
            left=left, ops=[op], comparators=[ast.Tuple(elts=parts) | ast.List(elts=parts)]
        ):
            return _among(_meaning(left), op, [_meaning(part) for part in parts])
        case ast.Compare(left=left, ops=ops, comparators=others):
            return _comparison([_meaning(part) for part in (left, *others)], ops)
    return _unknown(node)


def _unknown(*what: object) -> Any:
    raise ValueError(what)


def _column(name: str) -> Any:
    sources = {column.name: column.source for column in table_columns()}
    if name in sources:
        return sources[name]
    close = difflib.get_close_matches(name, sources, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    raise UsageError(f"--where: the results have no column {name}{hint}")


def _literal(value: str | float) -> Any:
    match value:
        case bool():
            return _unknown(value)
        case int() if abs(value) < _LARGEST:
            return literal(value, BigInteger)  # of PostgreSQL's INTEGER 2**31 is too large
        case float():
            return literal(value, Double)
        case str() if b"\0" not in value.encode():
            return value
    return _unknown(value)


def _comparison(values: list[Any], ops: list[ast.cmpop]) -> Any:
    """One comparison, or a chain of them such as ``4000 < teff < 5000``."""
    compares: list[_Operator] = [_COMPARISONS.get(type(op), _unknown) for op in ops]
    pairs = zip(compares, values[:-1], values[1:], strict=True)
    return and_(*(compare(*_alike(left, right)) for compare, left, right in pairs))


def _missing(value: Any, op: ast.cmpop) -> Any:
    if isinstance(op, ast.Is | ast.Eq):
        return value.is_(None)
    return value.is_not(None) if isinstance(op, ast.IsNot | ast.NotEq) else _unknown(op)


def _among(value: Any, op: ast.cmpop, others: list[Any]) -> Any:
    values = [_alike(value, other)[1] for other in others]
    if isinstance(op, ast.In):
        return value.in_(values)
    return value.not_in(values) if isinstance(op, ast.NotIn) else _unknown(op)


def _alike(left: Any, right: Any) -> tuple[Any, Any]:
    """Both sides of a comparison in one type: the database compares only like with like."""
    sorts = _sort(left), _sort(right)
    if sorts == ("moment", "text"):
        return left, _moment(right)
    if sorts == ("text", "moment"):
        return _moment(left), right
    return (left, right) if sorts[0] == sorts[1] else _unknown(left, right)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _sort(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    kinds = {Boolean: "truth", Text: "text", UtcDateTime: "moment"}
    return next((name for kind, name in kinds.items() if isinstance(value.type, kind)), "number")


def _truth(value: Any) -> Any:
    return value if _sort(value) == "truth" else _unknown(value)


def _integer(value: Any) -> Any:
    return value if isinstance(value.type, Integer) else _unknown(value)


def _number(value: Any) -> Any:
    return value if _sort(value) == "number" else _unknown(value)
