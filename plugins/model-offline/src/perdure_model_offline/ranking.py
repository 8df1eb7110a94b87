"""Which passages say the most: closeness to the centre of the text, and to what was asked.

The centre is the words' summed weight over all passages, as in centroid-based summarisation (Radev et al., 2004);
closeness to the question is BM25 (Robertson and Zaragoza, 2009). Both read each word once: TextRank's pairwise
comparison of passages takes a second on what this takes milliseconds for. Nothing is random; ties go to what
stands first.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

from perdure_model_offline.passages import Passage, words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ASKED: Final = 1.5
"""Weight of closeness to the question against closeness to the centre."""

_K1: Final = 1.2
_B: Final = 0.75
_FULL: Final = 8
"""Words that carry meaning from which a passage counts fully: shorter ones say little by themselves."""

_ALIKE: Final = 0.6
"""Share of common words from which two passages say the same."""


def rank(passages: Sequence[Passage], question: str) -> list[Passage]:
    """All passages, the best first.

    Of those that say the same in one source, the better one; the others come last. While there are sources that have
    not had their turn, a second passage of a source waits: several documents are all heard.
    """
    words = {passage: words_of(passage.text) for passage in passages}
    scores = _scores(words, words_of(question))
    best = sorted(passages, key=lambda passage: -scores[passage])  # stable: ties keep their order
    fresh, repeated = _without_repetition(best, {passage: frozenset(found) for passage, found in words.items()})
    return [*_in_turns(fresh), *repeated]


def _scores(words: dict[Passage, list[str]], question: list[str]) -> dict[Passage, float]:
    spread = Counter(word for found in words.values() for word in set(found))
    weight = {word: math.log(1 + len(words) / count) for word, count in spread.items()}
    centre = {word: count * weight[word] for word, count in spread.items()}
    central = {passage: _closeness(found, centre, weight) for passage, found in words.items()}
    average = sum(map(len, words.values())) / max(len(words), 1) or 1.0
    asked = {passage: _bm25(found, question, weight, average) for passage, found in words.items()}
    most_central, most_asked = (max(values.values(), default=0.0) or 1.0 for values in (central, asked))
    return {
        passage: (central[passage] / most_central + _ASKED * asked[passage] / most_asked) * _form(passage, found)
        for passage, found in words.items()
    }


def _closeness(found: Iterable[str], centre: dict[str, float], weight: dict[str, float]) -> float:
    """Cosine of a passage and the centre, but for the centre's length, which is the same for all."""
    distinct = sorted(set(found))  # sums of floats depend on their order, a set's order on the hash seed
    length = math.sqrt(sum(weight[word] ** 2 for word in distinct))
    return sum(weight[word] * centre[word] for word in distinct) / length if length else 0.0


def _bm25(found: list[str], question: list[str], weight: dict[str, float], average: float) -> float:
    counts = Counter(found)
    saturation = _K1 * (1 - _B + _B * len(found) / average)
    return sum(
        weight[word] * counts[word] * (_K1 + 1) / (counts[word] + saturation)
        for word in sorted(set(question))
        if word in counts
    )


def _form(passage: Passage, found: list[str]) -> float:
    """A whole sentence of some length is worth more than a fragment, a heading or a line of code."""
    begins = passage.text.lstrip("\"'(*_`[")[:1]
    whole = (begins.isupper() or begins.isdigit()) and passage.text.rstrip("\"')*_`]").endswith((".", "!", "?"))
    return (1.0 if whole else 0.5) * min(1.0, (len(found) + 1) / _FULL)


def _without_repetition(
    best: list[Passage], words: dict[Passage, frozenset[str]]
) -> tuple[list[Passage], list[Passage]]:
    """Only the best are compared with each other: nobody quotes the rest."""
    fresh: list[Passage] = []
    repeated: list[Passage] = []
    compared = 64
    for passage in best[:compared]:
        near = (other for other in fresh if other.source == passage.source)
        alike = any(_overlap(words[passage], words[other]) >= _ALIKE for other in near)
        (repeated if alike else fresh).append(passage)
    return fresh + best[compared:], repeated


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one and other else 0.0


def _in_turns(passages: list[Passage]) -> list[Passage]:
    rounds: Counter[str] = Counter()
    keyed: list[tuple[int, Passage]] = []
    for passage in passages:
        keyed.append((rounds[passage.source], passage))
        rounds[passage.source] += 1
    return [passage for _, passage in sorted(keyed, key=lambda pair: pair[0])]
