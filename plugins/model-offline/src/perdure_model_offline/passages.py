"""What there is to quote: the text of a conversation, cut into passages that know where they stand.

Numbered text is lines of the form ``path:LINE: content``, as ``grep -n`` prints them. A passage of a numbered line
is a piece of that one line, word for word; other text is cut into sentences across line ends.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from perdure.messages import ChatMessage

_NUMBERED: Final = re.compile(r"(?P<source>(?:[A-Za-z]:[\\/])?[^\s:][^:\n]*):(?P<line>\d+): ?(?P<text>.*)")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])[\"')\]*_]*\s+(?=[\"'(\[*_`]*[A-Z0-9])")
_MARKER: Final = re.compile(r"\s*(?:[-*+>]\s+|#{1,6}\s+|\d{1,3}[.)]\s+)*")
_WORD: Final = re.compile(r"[^\W_]+", re.UNICODE)
_STOP_WORDS: Final = frozenset(
    """
    a about all also and an any are as at be been but by can could do does each for from had has have he her his how
    i if in into is it its may me more most must my no not of on one only or other our out over she should so some
    such than that the their them then there these they this those to under up us was we were what when where which
    while who whose why will with would you your
    """.split()  # noqa: SIM905 - as a list it is a page long
)


_TEXT: Final = 3
"""Sentences from which a message is a text to read and not just a question or an order."""


class Passage(NamedTuple):
    """A piece of text.

    Attributes:
        text: Word for word; of a numbered line, a piece of it.
        source: The file it stands in, or empty.
        line: Its line there, from 1; 0 without a source.
    """

    text: str
    source: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.text}" if self.source else self.text


def words_of(text: str) -> list[str]:
    """The words that carry meaning, in lower case, plural *s* cut off."""
    words = (word.lower() for word in _WORD.findall(text))
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words if word not in _STOP_WORDS]  # noqa: PLR2004 - "bus"


def passages_of(text: str) -> list[Passage]:
    """Cut a text into passages, in its order; each piece once."""
    found: dict[Passage, None] = {}
    loose: list[str] = []
    for line in text.splitlines():
        numbered = _numbered(line)
        if numbered is None:
            loose.append(line)
            continue
        source, number, content = numbered
        found.update(dict.fromkeys(Passage(piece, source, number) for piece in _pieces(content)))
    found.update(dict.fromkeys(Passage(piece) for piece in _sentences(loose)))
    return list(found)


def plain(content: str) -> str:
    """A tool result as text: of JSON, its strings, one per line."""
    if not content.lstrip().startswith(('"', "[", "{")):
        return content
    try:
        value = json.loads(content)
    except ValueError:
        return content
    return "\n".join(_strings(value))


def material_of(messages: Sequence[ChatMessage]) -> list[Passage]:
    """What the last user's message is to be answered from; questions are not quoted.

    The first of these that has passages: the results of tools called since that message; the message itself, if it
    is a text (numbered, or of three sentences or more); the texts and tool results before it; the message itself.
    """
    asked = max((at for at, message in enumerate(messages) if message.role == "user"), default=-1)
    question = _statements(messages[asked].text) if asked >= 0 else []
    since = [passage for message in messages[asked + 1 :] for passage in _read(message)]
    before = [passage for message in messages[: max(asked, 0)] for passage in _read(message)]
    return since or (question if _is_text(question) else []) or list(dict.fromkeys(before)) or question


def _read(message: ChatMessage) -> list[Passage]:
    """What a message brought to read: a tool's result, or a user's text."""
    if message.result is not None:
        return [] if message.result.error else _statements(plain(message.result.content))
    told = _statements(message.text) if message.role == "user" else []
    return told if _is_text(told) else []


def _statements(text: str) -> list[Passage]:
    return [passage for passage in passages_of(text) if passage.source or not passage.text.endswith("?")]


def _is_text(passages: list[Passage]) -> bool:
    return len(passages) >= _TEXT or any(passage.source for passage in passages)


def _numbered(line: str) -> tuple[str, int, str] | None:
    """A numbered line's parts. ``at 10:30: the ferry`` is none: a source with spaces needs a suffix."""
    match = _NUMBERED.fullmatch(line)
    if match is None:
        return None
    source, number = match["source"], int(match["line"])
    if number < 1 or source.isdigit() or (" " in source and not re.search(r"\.\w{1,8}$", source)):
        return None
    return source, number, match["text"]


def _pieces(line: str) -> Iterator[str]:
    """The sentences of one line, without the marks of lists, quotes and headings before them; frames give none."""
    content = line[cast("re.Match[str]", _MARKER.match(line)).end() :].strip()
    for piece in _SENTENCE_END.split(content):
        if _WORD.search(piece) and not piece.startswith(("|", "```", "<!--")):
            yield piece.strip()


def _sentences(lines: Iterable[str]) -> Iterator[str]:
    paragraph: list[str] = []
    for line in [*lines, ""]:
        begins = cast("re.Match[str]", _MARKER.match(line)).end() > len(line) - len(line.lstrip())
        if paragraph and (begins or not line.strip()):
            yield from _pieces(" ".join(paragraph))
            paragraph = []
        if line.strip():
            paragraph.append(line.strip())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in cast("dict[str, Any]", value).values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _strings(item)
