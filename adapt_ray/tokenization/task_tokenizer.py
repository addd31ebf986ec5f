"""The task tokenizer: base tokens stay, a task token is inserted before each occurrence.

Of the sequences that start at one position the first of the token set wins: the longest, then the
one of higher support. Markers and special tokens are no part of any sequence: matching steps over
markers, and they stay in the input. A text too long for the model loses inserted tokens before it
loses text.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from transformers import AutoTokenizer, BatchEncoding
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils.generic import PaddingStrategy

from adapt_ray.config import ModelConfig
from adapt_ray.errors import InputError
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.pretrained import (
    embedding_rows,
    first_position,
    max_positions,
    open_tokenizer,
    resolve_model,
)
from adapt_ray.tokenization.encoding import (
    NO_FRAME,
    UNLIMITED,
    Assembled,
    EncodedTexts,
    Frame,
    Int64,
)
from adapt_ray.tokenization.insertion import Inserter
from adapt_ray.tokenization.markers import Markers
from adapt_ray.tokenization.vocabulary import TaskVocabulary, vocabulary_size

BASE_FOLDER = "base_tokenizer"
SETTINGS = "task_tokenizer.json"

# The base tokenizer lies in its own folder: a plain AutoTokenizer would open it and silently drop
# the task tokens. Where it finds none but a model's config.json, it makes an empty tokenizer of
# the model's kind, silently too; a tokenizer.json of unknown version makes it raise and say this.
_SIGN = "tokenizer.json"
_NO_VERSION = "none: a task tokenizer lies here; open it with adapt_ray.TaskTokenizer"

_REFUSED = ("is_split_into_words", "return_overflowing_tokens", "stride", "sanitize_control_tokens")


@dataclass(frozen=True)
class Settings:
    """What a task tokenizer is besides its base tokenizer and token set."""

    max_tokens: int
    positions: Literal["shifted", "shared"]
    markers: tuple[str, ...]
    first_position: int = 0  # what the model calls the position of a text's first token


class TaskTokenizer(TaskVocabulary):
    """A Hugging Face tokenizer that inserts task tokens into what a fast base tokenizer gives.

    It stands wherever Hugging Face expects a tokenizer of single texts. Inserted tokens count as
    special tokens: ``special_tokens_mask`` is 1 for them and ``skip_special_tokens`` leaves them
    out; ``decode(ids, skip_inserted_tokens=True)`` leaves out nothing else. The offsets of an
    inserted token are an empty span where the token that it precedes begins. With ``shared``
    positions the output holds ``position_ids``.

    Text pairs, overflowing tokens and texts split into words are refused with InputError, and
    outputs have no word-level maps (``word_ids`` and the like). The vocabulary is closed: tokens
    are added to the base tokenizer, before sequences are mined with it.
    """

    def __init__(self, base: Any, tokens: TokenSet, settings: Settings) -> None:
        size = vocabulary_size(base)
        largest = max((max(sequence) for sequence in tokens.sequences), default=-1)
        if tokens.base_vocabulary < size or largest >= size:
            raise InputError(
                f"the token set was made for a vocabulary of {tokens.base_vocabulary} tokens, "
                f"this tokenizer has {size}"
            )
        super().__init__(base, tokens, settings.max_tokens)
        self.settings = settings
        if settings.positions == "shared":
            self.model_input_names.append("position_ids")  # a list of its own
        markers = Markers(settings.markers)
        self.openings = markers.openings
        self._inserter = Inserter(base.backend_tokenizer, tokens, markers)
        self._frame = Frame.of(base)

    @classmethod
    def pretrained(
        cls, config: ModelConfig, tokens: TokenSet | None, markers: tuple[str, ...]
    ) -> Self:
        """Build from a model's own tokenizer; without a token set nothing is inserted."""
        base = base_tokenizer(config)
        rows = embedding_rows(config.name)
        if 0 < rows < vocabulary_size(base):
            raise InputError(
                f"model {config.name!r} has embeddings of {rows} tokens, but its tokenizer has "
                f"{vocabulary_size(base)}: they are of different models"
            )
        limit = max_positions(config.name)
        if limit is not None and config.max_tokens > limit:
            raise InputError(
                f"model.max_tokens is {config.max_tokens}, but {config.name} has positions for "
                f"{limit} tokens"
            )
        if tokens is None:
            # Some models have more rows than tokens; a new id must not meet one of them.
            rows = max(vocabulary_size(base), rows)
            tokens = TokenSet(sequences=(), base_vocabulary=rows, max_gap=0, max_span=None)
        first = first_position(config.name)
        return cls(base, tokens, Settings(config.max_tokens, config.positions, markers, first))

    @property
    def pad_id(self) -> int:
        """Id that fills short rows of a batch: masked, so any will do where a decoder has none."""
        return 0 if self.pad_token_id is None else int(self.pad_token_id)

    def encode_texts(self, texts: Sequence[str]) -> EncodedTexts:
        """Encode texts with special and task tokens, cut to ``model_max_length`` tokens."""
        base = self._inserter.base_tokens(
            texts, with_spans=False, split_special_tokens=self.split_special_tokens
        )
        limit = min(self.model_max_length, UNLIMITED)
        made = self._inserter.assembled(
            base,
            self._frame,
            limit,
            cut_left=self.truncation_side == "left",
            shared=self.settings.positions == "shared",
        )
        lengths = np.diff(base.offsets) + self._frame.size
        kept = np.minimum(lengths, limit)
        markers = np.full((len(texts), len(self.openings)), -1, np.int32)
        text, column, first, _ = base.markers[(base.markers[:, 1] >= 0)][::-1].T
        at = made.target[first]  # backwards: the first of equal markers is the one that stays
        markers[text, column] = np.where(at < 0, -1, at - made.offsets[text])
        return EncodedTexts(
            ids=made.ids,
            positions=made.positions,
            offsets=made.offsets,
            base_lengths=kept,
            markers=markers,
            truncated=int((kept < lengths).sum()),
            dropped=made.dropped,
        )

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """Return the tokens of a text as strings, names for task tokens."""
        encoded = self(text, pair, add_special_tokens=add_special_tokens, **options)
        return list(self.convert_ids_to_tokens(encoded["input_ids"]))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, push_to_hub: bool = False, **_: Any
    ) -> tuple[str, ...]:
        """Write the tokenizer into a folder, which plain ``AutoTokenizer`` refuses to open."""
        if push_to_hub:
            raise InputError("push_to_hub is not supported here: save, then upload the folder")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        written = self.base.save_pretrained(folder / BASE_FOLDER)
        self.tokens.save(folder)
        settings = asdict(self.settings) | {"max_tokens": self.model_max_length}
        sign = {"version": _NO_VERSION, "added_tokens": [], "model": {"type": "WordPiece"}}
        for name, content in ((SETTINGS, settings), (_SIGN, sign)):
            (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return (*written, *(str(folder / name) for name in ("tokens.json", SETTINGS, _SIGN)))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save_pretrained` wrote; nothing in the folder can run code.

        Raises InputError when the folder holds no task tokenizer or a damaged one.
        """
        folder = Path(folder)
        path = folder / SETTINGS
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            settings = Settings(**(values | {"markers": tuple(values["markers"])}))
        except FileNotFoundError:
            raise InputError(
                f"{str(folder)!r} is not a folder with a task tokenizer: it holds no {SETTINGS}"
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"task tokenizer {str(path)!r} is damaged: {error}") from None
        if not (folder / BASE_FOLDER).is_dir():  # its name would be looked up on the hub
            raise InputError(f"task tokenizer {str(folder)!r} is damaged: no {BASE_FOLDER} in it")
        base = AutoTokenizer.from_pretrained(folder / BASE_FOLDER, trust_remote_code=False)
        return cls(base, TokenSet.load(folder), settings)

    def _encode_plus(
        self,
        text: str | Sequence[str],
        text_pair: Any = None,
        *,
        add_special_tokens: bool = True,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        truncation_strategy: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
        verbose: bool = True,
        **other: Any,
    ) -> BatchEncoding:
        for name, value in {"text_pair": text_pair, **other}.items():
            if value and (name == "text_pair" or name in _REFUSED):
                raise InputError(f"{name} is not supported with task tokens; give single texts")
        base = self._inserter.base_tokens(
            [text] if isinstance(text, str) else list(text),
            with_spans=return_offsets_mapping,
            split_special_tokens=bool(split_special_tokens),
        )
        cut = truncation_strategy != TruncationStrategy.DO_NOT_TRUNCATE
        made = self._inserter.assembled(
            base,
            self._frame if add_special_tokens else NO_FRAME,
            max_length if cut and max_length is not None else UNLIMITED,
            cut_left=self.truncation_side == "left",
            shared=self.settings.positions == "shared",
        )
        lengths = np.diff(made.offsets).tolist()
        rows: dict[str, list[Any]] = {"input_ids": _rows(made.ids.tolist(), made)}
        if self._returned("token_type_ids", return_token_type_ids):
            rows["token_type_ids"] = [[0] * length for length in lengths]
        if self._returned("attention_mask", return_attention_mask):
            rows["attention_mask"] = [[1] * length for length in lengths]
        if self.settings.positions == "shared":
            positions = made.positions + self.settings.first_position
            rows["position_ids"] = _rows(positions.tolist(), made)
        if return_special_tokens_mask:
            rows["special_tokens_mask"] = _rows(_is_added(made).tolist(), made)
        if base.spans is not None:
            spans = _spans(base.spans, made, self.tokens.base_vocabulary)
            rows["offset_mapping"] = _rows(spans, made)
        for row in rows["input_ids"]:
            self._eventual_warn_about_too_long_sequence(row, max_length, verbose)
        if padding_strategy != PaddingStrategy.DO_NOT_PAD:
            options = (max_length, pad_to_multiple_of, padding_side, return_attention_mask)
            rows = dict(self.pad(rows, padding_strategy, *options))
        if return_length:
            rows["length"] = [len(row) for row in rows["input_ids"]]
        if isinstance(text, str) and return_tensors is None:
            rows = {k: v if k == "length" else v[0] for k, v in rows.items()}
        return BatchEncoding(rows, tensor_type=return_tensors)

    def _returned(self, name: str, asked: bool | None) -> bool:
        return name in self.model_input_names if asked is None else asked


def base_tokenizer(config: ModelConfig) -> Any:
    """Return a model's own fast tokenizer. Raises InputError when it has none."""
    base = open_tokenizer(resolve_model(config.name))
    if not base.is_fast:
        raise InputError(f"model {config.name!r} has no fast tokenizer, which matching needs")
    # The tokenizer's own truncation and padding would hide how much text is lost.
    base.backend_tokenizer.no_truncation()
    base.backend_tokenizer.no_padding()
    return base


def _rows(flat: list[Any], made: Assembled) -> list[list[Any]]:
    return [flat[begin:end] for begin, end in pairwise(made.offsets.tolist())]


def _is_added(made: Assembled) -> Int64:
    """Return 1 for every token that is not of the text, 0 for the others."""
    added = np.ones(made.ids.size, np.int64)
    added[made.target[made.target >= 0]] = 0
    return added


def _spans(base: Int64, made: Assembled, first_new: int) -> list[tuple[int, int]]:
    """Return the characters of every token: (0, 0) in the frame, none for inserted tokens."""
    spans = np.zeros((made.ids.size, 2), np.int64)
    kept = made.target >= 0
    spans[made.target[kept]] = base[kept]
    inserted = np.flatnonzero(made.ids >= first_new)
    spans[inserted] = spans[inserted + 1, :1]
    return [(begin, end) for begin, end in spans.tolist()]
