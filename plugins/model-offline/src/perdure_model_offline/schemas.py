"""Any JSON schema filled from passages, by rule.

For each place in the schema there are candidates, likely ones first, and the first that validates is taken. So what
comes out is valid, or nothing does. The rules (the README has them in full):

- ``const`` and ``enum`` as they stand; of several values one that the text has the words of.
- An object gets its required and its optional properties; an array one item for each passage that there is to quote,
  within its bounds; both as little as they may where a schema recurs.
- A string gets a passage: the first string of an object the best, and so on; in the n-th item of an array the n-th
  best. ``pattern`` and ``format`` are looked for in the text, and made up where it has nothing that fits.
- A number is one that stands in the passage, else the one closest to zero within its bounds. A boolean is false: to
  judge takes more than quoting.
- An object with a place for a file or a line, by name or description, is a citation: file, line and all its strings
  are of one passage.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for
from referencing.exceptions import Unresolvable

from perdure_model_offline.conjunction import Opened, Schema, Schemas, Unfillable, as_mapping, both
from perdure_model_offline.passages import Passage, words_of
from perdure_model_offline.patterns import strings_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Unfillable", "fill"]

_CANDIDATES: Final = 200
"""How many values of one type are tried for one place and one alternative."""

_BUDGET: Final = 20_000
"""How many places are filled in all, attempts included; from half of it on, only what is required."""

_DEEP: Final = 8
"""Levels below which only what is required is filled."""

_ITEMS: Final = 3
_MOST_ITEMS: Final = 24
"""An array that may be of any length gets one item for each source, but from 3 to 24, if there are as many passages."""

_TITLE: Final = 60
"""Longest title in characters, if the schema leaves it open."""

_QUOTE_WORDS: Final = frozenset(
    {
        "quote",
        "quotation",
        "text",
        "statement",
        "sentence",
        "excerpt",
        "passage",
        "content",
        "claim",
        "summary",
        "body",
        "title",
        "wording",
    }
)
_FILE_WORDS: Final = frozenset({"file", "filename", "filepath", "path", "source", "document", "doc", "uri", "url"})
_LINE_WORDS: Final = frozenset({"line", "lineno"})
_TITLE_WORDS: Final = frozenset({"title", "headline", "subject", "heading"})

_FORMATS: Final = {
    "date": (r"\d{4}-\d{2}-\d{2}", "1970-01-01"),
    "date-time": (r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:[Zz]|[+-]\d{2}:\d{2})", "1970-01-01T00:00:00Z"),
    "time": (r"\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:[Zz]|[+-]\d{2}:\d{2})", "00:00:00Z"),
    "duration": (r"P(?:\d+[YMWD])+", "P0D"),
    "email": (r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "nobody@example.com"),
    "idn-email": (r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "nobody@example.com"),
    "hostname": (r"(?:[a-z0-9-]+\.)+[a-z]{2,}", "example.com"),
    "idn-hostname": (r"(?:[a-z0-9-]+\.)+[a-z]{2,}", "example.com"),
    "ipv4": (r"(?:\d{1,2}\.){3}\d{1,2}", "192.0.2.1"),
    "ipv6": (r"(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}", "2001:db8::1"),
    "uri": (r"https?://[^\s<>\"')\]]*[\w/]", "https://example.com/"),
    "uri-reference": (r"https?://[^\s<>\"')\]]*[\w/]", "https://example.com/"),
    "iri": (r"https?://[^\s<>\"')\]]*[\w/]", "https://example.com/"),
    "iri-reference": (r"https?://[^\s<>\"')\]]*[\w/]", "https://example.com/"),
    "uri-template": (r"https?://[^\s<>\"')\]]*[\w/}]", "https://example.com/"),
    "uuid": (r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "00000000-0000-0000-0000-000000000000"),
    "json-pointer": (r"(?!)", "/a"),
    "relative-json-pointer": (r"(?!)", "0"),
    "regex": (r"(?!)", ".*"),
    "byte": (r"(?!)", "AA=="),
    "ipvanyaddress": (r"(?:\d{1,2}\.){3}\d{1,2}", "192.0.2.1"),
    "ipvanyinterface": (r"(?:\d{1,2}\.){3}\d{1,2}", "192.0.2.1"),
    "ipvanynetwork": (r"(?:\d{1,2}\.){3}\d{1,2}", "192.0.2.1"),
}
"""By format (pydantic's own among them): how it looks in a text, and what stands for it where there is none."""

_EMPTY: Final[Schema] = {}

_INFERRED: Final = {
    "object": {"properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}
"""What the keywords of a schema without a type are about."""


class _Place(NamedTuple):
    """Where a value goes: its name and description, its passage by rank, whether that is an array's item, how deep."""

    name: str = ""
    description: str = ""
    passage: int = 0
    item: bool = False
    depth: int = 0

    def child(self, name: str, passage: int) -> _Place:
        return self._replace(name=name, description="", passage=passage, depth=self.depth + 1)


def fill(schema: Schema, passages: Sequence[Passage]) -> str:
    """A value that fits, as JSON.

    Args:
        schema: The JSON schema.
        passages: What to fill it with, the best first.

    Raises:
        Unfillable: The rules find no value that fits.
    """
    dialect = validator_for(schema, default=Draft202012Validator)
    try:
        dialect.check_schema(schema)
    except SchemaError as error:
        msg = f"it is no JSON schema: {error.message} at {error.json_path}"
        raise Unfillable(msg) from None
    numbered = [passage for passage in passages if passage.source]
    filler = _Filler(Schemas(schema), dialect(schema), numbered or passages)
    for value in filler.values(schema, _Place(), ()):
        return json.dumps(value, ensure_ascii=False)
    raise Unfillable(filler.reason)


class _Filler:
    def __init__(self, schemas: Schemas, validator: Any, passages: Sequence[Passage]) -> None:
        self._schemas, self._validator, self._passages = schemas, validator, passages
        self._words = {word for passage in passages for word in words_of(passage.text)}
        self._text = "\n".join(passage.text for passage in passages)
        self._budget = _BUDGET
        self.reason = "nothing fits"
        self._blamed = -1

    def values(self, schema: Any, place: _Place, opened: Opened) -> Iterator[Any]:
        """Distinct values that fit a schema at a place, likely ones first."""
        check = self._validator.evolve(schema=schema)
        seen: set[str] = set()
        found = False
        try:
            for flat, within in self._schemas.alternatives(schema, opened):
                if not self._spend():
                    break
                described = place._replace(description=str(flat.get("description", place.description)))
                for value in self._candidates(flat, described, within):
                    key = _key(value)
                    if key not in seen and check.is_valid(value):
                        found = True
                        yield value
                    seen.add(key)
        except (Unfillable, Unresolvable, RecursionError, ValueError, re.error) as error:
            self._blame(place, str(error))
        if not found:
            self._blame(place, "allows nothing that the rules can make")

    def _blame(self, place: _Place, why: str) -> None:
        """Keep the innermost reason: those around it fail because of it."""
        if place.depth > self._blamed:
            self._blamed = place.depth
            self.reason = f"{place.name!r}: {why}" if place.name else why

    def _spend(self) -> bool:
        self._budget -= 1
        return self._budget >= 0

    def _frugal(self, place: _Place) -> bool:
        return place.depth >= _DEEP or self._budget < _BUDGET // 2

    def _candidates(self, flat: Schema, place: _Place, opened: Opened) -> Iterator[Any]:
        if "const" in flat:
            yield flat["const"]
        elif "enum" in flat:
            yield from sorted(flat["enum"], key=self._unmentioned)
        else:
            for kind in _kinds(flat):
                yield from islice(_MAKERS[kind](self, flat, place, opened), _CANDIDATES)

    def _unmentioned(self, value: Any) -> bool:
        words = words_of(str(value).replace("_", " "))
        return not (words and self._words.issuperset(words))

    # -- strings

    def strings(self, flat: Schema, place: _Place, _: Opened) -> Iterator[str]:
        shortest, longest = int(flat.get("minLength", 0)), flat.get("maxLength")
        if "pattern" in flat:
            yield from self._patterned(str(flat["pattern"]), shortest)
        if found := _FORMATS.get(str(flat.get("format"))):
            yield from re.findall(found[0], self._text)
            yield found[1]
        for text in self._texts(place):
            yield _fitted(text, self._text, shortest, longest)
        for number in range(1, _CANDIDATES):
            yield _fitted(f"{number} {place.name or 'item'}", "", shortest, longest)

    def _patterned(self, pattern: str, shortest: int) -> Iterator[str]:
        anchors = re.compile(pattern)
        yield from islice((word for word in self._text.split() if anchors.search(word)), 8)
        yield from islice((passage.text for passage in self._passages if anchors.search(passage.text)), 8)
        yield from strings_for(pattern, shortest)

    def _texts(self, place: _Place) -> Iterator[str]:
        role = _role(place)
        near = self._near(place)
        if near and near[0].source and role != "quote":
            yield near[0].source if role == "file" else str(near[0].line) if role == "line" else near[0].text
        for passage in near:
            yield _cut(passage.text, _TITLE).rstrip(".,:; ") if _words(place.name) & _TITLE_WORDS else passage.text
        if not near:
            yield "There was no text to quote."

    def _near(self, place: _Place) -> list[Passage]:
        """The place's passage and the next ones, around to the best."""
        total = len(self._passages)
        return [self._passages[(place.passage + step) % total] for step in range(min(total, 32))]

    # -- numbers and the like

    def integers(self, flat: Schema, place: _Place, _: Opened) -> Iterator[int]:
        yield from (int(number) for number in self._numbers(flat, place, Fraction(1)) if number.denominator == 1)

    def numbers(self, flat: Schema, place: _Place, _: Opened) -> Iterator[float]:
        for number in self._numbers(flat, place, None):
            yield int(number) if number.denominator == 1 else float(number)

    def _numbers(self, flat: Schema, place: _Place, step: Fraction | None) -> Iterator[Fraction]:
        near = self._near(place)
        if near:
            if _role(place) == "line" and near[0].source:
                yield Fraction(near[0].line)
            yield from map(Fraction, re.findall(r"(?<![\w.])\d{1,15}(?:\.\d{1,6})?(?![\w.]*\w)", near[0].text))
        yield from islice(_closest_to_zero(flat, step), 100)

    def booleans(self, _: Schema, __: _Place, ___: Opened) -> Iterator[bool]:
        yield from (False, True)

    def nulls(self, _: Schema, __: _Place, ___: Opened) -> Iterator[None]:
        yield None

    # -- arrays

    def arrays(self, flat: Schema, place: _Place, opened: Opened) -> Iterator[list[Any]]:
        least, most = int(flat.get("minItems", 0)), int(flat.get("maxItems", 1 << 30))
        first, rest = _item_schemas(flat)
        wanted = self._wanted(rest, place, opened) if rest is not False else 0
        lengths = [min(max(least, wanted, len(first)), most), least, least + 1, len(first), min(most, _MOST_ITEMS)]
        for variant in range(3):
            for length in dict.fromkeys(lengths):
                if least <= length <= most:
                    made = self._items(flat, length, place, opened, variant)
                    if len(made) >= least:
                        yield made

    def _wanted(self, item: Any, place: _Place, opened: Opened) -> int:
        if self._frugal(place):
            return 0
        flat = next((flat for flat, _ in self._schemas.alternatives(item, opened)), _EMPTY)
        if place.item or not {"string", "object"} & set(_kinds(flat)[:1]) or "enum" in flat:
            return 1
        sources = len({passage.source for passage in self._passages})
        return min(max(_ITEMS, sources), _MOST_ITEMS, len(self._passages) or 1)

    def _items(self, flat: Schema, length: int, place: _Place, opened: Opened, variant: int) -> list[Any]:
        first, rest = _item_schemas(flat)
        contained = int(flat.get("minContains", 1)) if "contains" in flat else 0
        made: list[Any] = []
        keys: set[str] = set()
        for at in range(length):
            schema = first[at] if at < len(first) else rest
            if len(first) <= at < len(first) + contained or (at < contained and length <= len(first)):
                schema = both(schema, flat["contains"])
            here = place.child(place.name, place.passage + at)._replace(item=True)
            values = self.values(schema, here, opened)
            fresh = (value for value in values if not (flat.get("uniqueItems") and _key(value) in keys))
            found = list(islice(fresh, variant + 1 if at == 0 else 1))
            if not found:
                break
            made.append(found[-1])
            keys.add(_key(found[-1]))
        return made

    # -- objects

    def objects(self, flat: Schema, place: _Place, opened: Opened) -> Iterator[dict[str, Any]]:
        required = _required(flat)
        optional = [name for name in flat.get("properties", {}) if name not in required]
        least, most = int(flat.get("minProperties", 0)), int(flat.get("maxProperties", 1 << 30))
        likely = [] if self._frugal(place) else optional[: max(0, most - len(required))]
        choices = chain(
            [likely, []],
            ([name] for name in optional),
            ([other for other in likely if other != name] for name in likely),
        )
        for chosen in choices:
            known = flat.get("properties", {})
            names = [name for name in known if name in required or name in chosen]
            names += [name for name in required if name not in names]
            names += self._more_names(flat, names, least - len(names), opened)
            for made in self._built(flat, names, place, opened):
                if required.keys() <= made.keys():
                    yield made

    def _built(self, flat: Schema, names: list[str], place: _Place, opened: Opened) -> Iterator[dict[str, Any]]:
        """The object from its own passage; of a citation that does not hold, from the next ones; then variants."""
        if not self._cites_itself(flat):
            yield from self._variants(flat, names, place, opened)
            return
        fallback: list[dict[str, Any]] = []
        for step in range(min(len(self._passages), 12)):
            moved = place._replace(passage=place.passage + step)
            made = next(self._variants(flat, names, moved, opened), None)
            if made is not None and self._holds(flat, made, moved):
                yield made
            elif made is not None:
                fallback.append(made)
        yield from fallback
        yield from self._variants(flat, names, place, opened)

    def _variants(self, flat: Schema, names: list[str], place: _Place, opened: Opened) -> Iterator[dict[str, Any]]:
        places = self._places(flat, names, place, opened)
        made: dict[str, Any] = {}
        for name, here in places.items():
            for value in self.values(_property_schema(flat, name), here, opened):
                made[name] = value
                break
        yield made
        for name, here in places.items():
            for value in islice(self.values(_property_schema(flat, name), here, opened), 1, 4):
                yield {**made, name: value}

    def _places(self, flat: Schema, names: list[str], place: _Place, opened: Opened) -> dict[str, _Place]:
        """One passage for all of a citation, and of an item that has citations in it; else the next for each string."""
        one = self._cites_itself(flat) or (place.item and self._has_citations(flat, opened, 3))
        steps = count(place.passage)
        places: dict[str, _Place] = {}
        for name in names:
            within = next(
                (found for found, _ in self._schemas.alternatives(_property_schema(flat, name), opened)), _EMPTY
            )
            successive = not one and _kinds(within)[0] == "string" and "enum" not in within and "const" not in within
            places[name] = place.child(name, next(steps) if successive else place.passage)
        return places

    def _cites_itself(self, flat: Schema) -> bool:
        if not self._passages or not self._passages[0].source:
            return False
        return any(
            _role(_Place(name, str(as_mapping(schema).get("description", "")))) in {"file", "line"}
            for name, schema in flat.get("properties", {}).items()
        )

    def _has_citations(self, flat: Schema, opened: Opened, levels: int) -> bool:
        if self._cites_itself(flat):
            return True
        inner = [*flat.get("properties", {}).values(), _item_schemas(flat)[1]]
        return levels > 0 and any(
            self._has_citations(within, deeper, levels - 1)
            for schema in inner
            for within, deeper in islice(self._schemas.alternatives(schema, opened), 1)
        )

    def _holds(self, flat: Schema, made: dict[str, Any], place: _Place) -> bool:
        """Whether file, line and texts are those of the place's passage."""
        passage = self._near(place)[0]
        for name, value in made.items():
            role = _role(_Place(name, str(as_mapping(_property_schema(flat, name)).get("description", ""))))
            if role == "file" and value != passage.source:
                return False
            if role == "line" and str(value) != str(passage.line):
                return False
            if role == "quote" and isinstance(value, str) and value not in passage.text:
                return False
        return True

    def _more_names(self, flat: Schema, names: list[str], missing: int, opened: Opened) -> list[str]:
        """Names for an object that needs more properties than it has: as it patterns or names them, else counted."""
        if missing <= 0:
            return []
        patterned = chain.from_iterable(strings_for(pattern) for pattern in flat.get("patternProperties", {}))
        named = self.values(both({"type": "string"}, flat.get("propertyNames", True)), _Place("item"), opened)
        fresh = (name for name in chain(patterned, named) if name not in names)
        return list(islice(dict.fromkeys(islice(fresh, missing * 4)), missing))


_MAKERS: Final[dict[str, Callable[[_Filler, Schema, _Place, Opened], Iterator[Any]]]] = {
    "string": _Filler.strings,
    "integer": _Filler.integers,
    "number": _Filler.numbers,
    "boolean": _Filler.booleans,
    "object": _Filler.objects,
    "array": _Filler.arrays,
    "null": _Filler.nulls,
}


def _kinds(flat: Schema) -> list[str]:
    """The types that a plain schema allows, likely ones first."""
    declared = flat.get("type")
    if declared is None:
        inferred = [kind for kind, keywords in _INFERRED.items() if keywords & flat.keys()]
        return list(dict.fromkeys([*inferred, *_MAKERS]))
    return sorted([declared] if isinstance(declared, str) else declared, key=lambda kind: kind == "null")


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower()))


def _role(place: _Place) -> str:
    """What a place is in a citation, by its name, else by its description: ``quote``, ``line``, ``file`` or nothing."""
    for words in (_words(place.name), _words(place.description)):
        for role, known in (("quote", _QUOTE_WORDS), ("line", _LINE_WORDS), ("file", _FILE_WORDS)):
            if words & known:
                return role
    return ""


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _cut(text: str, longest: int) -> str:
    """At most so many characters, whole words if it has any."""
    if len(text) <= longest:
        return text
    return text[: longest + 1].rpartition(" ")[0].rstrip() or text[:longest]


def _fitted(text: str, more: str, shortest: int, longest: int | None) -> str:
    while len(text) < shortest:
        text = f"{text} {more or text or 'x'}"
    if longest is None or len(text) <= longest:
        return text
    cut = _cut(text, int(longest))
    return cut if len(cut) >= shortest else text[: int(longest)]


def _item_schemas(flat: Schema) -> tuple[list[Any], Any]:
    """The schemas of the first items, one each, and of the others; in the words of any draft."""
    items = flat.get("items", True)
    if isinstance(items, list):
        return cast("list[Any]", items), flat.get("additionalItems", True)
    return flat.get("prefixItems", []), items


def _required(flat: Schema) -> dict[str, None]:
    """What must be there, and what that in turn wants to be there; in order."""
    names = dict.fromkeys(cast("Iterable[str]", flat.get("required", ())))
    wants = flat.get("dependentRequired", {})
    todo = list(names)
    while todo:
        fresh = [name for name in wants.get(todo.pop(), ()) if name not in names]
        names.update(dict.fromkeys(fresh))
        todo += fresh
    return names


def _property_schema(flat: Schema, name: str) -> Any:
    schema: Any = flat.get("properties", {}).get(name, True)
    known = name in flat.get("properties", {})
    for pattern, wanted in flat.get("patternProperties", {}).items():
        if re.search(pattern, name):
            schema, known = both(schema, wanted), True
    return schema if known else flat.get("additionalProperties", True)


def _closest_to_zero(flat: Schema, step: Fraction | None) -> Iterator[Fraction]:
    """Numbers within bounds, from the one closest to zero on; then the bounds, and what lies between."""
    lows = [_exact(flat[key]) for key in ("minimum", "exclusiveMinimum") if _is_number(flat.get(key))]
    highs = [_exact(flat[key]) for key in ("maximum", "exclusiveMaximum") if _is_number(flat.get(key))]
    low, high = max(lows, default=None), min(highs, default=None)
    pace = _exact(flat["multipleOf"]) if "multipleOf" in flat else step or Fraction(1)
    if low is not None and low > 0:
        begin = -(-low // pace) * pace
    elif high is not None and high < 0:
        begin, pace = high // pace * pace, -pace
    else:
        begin = Fraction(0)
    yield from (begin + pace * number for number in range(32))
    yield from (begin - pace * number for number in range(1, 32))
    yield from (bound for bound in (low, high) if bound is not None)
    if low is not None and high is not None:
        yield from (low + (high - low) * Fraction(part, 16) for part in (8, *range(1, 16)))


def _exact(number: float) -> Fraction:
    return Fraction(str(number))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
