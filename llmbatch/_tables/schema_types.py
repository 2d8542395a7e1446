"""Column types for structured answers: the fields of a pydantic class or a JSON schema as Arrow types."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import UnionType
from typing import Any, Union, get_args, get_origin

from llmbatch._rows.structured_output import ResponseFormat
from llmbatch._util.extras import extra

# Kinds of columns whose exact type depends on the values: zones of times, digits of decimals.
DATE, DATETIME, DECIMAL = "date", "datetime", "decimal"
_MAX_DEPTH = 16

_FORMATS = {"date": DATE, "date-time": DATETIME}
_SCALARS = {"string": "string", "integer": "int64", "number": "float64", "boolean": "bool"}
_PYTHON = {str: "string", bool: "boolean", int: "integer", float: "number"}


def field_types(response_format: ResponseFormat | None, whole: str) -> dict[str, Any] | None:
    """Return the type of each field: an Arrow type, DATE, DATETIME, DECIMAL, or None for JSON as text.

    An answer that is one value and no object is a column of the name `whole`. None for free text, and for JSON without
    a schema.
    """
    if isinstance(response_format, type):
        fields = _fields(response_format.model_json_schema(by_alias=False, mode="serialization"), whole)
        own = {name: field.annotation for name, field in response_format.model_fields.items() if name in fields}
        return fields | {name: DECIMAL for name, annotation in own.items() if _is_decimal(annotation)}
    given: Mapping[str, Any] = response_format or {}
    schema = (given.get("json_schema") or {}).get("schema")
    return _fields(schema, whole) if isinstance(schema, Mapping) and schema else None


def _fields(schema: Mapping[str, Any], whole: str) -> dict[str, Any]:
    definitions = schema.get("$defs") or schema.get("definitions") or {}
    node = _resolved(schema, definitions)
    properties = node.get("properties")
    if not properties:
        return {whole: _kind(node, definitions)}
    return {name: _kind(value, definitions) for name, value in properties.items()}


def _is_decimal(annotation: Any) -> bool:
    """Return whether it is `Decimal`, or `Decimal | None`."""
    if get_origin(annotation) in {Union, UnionType}:
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return len(kinds) == 1 and _is_decimal(kinds[0])
    return annotation is Decimal


def _kind(node: Any, definitions: Mapping[str, Any]) -> Any:
    node = _resolved(node, definitions)
    if node.get("type") == "string" and node.get("format") in _FORMATS:
        return _FORMATS[node["format"]]
    return _type(node, definitions, 0)


def _resolved(node: Any, definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema that references and optional values stand for."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(node, Mapping):
            return {}
        alternatives = [
            kind
            for kind in node.get("anyOf") or node.get("oneOf") or node.get("allOf") or ()
            if kind != {"type": "null"}
        ]
        if isinstance(reference := node.get("$ref"), str):
            node = definitions.get(reference.rpartition("/")[2], {})
        elif len(alternatives) == 1:
            node = alternatives[0]
        elif isinstance(kinds := node.get("type"), list):
            kinds = [kind for kind in kinds if kind != "null"]
            return {**node, "type": kinds[0] if len(kinds) == 1 else None}
        else:
            return node
    return {}


def _type(node: Any, definitions: Mapping[str, Any], depth: int) -> Any:
    """Return the Arrow type of a schema, None where there is none: unions, free objects, recursive classes."""
    arrow = extra("pyarrow", "tables", "frames")
    node = _resolved(node, definitions)
    if depth > _MAX_DEPTH:
        return None
    kind = node.get("type")
    if kind is None and (allowed := node.get("enum") or [node[name] for name in ("const",) if name in node]):
        kinds = {_PYTHON.get(type(value)) for value in allowed if value is not None}
        kind = kinds.pop() if len(kinds) == 1 else None
    if kind in _SCALARS:
        return arrow.type_for_alias(_SCALARS[kind])
    if kind == "array" and "prefixItems" not in node:
        item = _type(node.get("items"), definitions, depth + 1)
        return None if item is None else arrow.list_(item)
    if kind == "object" and node.get("properties") and not node.get("additionalProperties"):
        inner = {name: _type(value, definitions, depth + 1) for name, value in node["properties"].items()}
        if all(value is not None for value in inner.values()):
            return arrow.struct(list(inner.items()))
    return None
