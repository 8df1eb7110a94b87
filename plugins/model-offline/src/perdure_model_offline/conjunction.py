"""A JSON schema without its combinators: what ``allOf``, ``anyOf``, ``oneOf``, ``$ref`` and ``if`` come down to.

``alternatives`` turns a schema into plain ones, each of which says in one object what must hold if one branch is
chosen of each choice. They are to be tried in order; what is made from one is still to be checked against the schema
itself (``oneOf`` allows one branch only, ``not`` and the like are not looked at).
"""

from __future__ import annotations

import math
from itertools import islice, product
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from urllib.parse import unquote

from perdure.errors import ModelRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Schema: TypeAlias = "dict[str, Any]"
Opened: TypeAlias = "tuple[str, ...]"
"""The references that a place stands within."""

_MOST: Final = 64
"""Alternatives of one schema that are looked at."""

_SAME_REFERENCE: Final = 2
"""How often a reference may stand within itself: beyond it, a recursive schema has to end."""


class Unfillable(ModelRefused):
    """No value was found; says for which place and why. The model adds which schema it was, and the way out."""


class Schemas:
    """A schema document: finds what references in it mean, and takes its combinators apart."""

    def __init__(self, root: Any) -> None:
        self._root = root

    def resolve(self, reference: str) -> Any:
        """The schema that a local reference means. Raises ``Unfillable`` for another document's."""
        if reference.startswith("#") and (reference == "#" or reference[1] == "/"):
            node: Any = self._root
            try:
                for part in unquote(reference).split("/")[1:]:
                    key = part.replace("~1", "/").replace("~0", "~")
                    node = cast("list[Any]", node)[int(key)] if isinstance(node, list) else node[key]
            except (KeyError, IndexError, ValueError, TypeError):
                msg = f"the reference {reference!r} leads nowhere"
                raise Unfillable(msg) from None
            return node
        found = _anchored(self._root, reference.removeprefix("#"))
        if found is None:
            msg = f"the reference {reference!r} is not to this document"
            raise Unfillable(msg)
        return found

    def alternatives(self, schema: Any, opened: Opened) -> Iterator[tuple[Schema, Opened]]:
        """Plain schemas, likely ones first, each with the references that are open within it."""
        return islice(self._expand({}, [schema], opened), _MOST)

    def _expand(self, flat: Schema, todo: list[Any], opened: Opened) -> Iterator[tuple[Schema, Opened]]:
        if not todo:
            yield flat, opened
            return
        schema, *rest = todo
        if schema is False:
            return
        if not isinstance(schema, dict):  # ``true``
            yield from self._expand(flat, rest, opened)
            return
        node = cast("Schema", schema)
        merged = merge(flat, {key: value for key, value in node.items() if key not in _COMBINATORS})
        if merged is None:
            return
        for key in ("$ref", "$dynamicRef"):
            if key in node:
                reference = str(node[key])
                if opened.count(reference) >= _SAME_REFERENCE:
                    return
                opened = (*opened, reference)
                rest = [self.resolve(reference), *rest]
        rest = [*node.get("allOf", ()), *rest]
        for chosen in product(*_choices(node)):
            yield from self._expand(merged, [*chosen, *rest], opened)


def _choices(node: Schema) -> Iterator[list[Any]]:
    for key in ("anyOf", "oneOf"):
        if key in node:
            yield sorted(node[key], key=_is_null)
    if "if" in node:
        yield [
            {"allOf": [node["if"], node.get("then", True)]},
            node.get("else", True),
        ]


def _is_null(schema: Any) -> bool:
    node = as_mapping(schema)
    return node.get("type") == "null" or node.get("const", 0) is None


def as_mapping(schema: Any) -> Schema:
    """The schema's keywords; of ``true`` and ``false``, none."""
    return cast("Schema", schema) if isinstance(schema, dict) else {}


def _anchored(node: Any, name: str) -> Any:
    if isinstance(node, dict):
        mapping = cast("Schema", node)
        if name in {mapping.get("$anchor"), mapping.get("$dynamicAnchor"), mapping.get("$id")}:
            return mapping
        return next((found for item in mapping.values() if (found := _anchored(item, name)) is not None), None)
    if isinstance(node, list):
        items = cast("list[Any]", node)
        return next((found for item in items if (found := _anchored(item, name)) is not None), None)
    return None


def both(one: Any, other: Any) -> Any:
    """A schema that wants what both want."""
    if one is True or one == other:
        return other
    return one if other is True else {"allOf": [one, other]}


def merge(one: Schema, other: Schema) -> Schema | None:
    """Two plain schemas as one, or ``None`` if they contradict each other at sight."""
    merged = {**one, **other}
    for key in one.keys() & other.keys():
        if one[key] != other[key]:
            value = _MERGED.get(key, _first)(one[key], other[key])
            if value is None:
                return None
            merged[key] = value
    if "properties" in merged or "patternProperties" in merged:
        merged["properties"] = {**merged.get("properties", {}), **_bounded(one, other), **_bounded(other, one)}
    if "const" in merged and "enum" in merged and merged["const"] not in merged["enum"]:
        return None
    return merged


def _bounded(one: Schema, other: Schema) -> Schema:
    """The properties that only one knows, as the other's ``additionalProperties`` wants them."""
    rest = other.get("additionalProperties", True)
    known = other.get("properties", {})
    if rest is True or other.get("patternProperties"):
        return {}
    return {name: both(schema, rest) for name, schema in one.get("properties", {}).items() if name not in known}


def _types(one: Any, other: Any) -> Any:
    ours, theirs = ([kinds] if isinstance(kinds, str) else list(kinds) for kinds in (one, other))
    shared = [kind for kind in ours if kind in theirs or (kind == "integer" and "number" in theirs)]
    shared += [kind for kind in theirs if kind == "integer" and "number" in ours and kind not in shared]
    return shared or None


def _mappings(one: Schema, other: Schema) -> Schema:
    return {key: both(one.get(key, True), other.get(key, True)) for key in {**one, **other}}


def _lists(one: Any, other: Any) -> Any:
    if not isinstance(one, list) or not isinstance(other, list):
        return both(one, other)
    ours, theirs = cast("list[Any]", one), cast("list[Any]", other)
    longer = max(len(ours), len(theirs))
    padded = ([*items, *[True] * (longer - len(items))] for items in (ours, theirs))
    return [both(left, right) for left, right in zip(*padded, strict=True)]


def _multiple(one: Any, other: Any) -> Any:
    whole = isinstance(one, int) and isinstance(other, int)
    return math.lcm(one, other) if whole else max(one, other)


def _first(one: Any, _: Any) -> Any:
    return one


_COMBINATORS: Final = frozenset({"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "then", "else"})

_MERGED: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "type": _types,
    "const": lambda _one, _other: None,
    "enum": lambda one, other: [value for value in one if value in other] or None,
    "required": lambda one, other: list(dict.fromkeys([*one, *other])),
    "properties": _mappings,
    "patternProperties": _mappings,
    "additionalProperties": both,
    "propertyNames": both,
    "items": _lists,
    "prefixItems": _lists,
    "contains": _first,
    "multipleOf": _multiple,
    "uniqueItems": lambda one, other: one or other,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"), min),
}
