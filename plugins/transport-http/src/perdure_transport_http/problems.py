"""Failures as problem documents (RFC 9457): what went wrong, in the words of its error, with the status that fits."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from pydantic_core import to_json

from perdure.errors import PerdureError
from perdure.messages import ErrorInfo

PROBLEM: Final = "application/problem+json"

_UNAVAILABLE: Final = 503
_HERE: Final = f"{PerdureError.__module__}."

_STATUSES: Final = {
    "DeadlineExceeded": 504,
    "IdReused": 422,
    "InvalidInput": 422,
    "MediaUnsupported": 415,
    "MessageDropped": 422,
    "NotPermitted": 403,
    "PayloadTooLarge": 413,
    "RequestClosed": 409,
    "SessionBusy": 409,
    "Undeliverable": 404,
    "UnknownName": 404,
}
"""By the names of Perdure's errors. Others are 503 if they may pass, 500 if not."""


def status_of(error: ErrorInfo) -> int:
    """The HTTP status of an error, as far as it is one of Perdure's."""
    own = error.type.startswith(("perdure.", "perdure_"))
    return (_STATUSES.get(_short(error)) if own else None) or (_UNAVAILABLE if error.retryable else 500)


def document(error: ErrorInfo, status: int) -> dict[str, object]:
    """The problem document of an error, as JSON has it.

    ``error`` is the name of its type and ``causes`` are those that it came from, each with type and message;
    ``retryable`` says whether the same request may succeed later.
    """
    short = _short(error)
    return {
        "type": f"urn:perdure:error:{error.type.removeprefix(_HERE)}",
        "title": short,
        "status": status,
        "detail": error.message,
        "error": error.type,
        "retryable": error.retryable,
        "causes": [{"error": cause.type, "detail": cause.message} for cause in error.chain()[1:]],
    }


def response(
    error: BaseException | ErrorInfo,
    *,
    status: int = 0,
    headers: dict[str, str] | None = None,
    more: dict[str, object] | None = None,
) -> web.Response:
    """The response that says so; of an error that may pass, with the time after which to try again.

    Args:
        error: What went wrong.
        status: Instead of the one that fits the error.
        headers: To be sent with it.
        more: Further members of the document.
    """
    info = error if isinstance(error, ErrorInfo) else ErrorInfo.of(error)
    status = status or status_of(info)
    after = {"Retry-After": "1"} if status == _UNAVAILABLE else {}
    return web.Response(
        status=status,
        body=to_json({**document(info, status), **(more or {})}),
        content_type=PROBLEM,
        headers={**after, **(headers or {})},
    )


def plain(refusal: web.HTTPException) -> web.Response:
    """What the web server itself refuses: no such path, not that method."""
    allow = {name: refusal.headers[name] for name in ("Allow",) if name in refusal.headers}
    body = {"type": "about:blank", "title": refusal.reason, "status": refusal.status}
    return web.Response(status=refusal.status, body=to_json(body), content_type=PROBLEM, headers=allow)


def _short(error: ErrorInfo) -> str:
    return error.type.rpartition(".")[2]
