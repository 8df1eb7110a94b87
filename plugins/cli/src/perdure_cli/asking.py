"""Questions to the person at the terminal, by JSON schema; and lines from stdin that do not hold up the loop.

Prompts go to stdout. On stderr they would be read through stdin's buffer, and a daemon thread that holds a buffer's
lock, as one does that still waits for an answer, aborts the interpreter's exit.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import click

from perdure_cli.arguments import resolved

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def interactive() -> bool:
    """Whether there is a person to ask: stdin and stdout are terminals."""
    return sys.stdin.isatty() and sys.stdout.isatty()


async def aside(fn: Callable[[], T]) -> T:
    """Run what blocks for long in a daemon thread.

    The loop goes on driving meanwhile; and, unlike ``asyncio.to_thread``, nothing waits for the thread when the
    person interrupts instead of answering.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def work() -> None:
        value, error = None, None
        try:
            value = fn()
        except BaseException as caught:  # noqa: BLE001 - it travels to the one who awaits
            # A future refuses StopIteration, and KeyboardInterrupt would end the loop itself.
            error = click.Abort() if isinstance(caught, KeyboardInterrupt | EOFError) else caught
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=work, name="perdure-prompt", daemon=True).start()
    return await future


def line(prompt: str) -> str | None:
    """The next line from stdin, or ``None`` at its end. The prompt is shown on a terminal only.

    From a pipe it is read without a buffer; see the module.
    """
    if sys.stdin.isatty():
        try:
            return input(prompt)
        except EOFError:
            return None
    with io.FileIO(sys.stdin.fileno(), closefd=False) as raw:
        data = raw.readline()
    return data.decode("utf-8", "replace").rstrip("\r\n") if data else None


def value_for(schema: dict[str, Any]) -> Any:
    """Ask for a value that fits a schema: objects field by field, booleans, numbers, texts, choices; else JSON.

    Raises:
        click.Abort: The person gave up (Ctrl-C, Ctrl-D).
    """
    return _ask(resolved(schema, schema), schema, "answer", ...)


def _ask(schema: dict[str, Any], root: dict[str, Any], label: str, default: Any) -> Any:
    fields: dict[str, Any] = schema.get("properties", {})
    if schema.get("type") == "object" and fields:
        return _ask_fields(schema, root, fields)
    if "const" in schema:
        return schema["const"]
    asker = _ask_choice if "enum" in schema else _ASKERS.get(str(schema.get("type")), _ask_json)
    return asker(schema, _labelled(schema, label), default)


def _ask_fields(schema: dict[str, Any], root: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    required = schema.get("required", ())
    found: dict[str, Any] = {}
    for name, field in fields.items():
        default = ... if name in required else field.get("default")
        value = _ask(resolved(field, root), root, name, default)
        if value is not None or name in required:
            found[name] = value
    return found


def _labelled(schema: dict[str, Any], label: str) -> str:
    description = schema.get("description")
    return f"{label} ({description})" if description else label


def _ask_choice(schema: dict[str, Any], label: str, default: Any) -> Any:
    choices = {item if isinstance(item, str) else json.dumps(item): item for item in schema["enum"]}
    return choices[_prompt(label, default, click.Choice(list(choices)))]


def _ask_boolean(_: dict[str, Any], label: str, default: Any) -> bool:
    return click.confirm(label, default=default if isinstance(default, bool) else None)


def _ask_text(_: dict[str, Any], label: str, default: Any) -> Any:
    return _prompt(label, "" if default is None else default, str)


def _ask_integer(_: dict[str, Any], label: str, default: Any) -> Any:
    return _prompt(label, default, int)


def _ask_number(_: dict[str, Any], label: str, default: Any) -> Any:
    return _prompt(label, default, float)


def _ask_json(_: dict[str, Any], label: str, default: Any) -> Any:
    return json.loads(_prompt(f"{label} as JSON", default if default is ... else json.dumps(default), _Json()))


def _prompt(label: str, default: Any, kind: Any) -> Any:
    """Ask until it fits; an optional value without a default may be left out with an empty line."""
    if default is None:
        text: str = click.prompt(label, default="", show_default=False)
        return kind(text) if text and isinstance(kind, type) else (text or None)
    return click.prompt(label, default=None if default is ... else default, type=kind)


class _Json(click.ParamType[str]):
    """Text that is JSON."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is no JSON: {error}", param, ctx)
        return value


_ASKERS: dict[str, Callable[[dict[str, Any], str, Any], Any]] = {
    "boolean": _ask_boolean,
    "string": _ask_text,
    "integer": _ask_integer,
    "number": _ask_number,
}
