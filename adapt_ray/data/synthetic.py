"""The demo corpus: generated messages whose class is decided by planted phrases.

It needs no network and proves that mining works: which phrases carry the classes is known. The
words of each phrase also occur alone in messages of the other classes, so that single words say
little; some phrases have a foreign word in every gap. A fixed share of the labels is wrong, so that
no F1 reaches 1: a reader who knows every phrase scores 0.92.
"""

from dataclasses import dataclass

import numpy as np

from adapt_ray.data.sources import Rows
from adapt_ray.data.strings import Strings

LABELS = ("billing", "delivery", "product")
SIZES = {"train": 1200, "dev": 300, "test": 400}
LABEL_NOISE = 0.08  # share of rows with a wrong label, exact in every split

_SHARES = (0.30, 0.40, 0.30)  # of the classes, before the noise
_SECOND_PHRASE = 0.3  # share of texts that hold two phrases of their class
_DECOYS = (3, 6)  # words from phrases of other classes in a text, least and most
_FILLERS = (4, 10)


@dataclass(frozen=True)
class Planted:
    """A phrase that carries a class; ``gapped``: one foreign word stands in each of its gaps."""

    words: tuple[str, ...]
    gapped: bool
    label: str


_CONTIGUOUS = {
    "billing": (
        "paid the full price",
        "charged for nothing again",
        "out of my account",
        "bill came too high",
    ),
    "delivery": (
        "never arrived at all",
        "left outside the gate",
        "on the wrong day",
        "lost somewhere between",
    ),
    "product": (
        "stopped working last night",
        "not worth the trouble",
        "fell apart quickly",
        "smaller than you said",
    ),
}
_GAPPED = {
    "billing": ("money back", "card refused", "asked higher fee", "amount double"),
    "delivery": ("waited weeks", "box broken", "driver left road", "truck late"),
    "product": ("screen black", "battery dead", "buttons stuck inside", "handle loose"),
}

# Fillers follow each other like parts of speech: the, small, paper, seems, with, ...
_FILLER_SLOTS = (
    "the a this our every another some",
    "new old small simple good early quiet green common local fresh plain strange heavy warm young "
    "careful recent sharp light",
    "order morning paper summer table letter office garden story window number market river school "
    "picture question family corner engine kitchen meeting village bottle minute list song bridge "
    "ticket lamp coat",
    "was seems looks became stays began needs follows shows found moved held kept took opens "
    "covers keeps turns",
    "with in near under about before after from during along",
)


def planted_phrases() -> tuple[Planted, ...]:
    """Return every phrase that the demo corpus plants, class by class."""
    return tuple(
        Planted(tuple(phrase.split()), gapped, label)
        for label in LABELS
        for gapped, phrases in ((False, _CONTIGUOUS[label]), (True, _GAPPED[label]))
        for phrase in phrases
    )


def demo_rows(seed: int = 0) -> dict[str, Rows]:
    """Generate the rows of train, dev and test; the same seed gives the same rows."""
    rng = np.random.default_rng(seed)
    return {split: _rows(size, rng) for split, size in SIZES.items()}


def occurs(phrase: Planted, words: list[str]) -> bool:
    """Return whether a phrase occurs with at most one foreign word in each gap."""
    ends = {i for i, word in enumerate(words) if word == phrase.words[0]}
    for wanted in phrase.words[1:]:
        near = {end + step for end in ends for step in (1, 2)}
        ends = {i for i in near if i < len(words) and words[i] == wanted}
    return bool(ends)


def _rows(size: int, rng: np.random.Generator) -> Rows:
    classes = rng.choice(len(LABELS), size, p=_SHARES)
    texts = Strings.of(_text(LABELS[c], rng) for c in classes)
    wrong = rng.choice(size, round(LABEL_NOISE * size), replace=False)
    classes[wrong] = (classes[wrong] + rng.integers(1, len(LABELS), len(wrong))) % len(LABELS)
    return Rows(texts, Strings.of(LABELS[c] for c in classes))


def _text(label: str, rng: np.random.Generator) -> str:
    """Draw texts until one holds no other class's phrase, which decoys can form by chance."""
    phrases = planted_phrases()
    own = [phrase for phrase in phrases if phrase.label == label]
    others = [phrase for phrase in phrases if phrase.label != label]
    while True:
        words = _words(own, others, rng)
        if not any(occurs(phrase, words) for phrase in others):
            return " ".join(words).capitalize() + "."


def _words(own: list[Planted], others: list[Planted], rng: np.random.Generator) -> list[str]:
    start = int(rng.integers(len(_FILLER_SLOTS)))
    length = int(rng.integers(_FILLERS[0], _FILLERS[1], endpoint=True))
    pieces = [[_filler(start + i, rng)] for i in range(length)]
    decoys = [word for phrase in others for word in phrase.words]
    chosen = [[str(word)] for word in rng.choice(decoys, rng.integers(*_DECOYS, endpoint=True))]
    n_phrases = 1 + int(rng.random() < _SECOND_PHRASE)
    chosen += [_planted(own[i], rng) for i in rng.choice(len(own), n_phrases, replace=False)]
    for piece in chosen:
        pieces.insert(int(rng.integers(len(pieces) + 1)), piece)
    return [word for piece in pieces for word in piece]


def _planted(phrase: Planted, rng: np.random.Generator) -> list[str]:
    if not phrase.gapped:
        return list(phrase.words)
    words = [phrase.words[0]]
    for word in phrase.words[1:]:
        words += [_filler(int(rng.integers(len(_FILLER_SLOTS))), rng), word]
    return words


def _filler(slot: int, rng: np.random.Generator) -> str:
    """Draw a word of a slot, the r-th of its words in proportion to 1/r (Zipf)."""
    words = _FILLER_SLOTS[slot % len(_FILLER_SLOTS)].split()
    weights = 1 / np.arange(1, len(words) + 1)
    return str(rng.choice(words, p=weights / weights.sum()))
