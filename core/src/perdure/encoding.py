"""Values to JSON and back, by pydantic types; no pickle, no import by name.

Knows nothing of runs and stores. Whatever goes wrong becomes ``NotEncodable`` (ours to the outside) or
``InvalidInput`` (theirs to us), naming place, type and expectation; pydantic's own error, which repeats the values at
length, is not their cause.
"""

from __future__ import annotations

import inspect
import re
import typing
from dataclasses import fields, is_dataclass
from functools import cached_property, lru_cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic_core import PydanticSerializationError, from_json, to_json

from perdure.errors import InvalidInput, NotEncodable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.messages import JSON

_ARGUMENTS: Final = ConfigDict(extra="forbid", protected_namespaces=())
_NO_ANNOTATION: Final = inspect.Parameter.empty
_EXACT: Final = frozenset({bool, int, str})
"""Types whose values need no check that they are what was declared, which would take ten times as long."""
_WARNED: Final = re.compile(
    r"Expected `(?P<expected>[^`]*)` .*?\[(field_name='(?P<field>\w+)', )?input_value=.*, input_type=(?P<got>\w+)\]"
)
_PLAIN: Final = frozenset({str, int, float, bool, bytes, type(None)})


@lru_cache(maxsize=4096)
def adapter(annotation: Any) -> TypeAdapter[Any]:
    """The (cached) pydantic adapter of a type annotation."""
    try:
        return TypeAdapter(annotation)
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        msg = f"type {annotation!r} cannot travel as JSON: {error.message.splitlines()[0]}"
        raise NotEncodable(msg) from error


def encode(value: object, annotation: Any, where: str) -> bytes:
    """JSON of a value, by its declared type; ``Any`` goes by the value's own. What is written can be read again.

    Raises as ``encode_and_read``.
    """
    return encode_and_read(value, annotation, where)[0]


def encode_and_read(value: object, annotation: Any, where: str) -> tuple[bytes, Any]:
    """JSON of a value as ``encode`` makes it, and what reading it again gives, which costs nothing more.

    Raises:
        NotEncodable: Something in it has no JSON form (NaN has none), or would not come back as its declared type.
            ``where`` names the place in the message.
    """
    try:
        if type(value) is annotation and annotation in _EXACT:
            return to_json(value), value
        if annotation is Any:
            data = to_json(value)
            return data, from_json(data, allow_inf_nan=False)
        return _by_type(value, adapter(annotation))
    except PydanticSerializationError as error:
        msg = f"{where} cannot be written as JSON: {_why(error)}; return types that pydantic can serialise"
        raise NotEncodable(msg) from None
    except ValidationError as error:
        misfit = describe(error, f"{where}, written as JSON and read again,")
        msg = f"{misfit}; return what is declared (NaN is written as null)"
        raise NotEncodable(msg) from None
    except ValueError:
        msg = f"{where} holds NaN or an infinity, which JSON cannot carry: send None or a string for it"
        raise NotEncodable(msg) from None


def _by_type(value: Any, kind: TypeAdapter[Any]) -> tuple[bytes, Any]:
    data = kind.serializer.to_json(value, by_alias=True, warnings=False)
    try:
        read = kind.validator.validate_json(data)
    except ValidationError:
        _check(value, kind)
        raise
    try:
        same = bool(read == value)
    except Exception:  # noqa: BLE001 - the equality is the author's own, or an array's, which has no truth
        same = False
    if not same:  # it may be of another type than was declared, or only know no equality
        _check(value, kind)
    return data, read


def _check(value: Any, kind: TypeAdapter[Any]) -> None:
    """Raise what the serializer has to say against a value.

    Not each time: it takes ten times as long as to write it (``"error"`` is tried as a truth value first, which fails).
    """
    kind.serializer.to_json(value, by_alias=True, warnings="error")


def decode(data: bytes, annotation: Any, where: str) -> Any:
    """The value again, as its declared type. Raises ``InvalidInput`` naming field and expectation."""
    try:
        if annotation is Any:
            return from_json(data)
        return adapter(annotation).validator.validate_json(data)
    except ValidationError as error:
        raise InvalidInput(describe(error, where)) from None
    except ValueError as error:
        msg = f"{where} is no JSON: {_why(error)}"
        raise InvalidInput(msg) from None


def describe(error: ValidationError, where: str, *, values: bool = True) -> str:
    """A validation error as one sentence for people: each field, what was expected, and (``values``) what was given."""
    parts = [
        f"{'.'.join(str(piece) for piece in item['loc']) or 'the value'}: {item['msg'][:1].lower()}{item['msg'][1:]}"
        + (f" (got {_shorten(repr(item['input']))})" if values else "")
        for item in error.errors(include_url=False, include_context=False)[:5]
    ]
    more = f"; and {error.error_count() - 5} more" if error.error_count() > 5 else ""  # noqa: PLR2004 - shown above
    return f"{where} does not fit: {'; '.join(parts)}{more}"


def fingerprint(args: tuple[Any, ...], kwargs: dict[str, Any], where: str) -> str:
    """A short, stable hash of a call's arguments (BLAKE2b, 8 bytes, of their JSON).

    Sets are sorted first, wherever they stand in an argument: their iteration order changes with the hash seed.
    """
    try:
        if not _PLAIN.issuperset(map(type, args)) or (kwargs and not _PLAIN.issuperset(map(type, kwargs.values()))):
            args, kwargs = _stable(args), _stable(kwargs)
        data = to_json((args, kwargs))
    except (PydanticSerializationError, TypeError, RecursionError) as error:
        msg = f"an argument of {where} cannot be written as JSON: {_why(error)}; pass values, not live objects"
        raise NotEncodable(msg) from error
    return blake2b(data, digest_size=8).hexdigest()


def _stable(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, BaseModel):
        value = value.model_dump()
    elif is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _stable(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_stable(item) for item in cast("list[Any]", value)]
    if isinstance(value, set | frozenset):
        return sorted((_stable(item) for item in cast("set[Any]", value)), key=to_json)
    return value


def _why(error: Exception) -> str:
    """The first line of a message, or what pydantic's warning is about."""
    text = str(error)
    if warned := _WARNED.search(text):
        return f"{warned['field'] or 'the value'}: expected {warned['expected']}, got {warned['got']}"
    return text.partition("\n")[0]


def _shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@lru_cache(maxsize=4096)
def hints_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """A function's annotations as types; what is not annotated is missing.

    Raises:
        UsageError: An annotation names something that cannot be found from the function's module.
    """
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except NameError as error:
        msg = (
            f"an annotation of {fn.__qualname__!r} names {error.name!r}, which its module {fn.__module__!r} does not"
            " define at run time: define or import it at module level, outside 'if TYPE_CHECKING'"
        )
        raise UsageError(msg) from error


def returns_of(fn: Callable[..., Any]) -> Any:
    """A function's return type, ``Any`` where it is not annotated or ``fn`` is some other callable."""
    fn = fn.func if isinstance(fn, partial) else fn
    fn = inspect.unwrap(getattr(fn, "__func__", fn))
    return hints_of(fn).get("return", Any) if inspect.isfunction(fn) else Any


def _field(name: str) -> str:
    # Pydantic makes a leading underscore a private attribute, and warns of its own methods' names (copy, schema ...).
    return f"perdure_{name.lstrip('_')}" if name.startswith("_") or hasattr(BaseModel, name) else name


class Parameters:
    """A function's parameters as a schema: what calls it from JSON, and what describes it to a model.

    Args:
        fn: The function.
        skip: A leading parameter of this type is not part of the input (the ``Context``).
    """

    def __init__(self, fn: Callable[..., Any], *, skip: type | None = None) -> None:
        self._fn = fn
        self._skip = skip

    @cached_property
    def _split(self) -> tuple[bool, list[inspect.Parameter]]:
        parameters = list(inspect.signature(self._fn).parameters.values())
        skips = bool(parameters and self._skip is not None and hints_of(self._fn).get(parameters[0].name) is self._skip)
        return skips, parameters[skips:]

    @property
    def skips(self) -> bool:
        """Whether the function takes the skipped leading parameter."""
        return self._split[0]

    @cached_property
    def model(self) -> type[BaseModel]:
        """A pydantic model with one field for each parameter; unknown fields are refused. Raises ``UsageError``."""
        hints = hints_of(self._fn)
        fields: dict[str, Any] = {}
        for parameter in self._split[1]:
            if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY}:
                msg = f"{self._fn.__qualname__!r} takes {parameter}: give every parameter a name and a type"
                raise UsageError(msg)
            default = ... if parameter.default is _NO_ANNOTATION else parameter.default
            annotation = Annotated[hints.get(parameter.name, Any), Field(alias=parameter.name)]
            fields[_field(parameter.name)] = (annotation, default)
        try:
            return create_model(self._fn.__name__, __config__=_ARGUMENTS, **fields)
        except PydanticUserError as error:
            msg = f"the parameters of {self._fn.__qualname__!r} cannot travel as JSON: {_why(error)}"
            raise UsageError(msg) from error

    @cached_property
    def _fields(self) -> list[tuple[str, str]]:
        return [(field.alias or name, name) for name, field in self.model.model_fields.items()]

    @cached_property
    def schema(self) -> dict[str, JSON]:
        """Its JSON schema, of type object."""
        try:
            schema = self.model.model_json_schema()
        except PydanticUserError as error:
            msg = f"the parameters of {self._fn.__qualname__!r} have no JSON schema: {_why(error)}"
            raise UsageError(msg) from error
        schema.pop("title", None)
        return schema

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any], where: str) -> bytes:
        """JSON object of a call's arguments by name, validated. Raises ``InvalidInput``, ``NotEncodable``."""
        names = [parameter.name for parameter in self._split[1] if parameter.kind is not parameter.KEYWORD_ONLY]
        if len(args) > len(names):
            msg = f"{where} takes {len(names)} positional arguments ({', '.join(names)}), got {len(args)}"
            raise InvalidInput(msg)
        given = dict(zip(names, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            msg = f"{where} got {sorted(twice)} both by position and by name"
            raise InvalidInput(msg)
        try:
            value = self.model.model_validate({**given, **kwargs})
        except ValidationError as error:
            raise InvalidInput(describe(error, where)) from None
        return encode(value, type(value), f"the input of {where}")

    def decode(self, data: bytes, where: str) -> dict[str, Any]:
        """Arguments by name, as their declared types. Raises ``InvalidInput``."""
        value = decode(data, self.model, where)
        return {alias: getattr(value, name) for alias, name in self._fields}
