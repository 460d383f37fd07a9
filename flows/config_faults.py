"""What is wrong with a config, in words: which key, from the file or from which environment variable, and what is allowed."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

PREFIX = "BLUEMASK__"
"""Of the environment variables that override a key, in any case."""
BETWEEN = "__"
"""What separates the names of sections and keys in them."""
Place = tuple[int | str, ...]
"""Where in a config something stands: names of sections and keys, numbers within a list."""


def variables() -> dict[tuple[str, ...], str]:
    """Names of the environment variables that override something, by the key that each means."""
    return {
        tuple(name[len(PREFIX) :].lower().split(BETWEEN)): name
        for name in os.environ
        if name.upper().startswith(PREFIX)
    }


def unknown_variable(model: type[BaseModel]) -> str:
    """A sentence on a variable that pydantic would pass over, as its first part or prefix is wrong; empty where there is none."""
    for (head, *_), name in variables().items():
        if head not in model.model_fields:
            return f"environment variable {name}: {head!r} is no key; {_near(head, list(model.model_fields))}"
    short = PREFIX.removesuffix("_")
    for name in os.environ:
        rest = name.upper().removeprefix(short)
        section, between, _ = rest.partition(BETWEEN)
        if rest != name.upper() and between and section.lower() in model.model_fields:
            return f"environment variable {name} is not heeded: two underscores come after {short[:-1]}, {PREFIX}{rest}"
    return ""


def unreadable_variable(error: Exception) -> str:
    """A sentence on a variable of a section or list whose value is not JSON. error: as pydantic-settings raises it."""
    text = getattr(error.__cause__, "doc", None)
    names = [name for name in variables().values() if os.environ[name] == text]
    if not names:
        return f"environment: {error}"
    return f'environment variable {names[0]}: {text!r} is not JSON, such as [1, 2] or {{"key": 1}}; correct or unset it'


def sentence(item: Any, file: str, model: type[BaseModel]) -> str:
    """One fault. item: of `ValidationError.errors()`; file: what the values came from that no variable gave."""
    loc, source = item["loc"], _source(item["loc"], file)
    if (
        item["type"] == "value_error" and source == file
    ):  # a rule may compare keys: another one may be the variable's
        beside = [name for path, name in variables().items() if path[:-1] == loc[:-1]]
        source = f"{file}, with environment variable {beside[0]}" if beside else file
    key = ".".join(str(part) for part in loc)
    if item["type"] == "extra_forbidden":
        known = list(_model_at(model, loc[:-1]).model_fields)
        return f"{source}: {key!r} is no key (its value: {item['input']!r}); {_near(str(loc[-1]), known)}"
    if item["type"] == "missing":
        return f"{source}: {key!r} is missing; {_describe(model, loc)}"
    message = (item["msg"][0].lower() + item["msg"][1:]).removeprefix("value error, ")
    return f"{source}: {key} = {item['input']!r}: {message}; {_describe(model, loc)}".rstrip("; ")


def _source(loc: Place, file: str) -> str:
    """The variable that a value came from, else the file; both where a variable gave a part of it."""
    names = [str(part) for part in loc]
    for path, name in variables().items():
        if list(path) == names[: len(path)] and _holds(os.environ[name], loc[len(path) :]):
            return f"environment variable {name}"
    parts = [name for path, name in variables().items() if names == list(path)[: len(names)]]
    return f"{file}, with environment variable {parts[0]}" if parts else file


def _holds(text: str, rest: Sequence[int | str]) -> bool:
    """Whether a variable's value has something at a place within it, or is wrong as a whole."""
    if not rest:
        return True
    try:
        value = json.loads(text)
    except ValueError:
        return True
    return not isinstance(value, dict) or (rest[0] in value and _holds(json.dumps(value[rest[0]]), rest[1:]))


def _near(name: str, known: list[str]) -> str:
    folded = name.casefold()
    parts = [key for key in known if len(folded) > 1 and folded in key.split("_")]
    close = list(dict.fromkeys(difflib.get_close_matches(name, known, n=1) + parts))
    hint = f"did you mean {' or '.join(map(repr, close[:3]))}? " if close else ""
    return f"{hint}Keys here: {', '.join(known)}"


def _model_at(model: type[BaseModel], loc: Place) -> type[BaseModel]:
    for part in loc:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return model


def _describe(model: type[BaseModel], loc: Place) -> str:
    """What a key means, from the docstring below its field."""
    names = [part for part in loc if isinstance(part, str)]
    for end in range(len(names), 0, -1):
        field = _model_at(model, tuple(names[: end - 1])).model_fields.get(names[end - 1])
        if field and field.description:
            return f"{names[end - 1]}: {' '.join(field.description.split())}"
    return ""
