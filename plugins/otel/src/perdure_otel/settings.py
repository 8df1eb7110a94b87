"""The plugin's own section of the configuration, ``[otel]``, and the ``OTEL_*`` variables that it respects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from perdure import config
from perdure.errors import InvalidSetting

SECTION: Final = "otel"

Exporter = Literal["none", "console", "otlp", "file"]

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTERS: Final = {"": None, "none": "none", "console": "console", "otlp": "otlp"}
_CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


class Settings(BaseModel):
    """Where spans go, and what is in them.

    Attributes:
        exporter: ``none``, ``console`` (standard error), ``otlp`` (HTTP, protobuf) or ``file`` (OTLP as lines of JSON).
        endpoint: Of ``otlp``: the collector's base URL, to which ``/v1/traces`` is added unless it ends so.
        headers: Of ``otlp``: sent with each export, such as an API key; shown nowhere.
        timeout: Of ``otlp``: seconds for one export.
        path: Of ``file``: where lines are appended; several processes may share it.
        service_name: ``service.name`` of the resource.
        capture_content: Whether messages, arguments, results and the texts of errors are in the spans.
        delay: Seconds that a finished span waits for others to be exported with.
        max_pending: Spans kept while they cannot be exported.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    exporter: Exporter = "none"
    endpoint: str | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    timeout: float = Field(default=10.0, gt=0)
    path: str | None = None
    service_name: str | None = None
    capture_content: bool = False
    delay: float = Field(default=1.0, gt=0)
    max_pending: int = Field(default=65_536, ge=512)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.exporter == "file" and not self.path:
            msg = "exporter 'file' needs 'path', the file that spans are appended to"
            raise ValueError(msg)
        return self

    @classmethod
    def read(cls, section: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Self:
        """From the section as configured; what it leaves open is taken from ``OTEL_*``.

        Raises:
            InvalidSetting: A key is unknown, a value does not fit, or a variable has a value that is not known here.
        """
        variables = os.environ if environment is None else environment
        return config.section({**_from_environment(variables), **section}, cls, SECTION)


def _from_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    if variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return {"exporter": "none"}
    wanted = variables.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if wanted not in _EXPORTERS:
        msg = (
            f"OTEL_TRACES_EXPORTER={wanted!r} is not known here; expected none, console or otlp, or set [otel] exporter"
        )
        raise InvalidSetting(msg)
    exporter = _EXPORTERS[wanted] or ("otlp" if any(map(variables.get, _ENDPOINTS)) else "none")
    capture = variables.get(_CAPTURE, "").strip().upper() in {"SPAN_ONLY", "SPAN_AND_EVENT"}
    return {"exporter": exporter, "capture_content": capture}
