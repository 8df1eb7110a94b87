"""Remote errors as the classes they were: for what asks elsewhere and raises here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from perdure import errors
from perdure.errors import PerdureError

if TYPE_CHECKING:
    from perdure.messages import ErrorInfo

_OURS: Final = f"{errors.__name__}."


def revived(error: ErrorInfo) -> PerdureError | None:
    """The error as it was raised, or ``None``: it is none of Perdure's, or more than a message makes it."""
    kind = getattr(errors, error.type.removeprefix(_OURS), None) if error.type.startswith(_OURS) else None
    if not (isinstance(kind, type) and issubclass(kind, PerdureError)):
        return None
    try:
        return kind(error.message)
    except TypeError:
        return None
