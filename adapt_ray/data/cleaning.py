"""When two texts count as the same, and the distinct texts that mining reads."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt


def normalise(text: str, markers: Sequence[str] = ()) -> str:
    """Return the text without task markers, with single spaces for runs of white space."""
    if markers:
        longest_first = sorted(markers, key=len, reverse=True)
        text = re.sub("|".join(map(re.escape, longest_first)), " ", text)
    return " ".join(text.split())


def text_ids(texts: Iterable[str], markers: Sequence[str] = ()) -> npt.NDArray[np.int64]:
    """Number texts [n] by first appearance; equal after normalising and case folding, equal id."""
    ids: dict[str, int] = {}
    found = [ids.setdefault(normalise(text, markers).casefold(), len(ids)) for text in texts]
    return np.array(found, dtype=np.int64)


def distinct_texts(texts: Iterable[str], markers: Sequence[str]) -> list[str]:
    """Return each distinct text once, normalised, in order of first appearance.

    Support counts these: a corpus that repeats a sentence once for every relation in it would
    otherwise report the repeats as patterns. Texts that are nothing but markers are left out.
    """
    found: dict[str, str] = {}
    for text in texts:
        clean = normalise(text, markers)
        if clean:
            found.setdefault(clean.casefold(), clean)
    return list(found.values())
