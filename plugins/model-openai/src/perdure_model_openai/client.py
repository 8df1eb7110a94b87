"""The client: one request, one answer or one typed error. Keys stay out of messages, so out of logs and journals."""

from __future__ import annotations

import math
import os
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import openai
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from perdure.errors import InvalidSetting, ModelRefused, ModelUnavailable
from perdure_model_openai.wire import Completion, Structured, body_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.messages import ModelRequest, ModelResponse

_OFFICIAL: Final = "https://api.openai.com/v1"
_NO_KEY: Final = "none"
"""What is sent as a key to a server that takes none: the SDK insists on one."""

_PASSING: Final = frozenset({408, 409, 425, 429})
"""Statuses besides 5xx after which the same request may succeed: timeout, conflict, too early, too many."""

_FOR_GOOD: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
"""Codes of a 429 that no waiting helps."""

_SHOWN: Final = 300


class Settings(BaseModel):
    """The section ``model-openai``.

    Attributes:
        base_url: Of a compatible API; without it, ``OPENAI_BASE_URL``, then OpenAI's own.
        api_key: Without it, ``OPENAI_API_KEY``; an empty string for a server that takes none.
        timeout: Seconds that the service may be silent.
        organization: OpenAI's; without it, ``OPENAI_ORG_ID``.
        project: OpenAI's; without it, ``OPENAI_PROJECT_ID``.
        structured_output: How an output type is asked for: as ``json_schema``; as ``json_object`` for servers that
            know only JSON mode; by ``prompt`` alone for those that do not know that either.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str | None = Field(default=None, pattern=r"^https?://.")
    api_key: SecretStr | None = None
    timeout: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    organization: str | None = None
    project: str | None = None
    structured_output: Structured = "json_schema"

    @classmethod
    def read(cls, section: Mapping[str, Any]) -> Settings:
        """Validate a section. Raises ``InvalidSetting``, which names keys and never their values: one is a secret."""
        try:
            return cls.model_validate(dict(section))
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg'].lower()}" for item in error.errors())
            msg = f"section [model-openai] of the configuration does not fit: {wrong}"
            raise InvalidSetting(msg) from None


class OpenAIModel:
    """One model behind a chat completions API.

    Args:
        model: As the service names it.
        settings: Where it is and how to get in.

    Raises:
        InvalidSetting: There is no key.
    """

    def __init__(self, model: str, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._base_url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or _OFFICIAL
        key = os.environ.get("OPENAI_API_KEY") if settings.api_key is None else settings.api_key.get_secret_value()
        if not key and settings.api_key is None:
            msg = (
                f"model {self.name!r} needs a key: set the environment variable OPENAI_API_KEY, or 'api_key' in section"
                " [model-openai] of the configuration ('' for a server that takes none)"
            )
            raise InvalidSetting(msg)
        self._key = SecretStr(key or _NO_KEY)

    @property
    def name(self) -> str:
        """``openai:<model>``."""
        return f"openai:{self._model}"

    @cached_property
    def _client(self) -> openai.AsyncOpenAI:
        """Made when first asked: it loads the certificates of the system, which takes its time."""
        return openai.AsyncOpenAI(
            api_key=self._key.get_secret_value(),
            base_url=self._base_url,
            organization=self._settings.organization,
            project=self._settings.project,
            timeout=self._settings.timeout,
            max_retries=0,
        )

    async def complete(self, request: ModelRequest) -> ModelResponse:
        """Ask once.

        Raises:
            ModelUnavailable: Overload, rate limit, timeout, a cut connection, an answer that is none.
            ModelRefused: Bad key, unknown model, invalid request, refused content, no quota.
            InvalidInput: Settings of the request that are the client's own.
        """
        body = body_of(request, self._model, self._settings.structured_output)
        try:
            answered = await self._client.chat.completions.with_raw_response.create(
                model=self._model, messages=body["messages"], extra_body=body
            )
        except openai.APIStatusError as error:
            raise self._refusal(error) from None  # the cause holds request and response: it must reach no log
        except openai.APIConnectionError as error:
            cause = error.__cause__
            why = f"{error.message.rstrip('.').lower()} ({type(cause).__name__})" if cause else error.message
            raise ModelUnavailable(f"{self._place} is out of reach: {why}") from None
        try:
            completion = Completion.model_validate_json(answered.content)
        except ValidationError as error:
            kind = answered.headers.get("content-type", "no content type")
            what = f"no chat completion: {error.errors()[0]['msg'].lower()} ({kind}, {len(answered.content)} bytes)"
            raise ModelUnavailable(f"{self._place} answered with {what}; is the base URL right?") from None
        if completion.refusal:
            msg = f"{self._place} refused to answer: {self._shown(completion.refusal)}"
            raise ModelRefused(msg)
        return completion.response(request, self._model)

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        if "_client" in self.__dict__:
            await self._client.close()

    @property
    def _place(self) -> str:
        """The model and its base URL, without the user and the query that a URL may hide a secret in."""
        parts = urlsplit(self._base_url)
        return f"model {self.name!r} at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def _refusal(self, error: openai.APIStatusError) -> ModelUnavailable | ModelRefused:
        status, code = error.status_code, error.code
        passing = (status in _PASSING or status >= 500) and not {code, error.type} & _FOR_GOOD  # noqa: PLR2004 - HTTP
        if passing:
            said = f"{self._place} is unavailable (HTTP {status}): {self._said(error)}"
            return ModelUnavailable(said, retry_after=retry_after(error.response.headers))
        return ModelRefused(f"{self._place} refused the request (HTTP {status}): {self._said(error)}")

    def _said(self, error: openai.APIStatusError) -> str:
        """The service's own words; not on a bad key, of which services quote a part."""
        if error.status_code in {401, 403}:
            code = error.code or error.type
            return (f"{code}; " if code else "") + "check the key (OPENAI_API_KEY, or 'api_key' in [model-openai])"
        body: Any = error.body
        said = cast("dict[str, Any]", body).get("message") if isinstance(body, dict) else None
        return self._shown(str(said or error.code or error.type or "it gives no reason"))

    def _shown(self, text: str) -> str:
        key = self._key.get_secret_value()
        shown = " ".join((text if key == _NO_KEY else text.replace(key, "…")).split())
        return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds after which a service asks to be tried again (RFC 9110 §10.2.3, and OpenAI's ``retry-after-ms``).

    A date counts from the answer's own ``Date``: clocks differ. What cannot be read is ``None``.
    """
    for header, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(header, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        until, since = (parsedate_to_datetime(headers[header]) for header in ("retry-after", "date"))
        return max(0.0, (until - since).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None
