"""What the server does with events: reads them, hands them to the gateway, and writes what comes back."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from pydantic_core import to_json

from perdure.errors import InvalidInput, PayloadTooLarge, PerdureError
from perdure.messages import AgentId, ErrorInfo, TopicId
from perdure_transport_http import cloudevents, problems
from perdure_transport_http.cloudevents import BATCHED, JSON, STRUCTURED, Event, MediaUnsupported
from perdure_transport_http.gateway import TRACE, reply_of
from perdure_transport_http.guard import PRINCIPAL

if TYPE_CHECKING:
    from perdure_transport_http.gateway import Gateway
    from perdure_transport_http.settings import ServerSettings

DEADLINE: Final = "Perdure-Deadline"
"""Seconds after which the sender does not wait any more."""

_LONGEST: Final = 7 * 86400.0


class Endpoints:
    """The handlers of ``HttpServer``'s routes.

    Args:
        gateway: To the host.
        settings: Of the server.
    """

    def __init__(self, gateway: Gateway, settings: ServerSettings) -> None:
        self._gateway = gateway
        self._settings = settings

    async def agents(self, request: web.Request) -> web.Response:
        """Which agent types live where."""
        found = await self._gateway.agents(request[PRINCIPAL])
        return web.Response(body=to_json([each._asdict() for each in found]), content_type=JSON)

    async def send(self, request: web.Request) -> web.Response:
        """One event to one agent; its reply."""
        try:
            to = _agent_of(request)
            seconds = _deadline_of(request)
            media, body = await self._body(request)
            if media == BATCHED:
                msg = "a batch has no one reply: send its events one by one, or publish them"
                raise MediaUnsupported(msg)
            event = _traced(request, _event_of(request, media, body))
        except InvalidInput as error:
            return problems.response(error, status=400)
        answer = await self._gateway.send(request[PRINCIPAL], to, event, seconds)
        if answer.kind == "error":
            return problems.response(answer.error)
        reply = reply_of(answer, to, event)
        accept = request.headers.get("Accept", "")
        if STRUCTURED in accept or (media == STRUCTURED and (not accept or "*/*" in accept)):
            return web.Response(body=cloudevents.as_structured(reply), content_type=STRUCTURED, charset="utf-8")
        headers, payload = cloudevents.as_binary(reply)
        return web.Response(body=payload, headers=headers)

    async def publish(self, request: web.Request) -> web.Response:
        """Events on a topic, one or many; nothing comes back but that they are accepted."""
        try:
            topic = _topic_of(request)
            media, body = await self._body(request)
            if media == BATCHED:
                events = cloudevents.from_batch(body, self._settings.max_batch)
            else:
                events = [_event_of(request, media, body)]
        except InvalidInput as error:
            return problems.response(error, status=400)
        principal = request[PRINCIPAL]
        publishing = (self._gateway.publish(principal, topic, _traced(request, event)) for event in events)
        results = await asyncio.gather(*publishing, return_exceptions=True)
        failed = [(event, result) for event, result in zip(events, results, strict=True) if result is not None]
        if failed:
            return _unpublished(failed, of=len(events))
        return web.Response(status=202)

    async def _body(self, request: web.Request) -> tuple[str, bytes]:
        """A request's media type and body. Raises ``MediaUnsupported``, ``PayloadTooLarge``, ``InvalidInput``."""
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            msg = f"a body in the encoding {request.headers['Content-Encoding']!r}: send it as it is"
            raise MediaUnsupported(msg)
        try:
            async with asyncio.timeout(self._settings.patience):
                body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            msg = f"the request has more than {self._settings.max_body:,} bytes: send a reference, such as a URL"
            raise PayloadTooLarge(msg) from None
        except TimeoutError:
            msg = f"the body did not arrive within {self._settings.patience} s"
            raise InvalidInput(msg) from None
        return request.headers.get("Content-Type", "").partition(";")[0].strip().lower(), body


def _event_of(request: web.Request, media: str, body: bytes) -> Event:
    if media == STRUCTURED:
        return cloudevents.from_structured(body)
    if media.startswith("application/cloudevents"):
        msg = f"a body of the media type {media!r}; expected {STRUCTURED!r}, or the event's data with 'ce-' headers"
        raise MediaUnsupported(msg)
    return cloudevents.from_binary(request.headers.items(), request.headers.get("Content-Type", ""), body)


def _traced(request: web.Request, event: Event) -> Event:
    """The event as part of the request's trace, unless it says that it belongs to another one."""
    if "traceparent" in event.more or "traceparent" not in request.headers:
        return event
    return event._replace(
        more={**event.more, **{name: request.headers[name] for name in TRACE if name in request.headers}}
    )


def _agent_of(request: web.Request) -> AgentId:
    try:
        return AgentId.parse("{type}/{key}".format(**request.match_info))
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def _topic_of(request: web.Request) -> TopicId:
    source = request.match_info.get("source", TopicId._field_defaults["source"])
    try:
        return TopicId.parse(f"{request.match_info['type']}/{source}")
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def _deadline_of(request: web.Request) -> float | None:
    text = request.headers.get(DEADLINE)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _LONGEST:
        msg = f"the header {DEADLINE} is {text[:80]!r}, expected seconds: more than 0, and {_LONGEST:.0f} at most"
        raise InvalidInput(msg)
    return seconds


def _unpublished(failed: list[tuple[Event, Any]], *, of: int) -> web.Response:
    """Which events were not accepted. To send all of them again does no harm: who has one knows it by its id."""
    first = failed[0][1]
    if not isinstance(first, PerdureError):
        raise first
    info = ErrorInfo.of(first)
    if of == 1:
        return problems.response(info)
    each = [{"id": event.id, "source": event.source, "detail": str(error)} for event, error in failed]
    return problems.response(info, more={"accepted": of - len(failed), "failed": each})
