"""Strings that fit a regular expression, as JSON schemas use them: made, not searched.

Knows literals, classes, groups, alternatives, quantifiers and anchors. Of look-around, back-references and Unicode
properties it knows only the syntax: what it makes then may not fit, and whoever asked checks that.
"""

from __future__ import annotations

import re
import string
from itertools import product
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_PRINTABLE: Final = "".join(chr(code) for code in range(32, 127))
_WORD: Final = string.ascii_lowercase + string.ascii_uppercase + string.digits + "_"
_CLASSES: Final = {
    "d": string.digits,
    "w": _WORD,
    "s": " ",
    "D": "".join(char for char in _PRINTABLE if char not in string.digits),
    "W": "".join(char for char in _PRINTABLE if char not in _WORD),
    "S": _PRINTABLE[1:],
}
_CONTROLS: Final = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
_QUANTIFIER: Final = re.compile(r"[*+?]|\{(\d+)(,(\d*))?\}")
_MOST: Final = 4096


def strings_for(pattern: str, shortest: int = 0) -> Iterator[str]:
    """Strings that fit, the shortest first, then such whose repeats make them at least ``shortest`` characters long.

    Raises:
        ValueError: The pattern ends too early, or is none.
    """
    for extra, choice in product((0, 1, 2, 5, shortest, shortest + 1), (0, 1, 2)):
        text = _Maker(pattern, min(extra, _MOST), choice).make()
        if len(text) >= shortest:
            yield text


class _Maker:
    """One walk over a pattern.

    Args:
        pattern: The regular expression.
        extra: How many more repeats than needed.
        choice: Which alternative, and which character of a class; counted around.
    """

    def __init__(self, pattern: str, extra: int, choice: int) -> None:
        self._rest = list(reversed(pattern))
        self._extra, self._choice = extra, choice

    def make(self) -> str:
        text = self._alternatives()
        if self._rest:
            msg = f"unexpected {self._rest[-1]!r}"
            raise ValueError(msg)
        return text

    def _peek(self) -> str:
        return self._rest[-1] if self._rest else ""

    def _take(self) -> str:
        if not self._rest:
            msg = "the pattern ends too early"
            raise ValueError(msg)
        return self._rest.pop()

    def _alternatives(self) -> str:
        branches = [self._sequence()]
        while self._peek() == "|":
            self._take()
            branches.append(self._sequence())
        return branches[self._choice % len(branches)]

    def _sequence(self) -> str:
        made = ""
        while self._peek() not in {"", "|", ")"}:
            atom = self._atom()
            made += atom * self._repeats()
        return made

    def _atom(self) -> str:
        char = self._take()
        if char == "[":
            return self._class()
        if char == "(":
            return self._group()
        if char == "\\":
            options = self._escape()
            return options[self._choice % len(options)] if options else ""
        if char in "^$":
            return ""
        return "abc"[self._choice % 3] if char == "." else char

    def _group(self) -> str:
        silent = False
        if self._peek() == "?":
            self._take()
            kind = self._take()
            if kind in "P<":
                kind = self._take() if kind == "P" or self._peek() in "=!" else kind
                silent = kind in "=!"
                while kind not in "=!" and self._take() != ">":
                    pass
            silent = silent or kind in "=!"
        made = self._alternatives()
        self._take()  # the closing parenthesis
        return "" if silent else made

    def _escape(self) -> str:
        char = self._take()
        if char in "bBAZz":
            return ""
        if char in "xu":
            digits = [self._take() for _ in range(2 if char == "x" else 4)]
            return chr(int("".join(digits), 16))
        return _CLASSES.get(char) or _CONTROLS.get(char) or char

    def _class(self) -> str:
        negated = self._peek() == "^"
        if negated:
            self._take()
        members: list[str] = []
        while (char := self._take()) != "]" or not members:
            options = self._escape() if char == "\\" else char
            if self._peek() == "-" and len(options) == 1 and self._rest[-2:-1] != ["]"]:
                self._take()
                last = self._take()
                last = self._escape() if last == "\\" else last
                options = "".join(map(chr, range(ord(options), ord(last[0]) + 1)))
            members.append(options)
        allowed = "".join(members)
        if negated:
            allowed = "".join(char for char in _PRINTABLE[::-1] if char not in allowed)
        if not allowed:
            msg = "a class without members"
            raise ValueError(msg)
        return allowed[self._choice % len(allowed)]

    def _repeats(self) -> int:
        match = _QUANTIFIER.match("".join(reversed(self._rest[-16:])))
        if match is None:
            return 1
        for _ in match[0]:
            self._take()
        if self._peek() in {"?", "+"}:  # lazy, possessive
            self._take()
        if match[1] is not None:
            least = int(match[1])
            most = least if match[2] is None else int(match[3]) if match[3] else least + self._extra
        else:
            least = 1 if match[0] == "+" else 0
            most = 1 if match[0] == "?" else least + self._extra
        return min(max(least, min(most, least + self._extra)), _MOST)
