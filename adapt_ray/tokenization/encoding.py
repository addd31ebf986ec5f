"""Texts as flat arrays of token ids, and the kernel that puts task tokens and frames into them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from adapt_ray.errors import InputError
from adapt_ray.mining.compilation import helper, kernel

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

UNLIMITED = 2**62


@dataclass(frozen=True)
class EncodedTexts:
    """Encoded texts, ragged: text i holds ``ids[offsets[i]:offsets[i + 1]]``."""

    ids: Int32  # [n_tokens], special and inserted tokens included
    positions: Int32  # [n_tokens], counted from 0 in each text
    offsets: Int64  # [n_texts + 1]
    base_lengths: Int64  # [n_texts], tokens without the inserted ones
    markers: Int32  # [n_texts, n_openings], index in the text, -1 if absent
    truncated: int  # texts that lost base tokens
    dropped: int  # insertions given up so that no text was lost

    def __len__(self) -> int:
        return len(self.base_lengths)

    @property
    def lengths(self) -> Int64:
        """Tokens of each text, inserted ones included."""
        return np.diff(self.offsets)

    @property
    def inserted_share(self) -> float:
        """Inserted tokens as a share of the base tokens."""
        base = int(self.base_lengths.sum())
        return (len(self.ids) - base) / base if base else 0.0


class BaseTokens(NamedTuple):
    """Texts as the base tokenizer cuts them, without special tokens."""

    ids: Int32  # [n_base]
    offsets: Int64  # [n_texts + 1]
    # [n_markers, 4]: text, number of the opening or -1, first token and one behind the last in ids
    markers: Int64
    spans: Int64 | None  # [n_base, 2], first character of each token and one behind the last


@dataclass(frozen=True)
class Frame:
    """The special tokens around every text."""

    prefix: Int32
    suffix: Int32

    @classmethod
    def of(cls, base: Any) -> "Frame":
        """Read off what a fast Hugging Face tokenizer puts around a text.

        Raises InputError when it gives its tokens types other than 0, which are not supported.
        """
        for text in _probes(base):
            probe = base.backend_tokenizer.encode(text)
            if any(probe.type_ids):
                raise InputError(
                    f"{type(base).__name__} gives the tokens of a single text the types "
                    f"{sorted(set(probe.type_ids))}; task tokens need one whose types are all 0"
                )
            inside = [i for i, special in enumerate(probe.special_tokens_mask) if not special]
            if inside:
                ids = np.array(probe.ids, np.int32)
                return cls(ids[: inside[0]].copy(), ids[inside[-1] + 1 :].copy())
        return NO_FRAME

    @property
    def size(self) -> int:
        """Number of special tokens."""
        return self.prefix.size + self.suffix.size


def _probes(base: Any) -> Iterator[str]:
    """Yield texts, of which some vocabularies know only later ones."""
    yield "a"
    yield from base.get_vocab()


NO_FRAME = Frame(np.empty(0, np.int32), np.empty(0, np.int32))


class Assembled(NamedTuple):
    """Model inputs of some texts, ragged."""

    ids: Int32  # [n_tokens]
    positions: Int32  # [n_tokens], counted from 0 in each text
    offsets: Int64  # [n_texts + 1]
    target: Int64  # [n_base], index in ids of each base token, -1 where it was cut
    dropped: int  # insertions given up so that no text was lost


@helper
def _put(out: Int32, positions: Int32, at: int, position: int, specials: Int32) -> None:
    """Write special tokens and their positions."""
    for i in range(specials.size):
        out[at + i] = specials[i]
        positions[at + i] = position + i


@kernel
def assemble(
    ids: Int32,
    bounds: Int64,
    inserts: Int32,
    prefix: Int32,
    suffix: Int32,
    limit: int,
    cut_left: bool,
    shared: bool,
) -> Assembled:
    """Truncate, insert and frame all texts at once.

    ``bounds`` [n_texts + 1] are the first tokens of the texts and ``inserts`` [n_base] the id to
    insert before each token, -1 for none. A text keeps as many base tokens as ``limit`` allows
    beside its frame, the last ones when ``cut_left``; what room is then left goes to insertions,
    first come, first served. ``shared``: an inserted token has the position of the token that it
    precedes; else positions count all tokens.
    """
    frame = prefix.size + suffix.size
    n_texts = bounds.size - 1
    offsets = np.zeros(n_texts + 1, np.int64)
    dropped = 0
    for text in range(n_texts):
        kept = min(bounds[text + 1] - bounds[text], limit - frame)
        first = bounds[text + 1] - kept if cut_left else bounds[text]
        wanted = 0
        for index in range(first, first + kept):
            if inserts[index] >= 0:
                wanted += 1
        added = min(wanted, limit - frame - kept)
        dropped += wanted - added
        offsets[text + 1] = offsets[text] + frame + kept + added
    out = np.empty(offsets[n_texts], np.int32)
    positions = np.empty(offsets[n_texts], np.int32)
    target = np.full(ids.size, -1, np.int64)
    for text in range(n_texts):
        at = offsets[text]
        position = 0
        _put(out, positions, at, position, prefix)
        at += prefix.size
        position += prefix.size
        kept = min(bounds[text + 1] - bounds[text], limit - frame)
        first = bounds[text + 1] - kept if cut_left else bounds[text]
        room = offsets[text + 1] - offsets[text] - frame - kept
        for index in range(first, first + kept):
            if inserts[index] >= 0 and room > 0:
                room -= 1
                out[at] = inserts[index]
                positions[at] = position
                at += 1
                if not shared:
                    position += 1
            out[at] = ids[index]
            positions[at] = position
            target[index] = at
            at += 1
            position += 1
        _put(out, positions, at, position, suffix)
    return Assembled(out, positions, offsets, target, dropped)
