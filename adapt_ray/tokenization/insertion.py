"""From texts to model inputs: base tokens, the task tokens among them, and both put together."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from adapt_ray.errors import InputError
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.tokenization.encoding import (
    Assembled,
    BaseTokens,
    Frame,
    Int32,
    assemble,
)
from adapt_ray.tokenization.markers import Markers
from adapt_ray.tokenization.matcher import Matcher

_CHUNK = 2048  # texts whose encodings, far larger than their ids, exist at a time


class Inserter:
    """Inserts the task tokens of a set into what a backend of the tokenizers library gives."""

    def __init__(self, backend: Any, tokens: TokenSet, markers: Markers) -> None:
        self._backend = backend
        self._markers = markers
        self._first_new = np.int32(tokens.base_vocabulary)
        ranks = np.arange(len(tokens), dtype=np.int64)
        self._matcher = Matcher(tokens.sequences, ranks, tokens.max_gap, tokens.max_span)
        self._reset(split_special_tokens=False)

    def base_tokens(
        self, texts: Sequence[str], *, with_spans: bool, split_special_tokens: bool
    ) -> BaseTokens:
        """Encode texts without special tokens; raises InputError for anything but strings.

        ``split_special_tokens``: the strings of special tokens are text like any other.
        """
        self._reset(split_special_tokens)
        needs_characters = with_spans or bool(self._markers)
        name = "encode_batch" if needs_characters else "encode_batch_fast"
        encode = getattr(self._backend, name)
        ids = [np.empty(0, np.int32)]
        spans, markers = [np.empty((0, 2), np.int64)], [np.empty((0, 4), np.int64)]
        offsets = np.zeros(len(texts) + 1, np.int64)
        for begin in range(0, len(texts), _CHUNK):
            part = _strings(texts[begin : begin + _CHUNK], begin)
            encodings = encode(part, add_special_tokens=False)
            rows = [encoding.ids for encoding in encodings]
            end = begin + len(part)
            offsets[begin + 1 : end + 1] = offsets[begin] + np.cumsum([len(row) for row in rows])
            size = int(offsets[end] - offsets[begin])
            ids.append(np.fromiter(chain.from_iterable(rows), np.int32, size))
            if with_spans:
                spans += [np.array(e.offsets, np.int64).reshape(-1, 2) for e in encodings]
            if self._markers:
                found = self._markers.find(part, encodings)
                found[:, 0] += begin
                found[:, 2:] += offsets[found[:, :1]]
                markers.append(found)
        return BaseTokens(
            np.concatenate(ids),
            offsets,
            np.concatenate(markers),
            np.concatenate(spans) if with_spans else None,
        )

    def assembled(
        self, base: BaseTokens, frame: Frame, limit: int, *, cut_left: bool, shared: bool
    ) -> Assembled:
        """Insert the task tokens; arguments as for :func:`assemble`.

        Raises InputError when ``limit`` does not even leave room for the frame.
        """
        if limit < frame.size:
            raise InputError(
                f"a length of {limit} is too short for the {frame.size} special tokens that stand "
                "around every text"
            )
        return assemble(
            base.ids,
            base.offsets,
            self._inserts(base),
            frame.prefix,
            frame.suffix,
            limit,
            cut_left,
            shared,
        )

    def _inserts(self, base: BaseTokens) -> Int32:
        """Return for every base token the id to insert before it, or -1."""
        if not len(base.markers):
            return self._new_ids(self._matcher.best(base.ids, base.offsets))
        edges = np.zeros(base.ids.size + 1, np.int64)  # markers that begin, less those that end
        np.add.at(edges, base.markers[:, 2], 1)
        np.add.at(edges, base.markers[:, 3], -1)
        text = np.cumsum(edges[:-1]) == 0
        offsets = np.append(0, np.cumsum(text))[base.offsets]
        inserts = np.full(base.ids.size, -1, np.int32)
        inserts[text] = self._new_ids(self._matcher.best(base.ids[text], offsets))
        return inserts

    def _new_ids(self, best: Int32) -> Int32:
        return np.where(best < 0, best, best + self._first_new)

    def _reset(self, split_special_tokens: bool) -> None:
        """Undo what other users of the backend set: truncation here would hide what is lost."""
        if self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()
        if self._backend.encode_special_tokens != split_special_tokens:
            self._backend.encode_special_tokens = split_special_tokens


def _strings(texts: Sequence[Any], first: int) -> list[str]:
    for number, text in enumerate(texts, first):
        if not isinstance(text, str):
            shown = repr(text)[:60]
            raise InputError(f"text {number} is {shown}, a {type(text).__name__}; give strings")
    return list(texts)
