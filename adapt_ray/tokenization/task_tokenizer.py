"""The task tokenizer: base tokens stay, a task token is inserted before each occurrence.

Of the sequences that start at one position the first of the token set wins: the longest, then the
one of higher support. Markers and
special tokens are no part of any sequence: matching steps over them, and they stay in the input.
A text too long for the model loses inserted tokens before it loses text.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from transformers import AutoTokenizer

from adapt_ray.config import ModelConfig
from adapt_ray.errors import InputError
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.pretrained import max_positions, resolve_model
from adapt_ray.tokenization.matcher import Matcher

Ints = npt.NDArray[np.int64]
# Not "tokenizer.json": a plain AutoTokenizer would open that and silently drop the task tokens.
BASE_FOLDER = "base_tokenizer"
SETTINGS = "task_tokenizer.json"


@dataclass(frozen=True)
class EncodedTexts:
    """Encoded texts, ragged: text i holds ``ids[offsets[i]:offsets[i + 1]]``."""

    ids: npt.NDArray[np.int32]  # [n_tokens], special and inserted tokens included
    positions: npt.NDArray[np.int32]  # [n_tokens], counted from 0 in each text
    offsets: Ints  # [n_texts + 1]
    base_lengths: Ints  # [n_texts], tokens without the inserted ones
    markers: npt.NDArray[np.int32]  # [n_texts, n_openings], index in the text, -1 if absent
    truncated: int  # texts that lost base tokens
    dropped: int  # insertions given up so that no text was lost

    def __len__(self) -> int:
        return len(self.base_lengths)

    @property
    def lengths(self) -> Ints:
        """Tokens of each text, inserted ones included."""
        return np.diff(self.offsets)

    @property
    def inserted_share(self) -> float:
        """Inserted tokens as a share of the base tokens."""
        base = int(self.base_lengths.sum())
        return (len(self.ids) - base) / base if base else 0.0


@dataclass(frozen=True)
class Settings:
    """What a task tokenizer is besides its base tokenizer and token set."""

    max_tokens: int
    positions: Literal["shifted", "shared"]
    markers: tuple[str, ...]


class TaskTokenizer:
    """A fast Hugging Face tokenizer that inserts task tokens."""

    def __init__(self, base: Any, tokens: TokenSet, settings: Settings) -> None:
        if len(base) != tokens.base_vocabulary:
            raise InputError(
                f"the token set was made for a vocabulary of {tokens.base_vocabulary} tokens, "
                f"this tokenizer has {len(base)}"
            )
        self.base = base
        self.tokens = tokens
        self.settings = settings
        self._prefix, self._suffix = _special_frame(base)

    @classmethod
    def pretrained(
        cls, config: ModelConfig, tokens: TokenSet | None, markers: tuple[str, ...]
    ) -> "TaskTokenizer":
        """Build from a model's own tokenizer; without a token set nothing is inserted."""
        base = base_tokenizer(config)
        limit = max_positions(config.name)
        if limit is not None and config.max_tokens > limit:
            raise InputError(
                f"model.max_tokens is {config.max_tokens}, but {config.name} has positions for "
                f"{limit} tokens"
            )
        none = TokenSet(sequences=(), base_vocabulary=len(base), max_gap=0, max_span=None)
        settings = Settings(config.max_tokens, config.positions, markers)
        return cls(base, tokens or none, settings)

    def __len__(self) -> int:
        return int(self.tokens.base_vocabulary) + len(self.tokens.sequences)

    @property
    def pad_id(self) -> int:
        """Id that fills short rows of a batch."""
        return int(self.base.pad_token_id)

    @property
    def openings(self) -> tuple[str, ...]:
        """The opening marker strings (markers come in pairs of opening and closing)."""
        return self.settings.markers[::2]

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Encode texts with special and task tokens, truncated to the model's limit."""
        fast = self.base.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
        counts = np.array([len(e) for e in fast], dtype=np.int64)
        ids = np.fromiter((i for e in fast for i in e.ids), np.int32, int(counts.sum()))
        outside, opening = self._marker_tokens(texts, fast, counts)
        best = self._matches(ids, outside, counts)
        return self._assemble(ids, best, opening, counts)

    def token_text(self, sequence: Sequence[int]) -> str:
        """Return a sequence as text, for people."""
        return str(self.base.decode(list(sequence), clean_up_tokenization_spaces=False))

    def save(self, folder: Path) -> None:
        """Write the tokenizer into a folder; plain ``AutoTokenizer`` refuses to open it."""
        self.base.save_pretrained(folder / BASE_FOLDER)
        self.tokens.save(folder)
        (folder / SETTINGS).write_text(json.dumps(asdict(self.settings), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "TaskTokenizer":
        """Read what :meth:`save` wrote."""
        values = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        settings = Settings(**(values | {"markers": tuple(values["markers"])}))
        base = AutoTokenizer.from_pretrained(folder / BASE_FOLDER)
        return cls(base, TokenSet.load(folder), settings)

    @cached_property
    def _matcher(self) -> Matcher:
        count = len(self.tokens.sequences)
        return Matcher(
            self.tokens.sequences,
            np.arange(count, dtype=np.int64),
            self.tokens.max_gap,
            self.tokens.max_span,
        )

    def _marker_tokens(
        self, texts: Sequence[str], fast: Sequence[Any], counts: Ints
    ) -> tuple[npt.NDArray[np.bool_], Ints]:
        """Return which tokens belong to markers, and each text's first opening-marker tokens."""
        outside = np.zeros(int(counts.sum()), dtype=np.bool_)
        opening = np.full((len(texts), len(self.openings)), -1, dtype=np.int64)
        if not self.settings.markers:
            return outside, opening
        pattern = re.compile("|".join(map(re.escape, self.settings.markers)))
        starts = np.cumsum(counts) - counts
        for row, (text, encoding) in enumerate(zip(texts, fast, strict=True)):
            spans = [(m.start(), m.end(), m.group()) for m in pattern.finditer(text)]
            if not spans:
                continue
            edges = np.array(encoding.offsets)
            for start, end, marker in spans:
                inside = np.flatnonzero((edges[:, 0] < end) & (edges[:, 1] > start))
                outside[starts[row] + inside] = True
                if marker in self.openings and len(inside):
                    column = self.openings.index(marker)
                    if opening[row, column] < 0:
                        opening[row, column] = inside[0]
        return outside, opening

    def _matches(
        self, ids: npt.NDArray[np.int32], outside: npt.NDArray[np.bool_], counts: Ints
    ) -> npt.NDArray[np.int32]:
        """Return for every token the task token to insert before it, or -1."""
        best = np.full(len(ids), -1, dtype=np.int32)
        if not self.tokens.sequences:
            return best
        inside = np.flatnonzero(~outside)
        before = np.concatenate([[0], np.cumsum(~outside)])
        bounds = before[np.concatenate([[0], np.cumsum(counts)])]
        best[inside] = self._matcher.best(ids[inside], bounds)
        return best

    def _assemble(
        self, ids: npt.NDArray[np.int32], best: npt.NDArray[np.int32], opening: Ints, counts: Ints
    ) -> EncodedTexts:
        """Truncate, insert, and frame with special tokens; all texts at once."""
        n_texts = len(counts)
        frame = len(self._prefix) + len(self._suffix)
        limit = self.settings.max_tokens - frame
        kept = np.minimum(counts, limit)
        text_of = np.repeat(np.arange(n_texts), counts)
        index = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)
        inserts = (best >= 0) & (index < kept[text_of])
        order = _running_count(inserts, counts)
        allowed = inserts & (order <= (limit - kept)[text_of])
        dropped = int(inserts.sum() - allowed.sum())

        keep = index < kept[text_of]
        ids, best, index, text_of = ids[keep], best[keep], index[keep], text_of[keep]
        inserts = allowed[keep]
        inserted = np.bincount(text_of[inserts], minlength=n_texts)
        offsets = np.concatenate([[0], np.cumsum(kept + inserted + frame)])
        before = _running_count(inserts, kept)  # insertions up to and with this token
        target = offsets[text_of] + len(self._prefix) + index + before

        out = np.empty(offsets[-1], dtype=np.int32)
        positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
        out[target] = ids
        out[target[inserts] - 1] = self.tokens.base_vocabulary + best[inserts]
        for i, special in enumerate(self._prefix):
            out[offsets[:-1] + i] = special
        for i, special in enumerate(reversed(self._suffix)):
            out[offsets[1:] - 1 - i] = special
        if self.settings.positions == "shared":
            positions[target] = len(self._prefix) + index
            positions[target[inserts] - 1] = len(self._prefix) + index[inserts]
            for i in range(len(self._suffix)):
                positions[offsets[1:] - 1 - i] = frame + kept - 1 - i
        return EncodedTexts(
            out,
            positions.astype(np.int32),
            offsets,
            kept + frame,
            _moved(opening, kept, target, offsets[:-1]),
            int((counts > limit).sum()),
            dropped,
        )


def base_tokenizer(config: ModelConfig) -> Any:
    """Return a model's own fast tokenizer. Raises InputError when it has none."""
    base = AutoTokenizer.from_pretrained(
        resolve_model(config.name), trust_remote_code=config.trust_remote_code
    )
    if not base.is_fast:
        raise InputError(f"model {config.name!r} has no fast tokenizer, which matching needs")
    # The tokenizer's own truncation and padding would hide how much text is lost.
    base.backend_tokenizer.no_truncation()
    base.backend_tokenizer.no_padding()
    return base


def _special_frame(base: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that the base tokenizer puts before and after every text."""
    probe = base("a", return_special_tokens_mask=True)
    inside = [i for i, special in enumerate(probe["special_tokens_mask"]) if not special]
    return probe["input_ids"][: inside[0]], probe["input_ids"][inside[-1] + 1 :]


def _running_count(flags: npt.NDArray[np.bool_], counts: Ints) -> Ints:
    """Return, within each text, the number of true flags up to and with each token."""
    total = np.cumsum(flags)
    before = np.concatenate([[0], total])[np.cumsum(counts) - counts]
    return np.asarray(total - np.repeat(before, counts), dtype=np.int64)


def _moved(opening: Ints, kept: Ints, target: Ints, starts: Ints) -> npt.NDArray[np.int32]:
    """Translate marker token indices from base tokens to the final input."""
    moved = np.full(opening.shape, -1, dtype=np.int32)
    first = np.cumsum(kept) - kept
    rows, columns = np.nonzero((opening >= 0) & (opening < kept[:, None]))
    flat = first[rows] + opening[rows, columns]
    moved[rows, columns] = target[flat] - starts[rows]
    return moved
