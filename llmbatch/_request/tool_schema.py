"""Schemas of tools, from typed functions and pydantic models."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any


def tool_schema(tool: Any) -> dict[str, Any]:
    """Return a tool as OpenAI's `{"type": "function", "function": {name, description, parameters}}`.

    `tool` is a function with typed parameters, a pydantic class, or such a dict, which is returned as it is. The
    docstring is the description. Raises TypeError for anything else, and for parameters that have no JSON type.
    """
    if isinstance(tool, Mapping):
        return dict(tool)
    from pydantic import BaseModel, TypeAdapter  # noqa: PLC0415 - takes 0.2 s, and calls without tools need none
    from pydantic.errors import PydanticUserError  # noqa: PLC0415

    if isinstance(tool, type) and issubclass(tool, BaseModel):
        parameters = tool.model_json_schema()
        # pydantic puts the docstring into the schema, and leaves out BaseModel's own.
        return _function(tool.__name__, parameters.pop("description", ""), parameters)
    if not callable(tool) or isinstance(tool, type):
        raise TypeError(f"a tool must be a typed function, a pydantic model or an OpenAI tool dict, not {tool!r}")
    name = getattr(tool, "__name__", type(tool).__name__)
    try:
        parameters = TypeAdapter(tool).json_schema()
    except PydanticUserError as exc:
        raise TypeError(
            f"tool {name} has a parameter without a JSON type: {exc.message}. Give it a type that JSON has"
        ) from exc
    if parameters.get("type") != "object":
        raise TypeError(f"tool {name} has positional-only parameters. Remove the slash: models pass arguments by name")
    return _function(name, inspect.getdoc(tool) or "", parameters)


def _function(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    parameters.pop("title", None)
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": {key: value for key, value in function.items() if value != ""}}
