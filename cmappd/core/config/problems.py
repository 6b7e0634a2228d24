"""What is wrong with a configuration, in sentences that say what is allowed."""

import difflib
import json
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

KeyPath = tuple[str | int, ...]

_SENTENCES = {
    "missing": "is required",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "tuple_type": "must be an array",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "value_error": "{error}",
}


class Problem(NamedTuple):
    """One thing that is wrong; of one application only when ``app`` is given.

    ``key`` is the dotted path of a key, or "" where the file as a whole cannot be read.
    """

    file: str
    line: int | None
    key: str
    message: str
    app: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        if not self.key and self.file in self.message:  # about all of it, which says so itself
            place = ""
        return ": ".join(part for part in (place, self.key, self.message) if part)


def dotted(path: KeyPath) -> str:
    """The path of a key as TOML writes it, and positions in arrays in brackets."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch("[A-Za-z0-9_-]+", part)
            text += ("." if text else "") + (part if bare else json.dumps(part))
    return text


def explain(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[KeyPath, str]]:
    """The key, below the model's table, and the sentence of each of pydantic's complaints."""
    for detail in error.errors(include_url=False):
        # A key of a free table that is itself wrong has the mark "[key]" after it.
        path = tuple(part for part in detail["loc"] if part != "[key]")
        yield path, _sentence(detail, path, model)


def unknown_key(key: str, known: list[str]) -> str:
    """The sentence about a key that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key: did you mean '{near[0]}'?" if near else "unknown key"


def _sentence(detail: ErrorDetails, path: KeyPath, model: type[BaseModel]) -> str:
    if detail["type"] == "extra_forbidden":
        return unknown_key(str(path[-1]), list(_table(model, path[:-1]).model_fields))
    context: dict[str, Any] = detail.get("ctx", {})
    if detail["type"] == "literal_error":
        return "must be " + str(context["expected"]).replace("'", '"')
    return _SENTENCES.get(detail["type"], "has a value that is not allowed").format(**context)


def _table(model: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    """The model of the table at a path, or of the last table on the way to it."""
    for part in path:
        field = model.model_fields.get(str(part))
        kind = field.annotation if field else None
        kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        nested = [each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)]
        model = nested[0] if nested else model
    return model
