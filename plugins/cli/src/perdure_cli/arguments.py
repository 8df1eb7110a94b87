"""Words of a command line to JSON, by a schema: ``folder=docs limit=3`` or plain JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, cast

from perdure.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence


def parsed(text: str, where: str) -> Any:
    """JSON from the command line; ``-`` reads it from stdin. Raises ``InvalidInput``."""
    source = sys.stdin.read() if text == "-" else text
    try:
        return json.loads(source)
    except ValueError as error:
        msg = f'{where} is no JSON: {error}; expected for example \'{{"name": "value"}}\', got {source[:80]!r}'
        raise InvalidInput(msg) from error


def by_name(words: Sequence[str], schema: dict[str, Any], where: str) -> dict[str, Any]:
    """``key=value`` words, and words without a key in the order of the schema's properties, as an object.

    Values of string properties are taken as they are; others are JSON, or text where they are none.

    Raises:
        InvalidInput: A name that the schema does not have, a name given twice, or more words than properties.
    """
    properties: dict[str, Any] = schema.get("properties", {})
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name in properties):
            if equals and name.isidentifier():
                msg = f"{where} has no {name!r}; expected {_listed(properties)}"
                raise InvalidInput(msg)
            name, value = _next_free(properties, found, word, where), word
        if name in found:
            msg = f"{where} got {name!r} twice"
            raise InvalidInput(msg)
        found[name] = _value(value, resolved(properties[name], schema))
    return found


def fields(words: Sequence[str], where: str) -> dict[str, Any]:
    """``key=value`` words as an object without a schema: values are JSON, or text where they are none.

    Raises ``InvalidInput``.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name.isidentifier()):
            msg = f"{where}: expected key=value, got {word!r}"
            raise InvalidInput(msg)
        if name in found:
            msg = f"{where} got {name!r} twice"
            raise InvalidInput(msg)
        found[name] = _value(value, {})
    return found


def arguments(words: Sequence[str], json_input: str | None, where: str) -> dict[str, Any]:
    """The arguments of a query or update, from ``key=value`` words or from JSON. Raises ``InvalidInput``."""
    if json_input is None:
        return fields(words, where)
    if words:
        msg = f"{where} was given twice, by --input and as {' '.join(words)!r}: leave one out"
        raise InvalidInput(msg)
    value = parsed(json_input, "--input")
    if not isinstance(value, dict):
        msg = f"--input: expected an object of arguments by name, got {json_input[:80]!r}"
        raise InvalidInput(msg)
    return cast("dict[str, Any]", value)


def pairs(words: Sequence[str], where: str) -> dict[str, str]:
    """``key=value`` words as texts, such as tags. Raises ``InvalidInput``."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name):
            msg = f"{where}: expected key=value, got {word!r}"
            raise InvalidInput(msg)
        if name in found:
            msg = f"{where} got {name!r} twice"
            raise InvalidInput(msg)
        found[name] = value
    return found


def resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """A schema with its local ``$ref`` followed, and ``X | None`` taken for ``X``."""
    seen: set[str] = set()
    while (ref := schema.get("$ref")) and ref not in seen and ref.startswith("#/"):
        seen.add(ref)
        target: Any = root
        for part in ref[2:].split("/"):
            target = target[part]
        schema = cast("dict[str, Any]", target)
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    return resolved(options[0], root) if len(options) == 1 else schema


def _value(text: str, schema: dict[str, Any]) -> Any:
    if schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _next_free(properties: dict[str, Any], found: dict[str, Any], word: str, where: str) -> str:
    free = [name for name in properties if name not in found]
    if not free:
        msg = f"{where}: {word!r} is one word too many; expected {_listed(properties)}"
        raise InvalidInput(msg)
    return free[0]


def _listed(properties: dict[str, Any]) -> str:
    return ", ".join(f"{name}=…" for name in properties) or "no arguments"
