"""The methods of the ``DurableStore`` port as JSON: arguments, results and errors. Built from the port's type hints.

A method that the port gains is carried without a word here. Payloads are bytes: where all of a call's are UTF-8, they
stand in its JSON as text, else as base64, which the media type says. Floats and integers come out as they went in.
"""

from __future__ import annotations

import base64
import collections.abc
import inspect
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, cast, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, WrapValidator, create_model
from pydantic_core import PydanticSerializationError, from_json, to_json

from perdure import errors, messages
from perdure.errors import InvalidInput, NotEncodable, PerdureError, UnknownName
from perdure.messages import Claim, RunView
from perdure.ports import DurableStore
from perdure_hosting import wire
from perdure_hosting.wire_pb2 import Frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TARGET: Final = "~store"
"""The agent type that requests to a host's store are addressed to; the key is the method."""

BEAT: Final = "~beat"
"""The method by which a worker says that it is alive; see ``Beat``."""

TEXT: Final = "application/json"
BASE64: Final = "application/json; bytes=base64"

_ATTRIBUTES: Final = "perdure-error"
_RAW: Final = "~bytes"
_WHOLE: Final = -1


class Beat(BaseModel):
    """A sign of life, of all workers of one process.

    Attributes:
        workers: Who is alive, with the runs that each believes to hold and their epochs.
        left: Who gives up everything that it held before.
    """

    model_config = ConfigDict(extra="forbid")

    workers: dict[str, list[tuple[str, int]]] = {}
    left: list[str] = []


class Pulse(BaseModel):
    """What a host says to a ``Beat``.

    Attributes:
        lease: Seconds after which a worker that shows no life is taken over from.
        lost: Of the runs, those that a worker does not certainly hold any more.
    """

    lease: float
    lost: list[tuple[str, int]] = []


def beat_of(packed: Packed) -> Beat:
    """A sign of life. Raises ``InvalidInput``."""
    try:
        return Beat.model_validate_json(packed.data)
    except ValidationError as error:
        raise _unreadable("a sign of life", error) from None


class Packed(NamedTuple):
    """Arguments or a result, with the media type that says how bytes stand in it."""

    data: bytes
    content: str


@cache
def methods() -> frozenset[str]:
    """All that can be called from afar: the coroutines of the port. For ``tick``, which does not wait, see ``Beat``.

    ``close`` is the business of whoever opened the store.
    """
    return frozenset(
        name
        for name, _ in inspect.getmembers(DurableStore, inspect.iscoroutinefunction)
        if not name.startswith("_") and name != "close"
    )


def pack_arguments(method: str, arguments: Mapping[str, Any]) -> Packed:
    """What a call carries. Raises ``NotEncodable``."""
    return _packed(dict(arguments), f"the arguments of the store's {method!r}")


def unpack_arguments(method: str, packed: Packed) -> dict[str, Any]:
    """Arguments by name, as the port has them. Raises ``UnknownName``, ``InvalidInput``."""
    if method not in methods():
        raise UnknownName("method of the store", method, methods())
    try:
        read = _arguments(method, _mode(packed)).model_validate_json(packed.data)
    except ValidationError as error:
        raise _unreadable(f"the arguments of {method!r}", error) from None
    return {name: getattr(read, name) for name in read.model_fields_set}


def pack_result(method: str, result: object) -> Packed:
    """What a call returns. Raises ``NotEncodable``."""
    if isinstance(result, RunView):
        result = _shown(result)
    elif isinstance(result, collections.abc.Sequence):
        result = [_shown(each) for each in cast("Sequence[Any]", result)]
    return _packed(result, f"what the store's {method!r} returned")


def unpack_result(method: str, packed: Packed) -> Any:
    """A result, as the port has it. Raises ``InvalidInput``."""
    try:
        return _result(method, _mode(packed)).validate_json(packed.data)
    except ValidationError as error:
        raise _unreadable(f"what {method!r} returned", error) from None


def failure(call: int, error: Exception) -> bytes:
    """The frame that ends a call with an error: with the attributes that callers may ask it for."""
    plain = {name: value for name, value in vars(error).items() if isinstance(value, str | int | float | None)}
    frame = wire.parsed(wire.failure(call, error))
    if plain:
        frame.headers[_ATTRIBUTES] = to_json(plain).decode()
    return frame.SerializeToString()


def error_of(frame: Frame) -> PerdureError:
    """The error that a frame carries, as the class that it was where that is one of Perdure's own."""
    info = wire.error_of(frame)
    found = getattr(errors, info.type.rpartition(".")[2], None)
    if not (isinstance(found, type) and issubclass(found, PerdureError)):
        return PerdureError(str(info))
    error = found.__new__(found)
    Exception.__init__(error, info.message)
    vars(error).update(from_json(frame.headers.get(_ATTRIBUTES, "{}")))
    return error


def claims_of(method: str, result: Any) -> Sequence[Claim]:
    """The claims in what a method has returned."""
    place = _place_of_claims(method)
    return () if place is None else result if place is _WHOLE else result[place]


def with_claims(method: str, result: Any, claims: Sequence[Claim]) -> Any:
    """The same result with other claims."""
    place = _place_of_claims(method)
    return claims if place is _WHOLE else tuple(claims if n == place else part for n, part in enumerate(result))


# -- inside


def _packed(value: object, what: str) -> Packed:
    try:
        return Packed(to_json(value, bytes_mode="utf8", inf_nan_mode="constants"), TEXT)
    except PydanticSerializationError:
        pass  # bytes that are no text
    try:
        return Packed(to_json(value, bytes_mode="base64", inf_nan_mode="constants"), BASE64)
    except (PydanticSerializationError, ValueError) as error:
        msg = f"{what} cannot be carried: {error}; texts are Unicode without surrogates"
        raise NotEncodable(msg) from error


def _mode(packed: Packed) -> str:
    return "base64" if packed.content == BASE64 else "utf8"


def _unreadable(what: str, error: ValidationError) -> InvalidInput:
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return InvalidInput(f"{what} cannot be read at {place!r}: {first['msg']}; install the same release on both sides")


def _shown(value: object) -> object:
    """A view may have bytes where JSON would be, if a codec made that unreadable: they must not come out as text."""
    if not isinstance(value, RunView):
        return value
    raw = {name: base64.b64encode(each).decode() for name, each in value if isinstance(each, bytes)}
    return {**dict(value), **raw, _RAW: sorted(raw)} if raw else value


def _read_view(value: Any, handler: Any) -> RunView:
    raw = cast("Any", value).pop(_RAW, ()) if isinstance(value, dict) else ()
    view: RunView = handler(value)
    return view.model_copy(update={name: base64.b64decode(getattr(view, name)) for name in raw})


_NAMES: Final = {
    **vars(messages),
    **vars(collections.abc),
    "RunView": Annotated[RunView, WrapValidator(_read_view)],
}


@cache
def _hints(method: str) -> dict[str, Any]:
    return get_type_hints(getattr(DurableStore, method), localns=_NAMES, include_extras=True)


@cache
def _place_of_claims(method: str) -> int | None:
    returned = _hints(method)["return"]
    if returned == collections.abc.Sequence[Claim]:
        return _WHOLE
    parts = get_args(returned)
    return parts.index(collections.abc.Sequence[Claim]) if collections.abc.Sequence[Claim] in parts else None


@cache
def _arguments(method: str, mode: str) -> type[BaseModel]:
    hints, parameters = _hints(method), inspect.signature(getattr(DurableStore, method)).parameters
    fields: dict[str, Any] = {
        name: (hints[name], ... if each.default is each.empty else each.default)
        for name, each in parameters.items()
        if name != "self"
    }
    return create_model(method, __config__=ConfigDict(extra="forbid", val_json_bytes=cast("Any", mode)), **fields)


@cache
def _result(method: str, mode: str) -> TypeAdapter[Any]:
    return TypeAdapter(_hints(method)["return"], config=ConfigDict(val_json_bytes=cast("Any", mode)))
