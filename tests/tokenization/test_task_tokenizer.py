from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from adapt_ray.config import ModelConfig
from adapt_ray.errors import InputError
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.pretrained import resolve_model
from adapt_ray.tokenization.task_tokenizer import EncodedTexts, TaskTokenizer

BASE = AutoTokenizer.from_pretrained(resolve_model("minilm"))
SIZE = len(BASE)
PHRASES = ["natural language processing", "natural language", "state art", "we propose"]
MARKERS = ("[[", "]]", "<<", ">>")


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(BASE(text, add_special_tokens=False)["input_ids"])


TOKENS = TokenSet(
    sequences=tuple(ids_of(phrase) for phrase in PHRASES),
    base_vocabulary=SIZE,
    max_gap=1,
    max_span=None,
)


def tokenizer(**options: Any) -> TaskTokenizer:
    tokens = options.pop("tokens", TOKENS)
    markers = options.pop("markers", MARKERS)
    return TaskTokenizer.pretrained(ModelConfig(**options), tokens, markers)


def row(encoded: EncodedTexts, index: int) -> tuple[list[int], list[int]]:
    part = slice(encoded.offsets[index], encoded.offsets[index + 1])
    return encoded.ids[part].tolist(), encoded.positions[part].tolist()


def test_the_longest_match_is_inserted_before_its_first_token() -> None:
    ids, positions = row(tokenizer().encode(["we propose natural language processing here"]), 0)
    we, propose, natural, *rest = ids_of("we propose natural language processing here")
    expected = [BASE.cls_token_id, SIZE + 3, we, propose, SIZE + 0, natural, *rest]
    assert ids == [*expected, BASE.sep_token_id]
    assert positions == list(range(len(ids)))


def test_gapped_occurrences_match_and_wider_ones_do_not() -> None:
    encoded = tokenizer().encode(["state the art", "state of the art"])
    assert SIZE + 2 in row(encoded, 0)[0]
    assert SIZE + 2 not in row(encoded, 1)[0]


def test_shared_positions_give_the_inserted_token_its_neighbours_position() -> None:
    ids, positions = row(tokenizer(positions="shared").encode(["so we propose it"]), 0)
    at = ids.index(SIZE + 3)
    assert positions[at] == positions[at + 1] == 2
    base = [p for i, p in zip(ids, positions, strict=True) if i < SIZE]
    assert base == list(range(len(base)))


def test_matching_steps_over_markers_which_stay_in_the_input() -> None:
    text = "we [[ natural ]] << language >> models"
    encoded = tokenizer().encode([text])
    ids, _ = row(encoded, 0)
    assert [i for i in ids if i < SIZE] == BASE(text)["input_ids"]
    assert ids[ids.index(SIZE + 1) + 1] == ids_of("natural")[0]
    bracket, angle = ids_of("[")[0], ids_of("<")[0]
    assert encoded.markers[0].tolist() == [ids.index(bracket), ids.index(angle)]


def test_absent_and_truncated_markers_are_minus_one() -> None:
    encoded = tokenizer(max_tokens=8).encode(["one two", "a b c d e f g [[ h ]]", "[[ a ]] b"])
    assert encoded.markers.tolist() == [[-1, -1], [-1, -1], [1, -1]]


def test_inserted_tokens_are_lost_before_text() -> None:
    text = "we propose natural language"  # four base tokens, two insertions
    for limit, inserted in ((8, 2), (9, 2)):
        encoded = tokenizer(max_tokens=limit).encode([text])
        assert (encoded.truncated, encoded.dropped) == (0, 2 - inserted)
    longer = text + " a b c"  # seven base tokens and the frame are nine
    encoded = tokenizer(max_tokens=10).encode([longer])
    ids, _ = row(encoded, 0)
    assert (encoded.truncated, encoded.dropped, len(ids)) == (0, 1, 10)
    assert [i for i in ids if i < SIZE] == BASE(longer)["input_ids"]
    encoded = tokenizer(max_tokens=8).encode([longer])
    ids, _ = row(encoded, 0)
    assert (encoded.truncated, encoded.dropped, len(ids)) == (1, 2, 8)
    assert ids == BASE(longer, truncation=True, max_length=8)["input_ids"]


WORDS = st.sampled_from(
    ["natural", "language", "processing", "state", "art", "we", "propose", "the", "[[", "]]", "<<",
     ">>", "of", "unbelievably", "é", "[SEP]", "7.5", "\n"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(WORDS, max_size=14).map(" ".join), min_size=1, max_size=5),
       st.sampled_from([8, 12, 64]), st.sampled_from(["shifted", "shared"]))  # fmt: skip
def test_dropping_the_inserted_ids_gives_the_base_tokenizers_ids(
    texts: list[str], limit: int, positions: str
) -> None:
    encoded = tokenizer(max_tokens=limit, positions=positions).encode(texts)
    expected = BASE(texts, truncation=True, max_length=limit)["input_ids"]
    assert len(encoded) == len(texts)
    for index, ids in enumerate(expected):
        found, found_positions = row(encoded, index)
        assert [i for i in found if i < SIZE] == ids
        assert len(found) <= limit
        assert encoded.base_lengths[index] == len(ids)
        if positions == "shared":
            kept = [p for i, p in zip(found, found_positions, strict=True) if i < SIZE]
            assert kept == list(range(len(ids)))
        else:
            assert found_positions == list(range(len(found)))


def test_a_batch_equals_its_texts_one_by_one() -> None:
    texts = ["", "we propose", "natural language processing of the state the art", "x"]
    together = tokenizer().encode(texts)
    for index, text in enumerate(texts):
        assert row(together, index) == row(tokenizer().encode([text]), 0)


def test_inserted_share_counts_base_tokens_with_their_frame() -> None:
    encoded = tokenizer().encode(["we propose", "nothing here"])
    assert encoded.inserted_share == pytest.approx(1 / 8)
    assert tokenizer(tokens=None).encode(["we propose"]).inserted_share == 0.0


def test_round_trip_through_a_folder(tmp_path: Path) -> None:
    original = tokenizer(max_tokens=32, positions="shared")
    original.save(tmp_path)
    loaded = TaskTokenizer.load(tmp_path)
    texts = ["we propose [[ natural ]] language processing", "state the art " * 20]
    for name, value in vars(original.encode(texts)).items():
        np.testing.assert_array_equal(value, getattr(loaded.encode(texts), name))


def test_plain_auto_tokenizer_refuses_the_folder(tmp_path: Path) -> None:
    """Opening it as a base tokenizer would drop the task tokens without a word."""
    tokenizer().save(tmp_path)
    with pytest.raises((ValueError, OSError)):
        AutoTokenizer.from_pretrained(tmp_path)


def test_a_token_set_of_another_vocabulary_is_refused() -> None:
    other = TokenSet(sequences=((1, 2),), base_vocabulary=100, max_gap=1, max_span=None)
    with pytest.raises(InputError, match=f"vocabulary of 100 tokens, this tokenizer has {SIZE}"):
        tokenizer(tokens=other)
