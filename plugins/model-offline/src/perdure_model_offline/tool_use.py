"""Which tools to call: the things that a message names, and the parameters that they fit.

The rules, in order:

1. Tools are called for the last user's message only while nothing has been called since.
2. A message names *paths* (words with a slash or a file suffix), *ids* (words of letters and digits together, such as
   ``ticket-7``, and numbers of three digits or more) and *quoted strings*.
3. A tool fits a thing if it has exactly one required string parameter, the thing fits that parameter's schema, and
   its kind is the one that the parameter's name asks for: ``path``, ``file``, ``document``, ``uri`` ... ask for paths;
   ``id``, ``key``, ``number`` ... for ids; any other name takes quoted strings. A quoted string is a path or an id if
   it looks like one, and is taken for one as well if the message names none.
4. Each thing goes to the first tool, in the order offered, that it fits; once.
5. A tool without required parameters is called if the message has every word of its name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from perdure.messages import ToolCall
from perdure_model_offline.conjunction import as_mapping
from perdure_model_offline.passages import words_of
from perdure_model_offline.schemas import Unfillable, fill

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perdure.messages import ChatMessage, ToolSpec

Kind: TypeAlias = Literal["path", "id", "quoted"]

_QUOTED: Final = re.compile(r"`([^`\n]+)`|\"([^\"\n]+)\"|“([^”\n]+)”|«([^»\n]+)»|(?<!\w)'([^'\n]+)'(?!\w)")
_PATH: Final = re.compile(r"https?://\S+|(?:[A-Za-z]:[\\/]|\.{0,2}/|~/)?[\w\-.+@%]+(?:[\\/][\w\-.+@%]+)*[\\/]?")
_ABBREVIATIONS: Final = frozenset({"e.g", "i.e", "and/or"})
_SUFFIX: Final = re.compile(r"\w\.[A-Za-z]\w{0,7}$")
_ID: Final = re.compile(r"(?=\S*\d)(?:[A-Za-z]+[\w\-]*\d[\w\-]*|\d[\d\-]*[A-Za-z\-][\w\-]*|\d{3,})")
_ASKS_FOR: Final[dict[Kind, frozenset[str]]] = {
    "path": frozenset(
        {
            "path",
            "file",
            "filename",
            "filepath",
            "document",
            "doc",
            "folder",
            "directory",
            "dir",
            "uri",
            "url",
            "source",
            "page",
        }
    ),
    "id": frozenset({"id", "key", "number", "no", "nr", "ref", "reference", "ticket", "order", "issue", "code"}),
}


def calls_for(messages: Sequence[ChatMessage], tools: Sequence[ToolSpec]) -> tuple[ToolCall, ...]:
    """The calls that the last user's message asks for; none where something was called since."""
    asked = max((at for at, message in enumerate(messages) if message.role == "user"), default=-1)
    if asked < 0 or any(message.calls or message.result for message in messages[asked + 1 :]):
        return ()
    text = messages[asked].text
    wanted = [*_for_things(named_in(text), tools), *_for_names(text, tools)]
    return tuple(
        ToolCall(id=f"call-{len(messages)}-{ordinal}", name=tool.name, arguments=arguments)
        for ordinal, (tool, arguments) in enumerate(wanted)
    )


def named_in(text: str) -> dict[str, Kind]:
    """The things that a text names, with their kinds, in its order."""
    found: dict[int, tuple[str, Kind]] = {}
    for match in _QUOTED.finditer(text):
        quoted = next(group for group in match.groups() if group is not None).strip()
        found[match.start()] = (quoted, _kind_of(quoted) or _kind_of(quoted.replace(" ", "_")) or "quoted")
    for match in re.finditer(r"\S+", _QUOTED.sub(lambda quote: " " * len(quote[0]), text)):
        word = match[0].strip(".,;:!?()[]{}<>\"'…")
        if kind := _kind_of(word):
            found[match.start()] = (word, kind)
    return dict(found[at] for at in sorted(found))


def _kind_of(word: str) -> Kind | None:
    if word not in _ABBREVIATIONS and _PATH.fullmatch(word) and ("/" in word or "\\" in word or _SUFFIX.search(word)):
        return "path"
    return "id" if _ID.fullmatch(word) else None


def _for_things(things: dict[str, Kind], tools: Sequence[ToolSpec]) -> Iterable[tuple[ToolSpec, str]]:
    kinds = set(things.values())
    for thing, kind in things.items():
        for tool in tools:
            parameter = _parameter_of(tool)
            if parameter is None:
                continue
            wanted = _kind_asked_for(parameter)
            if kind != wanted and (kind != "quoted" or wanted in kinds):
                continue
            arguments = _arguments(tool, {parameter: thing})
            if arguments is not None:
                yield tool, arguments
                break


def _for_names(text: str, tools: Sequence[ToolSpec]) -> Iterable[tuple[ToolSpec, str]]:
    said = set(words_of(text))
    for tool in tools:
        words = words_of(tool.name.replace("_", " ").replace("-", " "))
        if words and not tool.parameters.get("required") and said.issuperset(words):
            yield tool, "{}"


def _parameter_of(tool: ToolSpec) -> str | None:
    """The tool's one required string parameter."""
    properties: dict[str, Any] = tool.parameters.get("properties") or {}
    required: list[str] = tool.parameters.get("required") or []
    strings = [name for name in required if as_mapping(properties.get(name)).get("type") == "string"]
    return strings[0] if len(strings) == 1 else None


def _kind_asked_for(parameter: str) -> Kind:
    words = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", parameter).lower()))
    for kind, names in _ASKS_FOR.items():
        if words & names:
            return kind
    return "quoted"


def _arguments(tool: ToolSpec, given: dict[str, str]) -> str | None:
    """The call's arguments as JSON: what is given, and what else is required, filled as any schema is."""
    properties: dict[str, Any] = tool.parameters.get("properties") or {}
    fixed = {name: {"allOf": [properties[name], {"const": value}]} for name, value in given.items()}
    required = {name: schema for name, schema in properties.items() if name in tool.parameters.get("required", ())}
    try:
        return fill({**tool.parameters, "properties": {**required, **fixed}}, ())
    except Unfillable:
        return None
