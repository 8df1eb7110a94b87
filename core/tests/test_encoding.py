"""Values to JSON and back: what comes back as what, what is refused, and how that is said."""

from __future__ import annotations

import asyncio
import enum
import math
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import pytest
from pydantic import BaseModel, Field, field_serializer

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:
    from typing_extensions import TypedDict

from perdure import Context, encoding
from perdure.encoding import Parameters
from perdure.errors import InvalidInput, NotEncodable, UsageError

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "Red"
    BLUE = "Blue"


class Point(NamedTuple):
    x: int
    y: int


class Named(TypedDict):
    name: str


class Box(BaseModel, Generic[T]):
    item: T


class Mail(BaseModel):
    sender: str = Field(alias="from")
    weight: float = 0.0


@dataclass(frozen=True)
class Line:
    start: Point
    tags: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)


class Sour(BaseModel):
    x: int = 0

    @field_serializer("x")
    def _write(self, _: int) -> int:
        msg = "too sour"
        raise ValueError(msg)


VALUES = [
    (None, None),
    (True, bool),
    (2**80, int),
    ("naïve ✓\u2028", str),
    (b"text", bytes),
    (1.5, float),
    (Decimal("1.10"), Decimal),
    (datetime(2026, 1, 2, 3, 4, 5, 678, UTC), datetime),
    (date(2026, 1, 2), date),
    (timedelta(days=3, seconds=1), timedelta),
    (uuid.UUID(int=7), uuid.UUID),
    (Path("a/b"), Path),
    (Colour.RED, Colour),
    ("Red", Literal["Red", "Blue"]),
    (Point(1, 2), Point),
    ({"name": "n"}, Named),
    (Box[int](item=1), Box[int]),
    (Box[Point](item=Point(1, 2)), Box[Point]),
    (Line(Point(1, 2), frozenset({"a"}), ["n"]), Line),
    (Mail(**{"from": "a"}), Mail),
    ((1, "a"), tuple[int, str]),
    ({"a": (1, 2)}, dict[str, tuple[int, int]]),
    ({1: {2, 3}}, dict[int, set[int]]),
    ([Mail(**{"from": "a"}), None], list[Mail | None]),
    (7, int | str),
    ("7", int | str),
    (5, Annotated[int, Field(gt=1)]),
    ([1, "a", None, {"b": [True]}], Any),
]


@pytest.mark.parametrize(("value", "annotation"), VALUES, ids=[str(n) for n in range(len(VALUES))])
def test_a_value_comes_back_as_what_it_was(value, annotation):
    back = encoding.decode(encoding.encode(value, annotation, "it"), annotation, "it")
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("value", "annotation", "says"),
    [
        (object(), Any, "Unable to serialize unknown type: <class 'object'>"),
        (asyncio.Event, Any, "Unable to serialize unknown type"),
        ("caf\udce9", str, "surrogates not allowed"),
        (b"\xff", bytes, "invalid utf-8 sequence"),
        (math.nan, float, "NaN is written as null"),
        (math.inf, float, "NaN is written as null"),
        ([1.0, -math.inf], list[float], "1: input should be a valid number"),
        (Mail(**{"from": "a", "weight": math.nan}), Mail, "weight: input should be a valid number"),
        ({"deep": [math.nan]}, Any, "NaN or an infinity, which JSON cannot carry"),
        ("abc", int, "the value: expected int, got str"),
        (None, int, "input should be a valid integer"),
        ({"nmae": "n"}, Named, "name: field required"),
        (Mail.model_construct(sender=3), Mail, "sender: expected str, got int"),
        (Sour(), Sour, "too sour"),
        (3, type("Odd", (), {}), "type <class 'test_encoding.Odd'> cannot travel as JSON|cannot travel as JSON"),
    ],
    ids=range(15),
)
def test_what_has_no_json_form_is_refused_with_place_and_reason(value, annotation, says):
    with pytest.raises(NotEncodable, match=says):
        encoding.encode(value, annotation, "the parcel")


def test_a_circle_is_refused():
    circle: list[Any] = []
    circle.append(circle)
    for act in (partial(encoding.encode, circle, Any, "it"), partial(encoding.fingerprint, (circle,), {}, "it")):
        with pytest.raises(NotEncodable, match="it cannot be written as JSON"):
            act()


def test_text_that_speaks_of_nan_is_text():
    assert encoding.encode({"a": "NaN"}, Any, "it") == b'{"a":"NaN"}'


@pytest.mark.parametrize(
    ("data", "annotation", "says"),
    [
        (b"{", Any, "the parcel is no JSON: EOF"),
        (b"", str, "the parcel does not fit: the value: invalid JSON"),
        (b"[" * 10_000, Any, "recursion limit exceeded"),
        (b'{"from": 3}', Mail, r"from: input should be a valid string \(got 3\)"),
        (b'"red"', Colour, "input should be 'Red' or 'Blue'"),
        (b'"x"', int, r"the value: input should be a valid integer.*\(got 'x'\)"),
    ],
    ids=["json", "empty", "deep", "field", "case", "value"],
)
def test_what_does_not_fit_is_said_by_field_expectation_and_value(data, annotation, says):
    with pytest.raises(InvalidInput, match=says):
        encoding.decode(data, annotation, "the parcel")


def test_of_many_misfits_five_are_shown_and_long_values_are_cut():
    with pytest.raises(InvalidInput) as caught:
        encoding.decode(b'["' + b"x" * 500 + b'",[],[],[],[],[],[]]', list[int], "it")
    assert str(caught.value).endswith("; and 2 more")
    assert len(str(caught.value)) < 600


# -- fingerprints


def test_fingerprints_are_short_and_tell_arguments_apart():
    prints = {
        encoding.fingerprint(args, kwargs, "it")
        for args, kwargs in [
            ((), {}),
            ((1,), {}),
            (("1",), {}),
            ((), {"a": 1}),
            ((Point(1, 2),), {}),
            ((math.nan,), {}),
        ]
    }
    assert len(prints) == 6
    assert {len(each) for each in prints} == {16}


@pytest.mark.parametrize(
    "wrap",
    [set, frozenset, lambda s: {"a": [set(s)]}, lambda s: Line(Point(0, 0), frozenset(s))],
    ids=["set", "frozen", "nested", "dataclass"],
)
def test_the_fingerprint_of_a_set_does_not_depend_on_its_order(wrap):
    # 0 and 8 collide in a small table, so the order of insertion is the order of iteration.
    assert encoding.fingerprint((wrap([0, 8]),), {}, "it") == encoding.fingerprint((wrap([8, 0]),), {}, "it")


def test_live_objects_have_no_fingerprint():
    with pytest.raises(
        NotEncodable, match=r"an argument of send cannot be written as JSON.*pass values, not live objects"
    ):
        encoding.fingerprint((asyncio.Event,), {}, "send")


# -- annotations


def postponed(ctx: Context, item: Box[Point], *, loud: bool = False) -> list[Point]: ...


def unresolved(item: Missing) -> None: ...  # noqa: F821 - that is what is tested


def test_postponed_annotations_are_found():
    assert encoding.returns_of(postponed) == list[Point]
    assert encoding.returns_of(partial(postponed, None)) == list[Point]


@pytest.mark.parametrize("act", [encoding.returns_of, lambda fn: Parameters(fn).model])
def test_an_annotation_that_is_not_there_at_run_time_is_named(act):
    with pytest.raises(UsageError, match=r"'unresolved' names 'Missing'.*outside 'if TYPE_CHECKING'"):
        act(unresolved)


def test_what_is_not_annotated_is_anything():
    assert encoding.returns_of(lambda: 1) is Any
    assert encoding.returns_of(len) is Any


# -- parameters


def test_parameters_are_validated_by_position_and_name_with_defaults():
    parameters = Parameters(postponed, skip=Context)
    assert parameters.skips
    data = parameters.encode(({"item": [1, 2]},), {"loud": True}, "it")
    assert data == b'{"item":{"item":[1,2]},"loud":true}'
    assert parameters.decode(b'{"item":{"item":[1,2]}}', "it") == {"item": Box[Point](item=Point(1, 2)), "loud": False}


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "item: field required"),
        ((1, 2), {}, r"takes 1 positional arguments \(item\), got 2"),
        ((1,), {"item": 1}, r"got \['item'\] both by position and by name"),
        (({"item": [1, 2]},), {"volume": 1}, "volume: extra inputs are not permitted"),
        (({"item": [1]},), {}, "item.item.y: missing required|item.item"),
    ],
    ids=["missing", "many", "twice", "unknown", "nested"],
)
def test_arguments_that_do_not_fit_name_the_field(args, kwargs, says):
    with pytest.raises(InvalidInput, match=says):
        Parameters(postponed, skip=Context).encode(args, kwargs, "workflow 'w'")


def positional(a: int, /) -> None: ...
def starred(*args: int) -> None: ...
def double(**kwargs: int) -> None: ...


@pytest.mark.parametrize("fn", [positional, starred, double])
def test_parameters_without_a_name_each_are_refused(fn):
    with pytest.raises(UsageError, match=f"{fn.__name__!r} takes .*: give every parameter a name and a type"):
        _ = Parameters(fn).model


def odd_names(json: str, _hidden: int, model_config: int, copy: bool = False, model_dump_x: int = 0) -> None: ...


def test_parameters_may_have_any_name():
    parameters = Parameters(odd_names)
    assert list(parameters.schema["properties"]) == ["json", "_hidden", "model_config", "copy", "model_dump_x"]
    given = {"json": "j", "_hidden": 1, "model_config": 2, "copy": True, "model_dump_x": 3}
    assert parameters.decode(parameters.encode((), given, "it"), "it") == given


def bounded(count: Annotated[int, Field(gt=0, description="how many")], tags: list[str] = []) -> None: ...  # noqa: B006


def test_annotations_say_more_and_mutable_defaults_are_not_shared():
    parameters = Parameters(bounded)
    assert parameters.schema["properties"]["count"]["description"] == "how many"
    with pytest.raises(InvalidInput, match=r"count: input should be greater than 0 \(got 0\)"):
        parameters.encode((0,), {}, "it")
    first, second = (parameters.decode(b'{"count":1}', "it")["tags"] for _ in range(2))
    assert first is not second


def live(event: asyncio.Event) -> None: ...
def called(back: Callable[[], None]) -> None: ...


def test_parameters_that_cannot_travel_name_the_function():
    with pytest.raises(UsageError, match="parameters of 'live' cannot travel as JSON"):
        _ = Parameters(live).model
    with pytest.raises(UsageError, match="parameters of 'called' have no JSON schema"):
        _ = Parameters(called).schema
