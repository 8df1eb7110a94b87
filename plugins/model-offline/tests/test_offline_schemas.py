import datetime as dt
import decimal
import enum
import json
import re
import uuid
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pydantic import AnyUrl, BaseModel, Field, IPvAnyAddress, TypeAdapter, conlist

from perdure_model_offline.passages import passages_of
from perdure_model_offline.patterns import strings_for
from perdure_model_offline.ranking import rank
from perdure_model_offline.schemas import Unfillable, fill

TEXT = """\
docs/ferry.md:1: # The ferry
docs/ferry.md:3: The ferry leaves the northern harbour at nine in the morning.
docs/ferry.md:4: It carries 40 cars and 120 passengers to the island every day.
docs/inn.md:2: Passengers wait at the inn while the storm warning of 2026-11-03 is out.
docs/inn.md:8: Write to inn@harbour.example or see https://harbour.example/inn for rooms.
"""
PASSAGES = rank(passages_of(TEXT), "")
PLAIN = rank(passages_of(re.sub(r"(?m)^\S+:\d+: ", "", TEXT)), "")


def filled(schema: dict[str, Any], passages=PASSAGES) -> Any:
    value = json.loads(fill(schema, passages))
    dialect = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    dialect(schema, format_checker=dialect.FORMAT_CHECKER).validate(value)
    return value


# -- schemas never seen: each is satisfiable by how it is made -----------------------------------------------

NAMES = st.sampled_from(["text", "file", "line", "title", "count", "tags", "source_path", "a b", "ä", "next"])


@st.composite
def strings(draw) -> dict[str, Any]:
    kind = draw(st.integers(0, 2))
    if kind == 0:
        shortest, length = draw(st.integers(0, 300)), draw(st.integers(0, 50))
        bounds = {"minLength": shortest, "maxLength": shortest + length}
        return {"type": "string", **{key: bounds[key] for key in draw(st.sets(st.sampled_from(sorted(bounds))))}}
    if kind == 1:
        return {"type": "string", "pattern": draw(st.sampled_from(PATTERNS))}
    return {"type": "string", "format": draw(st.sampled_from(FORMATS))}


PATTERNS = [
    r"^\d{4}-\d{2}-\d{2}$", r"^[A-Z]{3,5}$", r"^(yes|no)$", r"a+b*c?", r"^[^a-z]{2}$", r"^\S+\.md$", r"^(?:ab|cd)+x$",
    r"^(?!$)\w+$", r"^v(?P<major>\d+)\.\d+$", r"\bferry\b", r"^[\w.+-]+@[\w-]+\.[a-z]{2,}$", r"^.{12}$", r"^[-_a]{3}$",
    r"^\u0041\x42$", r"^$", r"^#(?:[0-9a-fA-F]{3}){1,2}$",
]  # fmt: skip
FORMATS = ["date", "date-time", "time", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "duration", "regex", "odd"]


@st.composite
def numbers(draw) -> dict[str, Any]:
    kind = draw(st.sampled_from(["integer", "number"]))
    step = draw(st.sampled_from([None, 3, 7, 0.25 if kind == "number" else 10]))
    low = draw(st.integers(-1000, 1000))
    bounds = {"minimum": low, "maximum": low + draw(st.integers(20, 500))}
    if draw(st.booleans()):
        bounds = {"exclusiveMinimum": low, "exclusiveMaximum": low + draw(st.integers(40, 500))}
    chosen = {key: bounds[key] for key in draw(st.sets(st.sampled_from(sorted(bounds))))}
    return {"type": kind, **chosen, **({"multipleOf": step} if step else {})}


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def made(draw) -> dict[str, Any]:
        properties = draw(st.dictionaries(NAMES, inner, max_size=4))
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if properties:
            schema["required"] = sorted(draw(st.sets(st.sampled_from(sorted(properties)))))
        rest = draw(st.sampled_from([None, False, True, {"type": "integer"}]))
        if rest is not None:
            schema["additionalProperties"] = rest
        if rest is not False and draw(st.booleans()):
            schema["minProperties"] = len(properties) + draw(st.integers(0, 3))
            schema["required"] = [*schema.get("required", []), "beyond"]
        elif properties and draw(st.booleans()):
            schema["maxProperties"] = max(len(schema["required"]), 1)
        return schema

    return made()


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def made(draw) -> dict[str, Any]:
        least = draw(st.integers(0, 6))
        if draw(st.booleans()):
            item = draw(
                st.sampled_from([{"type": "string"}, {"type": "integer", "minimum": -3}, {"type": "number"}, {}])
            )
            return {"type": "array", "items": item, "minItems": least, "uniqueItems": True}
        schema: dict[str, Any] = {"type": "array", "items": draw(inner), "minItems": least}
        if draw(st.booleans()):
            schema["maxItems"] = least + draw(st.integers(0, 3))
        if draw(st.booleans()):
            schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=2))
        return schema

    return made()


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    apart = [{"type": "string", "maxLength": 9}, {"type": "integer", "maximum": -2}, {"type": "array", "items": {}}]
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda several: {"anyOf": several}),
        inner.map(lambda one: {"anyOf": [one, {"type": "null"}], "default": None}),
        st.permutations(apart).map(lambda several: {"oneOf": several}),
        inner.map(lambda one: {"allOf": [one, {"description": "the file it stands in"}], "title": "T"}),
        st.sampled_from(["leaf", "tree"]).map(lambda name: {"$ref": f"#/$defs/{name}"}),
        inner.map(lambda one: {"if": {"type": "string"}, "then": {"maxLength": 4000}, "else": True, "anyOf": [one]}),
        st.sampled_from([{"not": {"type": "string"}}, {"not": {"const": False}, "type": "boolean"}, True, {}]),
    )


LEAVES = st.one_of(
    strings(),
    numbers(),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": {"a": [1]}}, {"type": ["null", "integer"]}]),
    st.lists(st.one_of(st.text(max_size=5), st.integers(), st.none()), min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ),
)
SCHEMAS = st.recursive(LEAVES, lambda inner: st.one_of(objects(inner), arrays(inner), combined(inner)), max_leaves=12)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(schema=SCHEMAS, passages=st.sampled_from([PASSAGES, PLAIN, PASSAGES[:1], []]))
def test_any_schema_is_filled_with_what_validates(schema, passages):
    leaf = {"type": "object", "properties": {"quote": {"type": "string"}, "line": {"type": "integer"}}}
    children = {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}
    tree = {"type": "object", "properties": {"leaf": {"$ref": "#/$defs/leaf"}, "children": children}}
    root = {"type": "object", "properties": {"value": schema}, "required": ["value"]}
    filled({**root, "$defs": {"leaf": leaf, "tree": {**tree, "required": ["leaf", "children"]}}}, passages)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(schema=SCHEMAS)
def test_the_same_schema_is_filled_the_same(schema):
    root = {"anyOf": [schema, True], "$defs": {"leaf": {"type": "string"}, "tree": {"type": "integer"}}}
    assert fill(root, PASSAGES) == fill(root, PASSAGES)


# -- what authors write -----------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Node(BaseModel):
    label: str
    children: "list[Node]" = []
    parent: "Node | None" = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Citation(BaseModel):
    source: str
    line_number: int
    quote: str = Field(min_length=5)


class Finding(BaseModel):
    claim: str
    evidence: list[Citation] = Field(min_length=1)


TYPES = [
    dict[str, int], dict[Literal["a", "b"], str], list[Finding], tuple[int, str, bool], set[Colour], Node, Finding,
    Annotated[Cat | Dog, Field(discriminator="kind")], decimal.Decimal, dt.datetime, dt.date, dt.time,
    dt.timedelta, uuid.UUID, AnyUrl, IPvAnyAddress, bytes, float, Any, Colour | None, frozenset[bool],
    conlist(str, min_length=7, max_length=7), Annotated[str, Field(pattern=r"^[A-Z]{2}-\d+$")], Literal[3, "x"] | None,
    Annotated[int, Field(multiple_of=7, gt=10)], dict[str, list[Node]], list[dict[str, Cat | Dog]],
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("passages", [PASSAGES, []], ids=["text", "none"])
def test_types_of_authors_are_filled_with_what_they_take(kind, passages):
    adapter = TypeAdapter(kind)
    adapter.validate_json(fill(adapter.json_schema(), passages))


# -- the rules ------------------------------------------------------------------------------------------------

NEEDS_A = {"required": ["a"]}


def test_citations_are_of_one_passage_however_they_are_nested():
    for finding in filled(TypeAdapter(list[Finding]).json_schema()):
        for citation in finding["evidence"]:
            assert finding["claim"] == citation["quote"]
            assert f"{citation['source']}:{citation['line_number']}: " in TEXT
            cited = f"{citation['source']}:{citation['line_number']}: "
            assert citation["quote"] in next(line for line in TEXT.splitlines() if line.startswith(cited))


def test_citations_are_known_by_description_too():
    properties = {
        "where": {"type": "string", "description": "Path of the file."},
        "at": {"type": "integer", "description": "The line, from 1."},
        "what": {"type": "string", "description": "The statement, word for word."},
    }
    made = filled({"type": "object", "properties": properties, "required": [*properties]})
    assert f"{made['where']}:{made['at']}: {made['what']}" in TEXT


def test_a_citation_too_short_for_its_bounds_gives_way_to_one_that_fits():
    quote = {"type": "string", "minLength": 70}
    properties = {"file": {"type": "string"}, "line": {"type": "integer"}, "quote": quote}
    made = filled({"type": "object", "properties": properties, "required": [*properties]})
    assert f"{made['file']}:{made['line']}: {made['quote']}" in TEXT


def test_items_take_passages_in_order_and_strings_of_one_object_one_each():
    properties = {"first": {"type": "string"}, "second": {"type": "string"}}
    made = filled({"type": "object", "properties": properties, "required": [*properties]})
    assert [made["first"], made["second"]] == [passage.text for passage in PASSAGES[:2]]
    many = filled({"type": "array", "items": {"type": "string"}, "minItems": 4, "maxItems": 4})
    assert many == [passage.text for passage in PASSAGES[:4]]


def test_values_are_looked_for_in_the_text():
    formats = {"date": "2026-11-03", "email": "inn@harbour.example", "uri": "https://harbour.example/inn"}
    for name, expected in formats.items():
        assert filled({"type": "string", "format": name}) == expected
    assert filled({"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"}) == "2026-11-03"
    assert filled({"enum": ["train", "northern harbour"]}) == "northern harbour"


def test_numbers_without_one_in_the_text_are_the_closest_to_zero():
    cases = {
        0: {"type": "integer"},
        10: {"type": "integer", "minimum": 7, "multipleOf": 5},
        -3: {"type": "integer", "maximum": -3},
        0.5: {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
        0.75: {"type": "number", "multipleOf": 0.25, "minimum": 0.6},
    }
    assert [filled(schema, []) for schema in cases.values()] == list(cases)


def test_titles_are_short_and_strings_are_cut_between_words():
    schema = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    assert len(filled(schema)["title"]) <= 60
    cut = filled({"type": "string", "maxLength": 12})
    assert PASSAGES[0].text.startswith(f"{cut} ")


def test_recursive_schemas_end():
    assert filled(Node.model_json_schema())["children"]
    endless = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}}}
    filled(endless)
    mutual = {name: {"type": "object", "additionalProperties": False} for name in "abcdef"}
    for schema in mutual.values():
        schema["properties"] = {name: {"$ref": f"#/$defs/{name}"} for name in mutual}
    filled({"$ref": "#/$defs/a", "$defs": mutual})


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"properties": {"a": {"minLength": 3}}}, {"properties": {"a": {"maxLength": 4}}}, NEEDS_A]},
        {"allOf": [{"type": ["integer", "string"]}, {"type": ["number", "null"]}, {"minimum": 2}, {"maximum": 2}]},
        {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 2}]},
        {"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {"type": "string"}, "b": {}}},
        {"type": "object", "minProperties": 3, "propertyNames": {"pattern": "^x-[a-z]+$"}},
        {"type": "object", "patternProperties": {"^n_": {"type": "integer"}}, "minProperties": 2, "required": ["n_a"],
         "additionalProperties": False},
        {"type": "object", "properties": {"a": {}, "b": {"const": 1}}, "dependentRequired": {"a": ["b", "c"]}},
        {"type": "array", "contains": {"const": 5}, "minContains": 2, "items": {"type": "integer"}},
        {"type": "array", "prefixItems": [{"const": "x"}, {"type": "boolean"}], "items": False, "minItems": 2},
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 3},
        {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 2},
        {"if": {"properties": {"kind": {"const": "a"}}}, "then": {"required": ["x"]},
         "properties": {"kind": {"enum": ["a"]}}, "required": ["kind"], "type": "object"},
        {"not": {"enum": [0, None, False, ""]}, "type": ["integer", "boolean"]},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "integer"}, {}],
         "additionalItems": {"type": "string"}, "minItems": 3},
        {"$ref": "#/definitions/a%20b/properties/c~1d", "definitions": {"a b": {"properties": {"c/d": {"const": 7}}}}},
        {"$ref": "#here", "$defs": {"x": {"$anchor": "here", "type": "integer"}}},
        {"type": "string", "minLength": 2000, "maxLength": 2001},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "unevaluatedProperties": False},
    ],
)  # fmt: skip
@pytest.mark.parametrize("passages", [PASSAGES, []], ids=["text", "none"])
def test_combinators_are_obeyed(schema, passages):
    filled(schema, passages)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "string", "minLength": 3, "maxLength": 2}, "allows nothing"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "'a'.*allows nothing"),
        ({"$ref": "#"}, "allows nothing"),
        ({"$ref": "#/$defs/missing"}, "leads nowhere"),
        ({"$ref": "https://elsewhere.example/schema"}, "not to this document"),
        ({"type": "strin"}, "no JSON schema"),
        ({"type": "string", "pattern": "(["}, "no JSON schema"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "allows nothing"),
        ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 3}, "allows nothing"),
    ],
)
def test_what_cannot_be_filled_says_where_and_why(schema, why):
    with pytest.raises(Unfillable, match=why):
        fill(schema, PASSAGES)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_strings_are_made_for_a_pattern(pattern):
    assert any(re.search(pattern, text) for text in strings_for(pattern))
