"""What the setting ``strict`` proves of a payload: that it could have come from another process."""

from __future__ import annotations

from typing import Any, Final, cast

from perdure import Reply, encoding
from perdure.errors import InvalidInput, NotEncodable

_REPLY: Final[Any] = Reply


def carried(value: Any, where: str) -> Any:
    """The payload as it arrives when it has travelled as JSON: an equal one, with nothing in common.

    Raises:
        NotEncodable: It has no JSON form, or would arrive as something else. ``where`` names it in the message.
    """
    annotation = _annotation(value)
    data = encoding.encode(value, annotation, where)
    try:
        arrived = encoding.decode(data, annotation, where)
    except InvalidInput as error:
        msg = f"{where} cannot be read again from its own JSON: {error}"
        raise NotEncodable(msg) from error
    if arrived != value:
        msg = (
            f"{where} is a {type(value).__qualname__} that arrives as another value when it travels as JSON:"
            " send a pydantic model or dataclass whose fields have precise types"
        )
        raise NotEncodable(msg)
    return arrived


def _annotation(value: Any) -> Any:
    # Of a generic type, only the value knows with what.
    kind = cast("Any", type(value))
    return kind[type(value.output)] if kind is _REPLY else kind
