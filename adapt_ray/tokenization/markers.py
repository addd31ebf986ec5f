"""Task markers in texts (``[[ entity ]]``): which tokens they became."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class Markers:
    """Finds the tokens of markers, which come in pairs of an opening and a closing string."""

    def __init__(self, strings: Sequence[str]) -> None:
        self.openings = tuple(strings[::2])
        longest_first = sorted(strings, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest_first)))
        columns = {string: column for column, string in enumerate(self.openings)}
        self._column = {string: columns.get(string, -1) for string in strings}

    def __bool__(self) -> bool:
        return bool(self._column)

    def find(self, texts: Sequence[str], encodings: Sequence[Any]) -> npt.NDArray[np.int64]:
        """Return all markers, one row each: [n_markers, 4].

        The columns: number of the text; which opening it is, -1 for a closing one; its first token,
        counted in the text; one behind its last token. ``encodings`` are those of the texts, with
        character offsets. All tokens that share a character with a marker belong to it; a marker
        that the tokenizer drops has none and is left out.
        """
        found: list[int] = []
        for number, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
            size = len(encoding)
            for match in self._any.finditer(text):
                start, end = match.span()
                first = encoding.char_to_token(start)
                while first is None and start + 1 < end:
                    start += 1
                    first = encoding.char_to_token(start)
                if first is None:
                    continue
                stop = first + 1
                while stop < size and encoding.token_to_chars(stop)[0] < end:
                    stop += 1
                found += (number, self._column[match.group()], first, stop)
        return np.array(found, np.int64).reshape(-1, 4)
