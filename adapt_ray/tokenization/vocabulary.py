"""Ids, strings and padding of a Hugging Face tokenizer that has task tokens behind its own."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.utils.generic import PaddingStrategy

from adapt_ray.errors import InputError
from adapt_ray.mining.scoring import TokenSet

_FROM_BASE = (
    "chat_template",
    "clean_up_tokenization_spaces",
    "model_input_names",
    "padding_side",
    "split_special_tokens",
    "truncation_side",
)


# Untyped: the library's own classes differ in their signatures.
_Fast: Any = PreTrainedTokenizerFast


class TaskVocabulary(_Fast):  # type: ignore[misc]
    """A fast tokenizer whose vocabulary is the base tokenizer's and a token set."""

    def __init__(self, base: Any, tokens: TokenSet, max_length: int) -> None:
        self.base = base
        self.tokens = tokens
        self._tokenizer = base.backend_tokenizer  # shared: a copy of a large one takes seconds
        self._names = {
            f"<task_{number}:{self.token_text(sequence)}>": tokens.base_vocabulary + number
            for number, sequence in enumerate(tokens.sequences)
        }
        self._by_number = list(self._names)
        super().__init__(
            **{name: getattr(base, name) for name in _FROM_BASE},
            **base.special_tokens_map,
            extra_special_tokens=base.extra_special_tokens,
            model_max_length=max_length,
        )

    def token_text(self, sequence: Sequence[int]) -> str:
        """Return a sequence as text, for people."""
        return str(self.base.decode(list(sequence), clean_up_tokenization_spaces=False))

    def __len__(self) -> int:
        return self.tokens.base_vocabulary + len(self.tokens)

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token; a task token is called ``<task_3:its text>``."""
        return dict(super().get_vocab()) | self._names

    def convert_ids_to_tokens(
        self, ids: int | Sequence[int], skip_special_tokens: bool = False
    ) -> Any:
        """Return the strings of tokens, names for task tokens."""
        if isinstance(ids, int):
            return self._convert_id_to_token(ids)
        if skip_special_tokens:
            mask = self.get_special_tokens_mask(ids, already_has_special_tokens=True)
            ids = [index for index, special in zip(ids, mask, strict=True) if not special]
        return [self._convert_id_to_token(index) for index in ids]

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Any = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Return 1 for special and for inserted tokens, 0 for others."""
        mask = super().get_special_tokens_mask(token_ids_0, token_ids_1, already_has_special_tokens)
        pairs = zip(mask, token_ids_0, strict=True)
        return [1 if index >= self.tokens.base_vocabulary else value for value, index in pairs]

    def _convert_id_to_token(self, index: int) -> str | None:
        number = int(index) - self.tokens.base_vocabulary
        if 0 <= number < len(self._by_number):
            return self._by_number[number]
        token: str | None = super()._convert_id_to_token(index)
        return token

    def _convert_token_to_id_with_added_voc(self, token: str) -> Any:
        if token in self._names:
            return self._names[token]
        return super()._convert_token_to_id_with_added_voc(token)

    def _add_tokens(self, new_tokens: Sequence[Any], special_tokens: bool = False) -> int:
        known = super().get_vocab()
        for token in map(str, new_tokens):
            if token not in known:
                raise InputError(
                    f"token {token!r} cannot be added to a task tokenizer, whose next ids are "
                    "taken; add it to the base tokenizer, before mining"
                )
        return int(super()._add_tokens(new_tokens, special_tokens))

    def _decode(
        self,
        token_ids: int | Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        skip_inserted_tokens: bool = False,
        **options: Any,
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        inserted = [index >= self.tokens.base_vocabulary for index in ids]
        if any(inserted) and not (skip_special_tokens or skip_inserted_tokens):
            # The backend would drop ids it does not know. For people to read: not cleaned up.
            return str(self.convert_tokens_to_string(self.convert_ids_to_tokens(ids)))
        ids = [index for index, skipped in zip(ids, inserted, strict=True) if not skipped]
        cleaned = clean_up_tokenization_spaces
        return str(super()._decode(ids, skip_special_tokens, cleaned, **options))

    def _pad(
        self,
        encoded_inputs: Any,
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> Any:
        length = len(encoded_inputs["input_ids"])
        side = padding_side or self.padding_side
        options = (max_length, padding_strategy, pad_to_multiple_of, side, return_attention_mask)
        padded = super()._pad(encoded_inputs, *options)
        missing = len(padded["input_ids"]) - length
        for name, filler in (("position_ids", 0), ("offset_mapping", (0, 0))):
            if missing and name in padded:
                fill = [filler] * missing
                padded[name] = fill + padded[name] if side == "left" else padded[name] + fill
        return padded


def vocabulary_size(base: Any) -> int:
    """Return one more than the largest id of a tokenizer: some leave ids out."""
    return int(max(base.get_vocab().values())) + 1
