import functools
import json
import shutil
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
from adapt_ray.tokenization import insertion
from adapt_ray.tokenization.encoding import EncodedTexts
from adapt_ray.tokenization.task_tokenizer import Settings, TaskTokenizer

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


@functools.cache
def tokenizer(**options: Any) -> TaskTokenizer:
    tokens = options.pop("tokens", TOKENS)
    markers = options.pop("markers", MARKERS)
    return TaskTokenizer.pretrained(ModelConfig(**options), tokens, markers)


def row(encoded: EncodedTexts, index: int) -> tuple[list[int], list[int]]:
    part = slice(encoded.offsets[index], encoded.offsets[index + 1])
    return encoded.ids[part].tolist(), encoded.positions[part].tolist()


def test_the_longest_match_is_inserted_before_its_first_token() -> None:
    ids, positions = row(
        tokenizer().encode_texts(["we propose natural language processing here"]), 0
    )
    we, propose, natural, *rest = ids_of("we propose natural language processing here")
    expected = [BASE.cls_token_id, SIZE + 3, we, propose, SIZE + 0, natural, *rest]
    assert ids == [*expected, BASE.sep_token_id]
    assert positions == list(range(len(ids)))


def test_gapped_occurrences_match_and_wider_ones_do_not() -> None:
    encoded = tokenizer().encode_texts(["state the art", "state of the art"])
    assert SIZE + 2 in row(encoded, 0)[0]
    assert SIZE + 2 not in row(encoded, 1)[0]


def test_shared_positions_give_the_inserted_token_its_neighbours_position() -> None:
    ids, positions = row(tokenizer(positions="shared").encode_texts(["so we propose it"]), 0)
    at = ids.index(SIZE + 3)
    assert positions[at] == positions[at + 1] == 2
    base = [p for i, p in zip(ids, positions, strict=True) if i < SIZE]
    assert base == list(range(len(base)))


def test_matching_steps_over_markers_which_stay_in_the_input() -> None:
    text = "we [[ natural ]] << language >> models"
    encoded = tokenizer().encode_texts([text])
    ids, _ = row(encoded, 0)
    assert [i for i in ids if i < SIZE] == BASE(text)["input_ids"]
    assert ids[ids.index(SIZE + 1) + 1] == ids_of("natural")[0]
    bracket, angle = ids_of("[")[0], ids_of("<")[0]
    assert encoded.markers[0].tolist() == [ids.index(bracket), ids.index(angle)]


def test_absent_and_truncated_markers_are_minus_one() -> None:
    encoded = tokenizer(max_tokens=8).encode_texts(
        ["one two", "a b c d e f g [[ h ]]", "[[ a ]] b"]
    )
    assert encoded.markers.tolist() == [[-1, -1], [-1, -1], [1, -1]]


def test_inserted_tokens_are_lost_before_text() -> None:
    text = "we propose natural language"  # four base tokens, two insertions
    for limit, inserted in ((8, 2), (9, 2)):
        encoded = tokenizer(max_tokens=limit).encode_texts([text])
        assert (encoded.truncated, encoded.dropped) == (0, 2 - inserted)
    longer = text + " a b c"  # seven base tokens and the frame are nine
    encoded = tokenizer(max_tokens=10).encode_texts([longer])
    ids, _ = row(encoded, 0)
    assert (encoded.truncated, encoded.dropped, len(ids)) == (0, 1, 10)
    assert [i for i in ids if i < SIZE] == BASE(longer)["input_ids"]
    encoded = tokenizer(max_tokens=8).encode_texts([longer])
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
    encoded = tokenizer(max_tokens=limit, positions=positions).encode_texts(texts)
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
    together = tokenizer().encode_texts(texts)
    for index, text in enumerate(texts):
        assert row(together, index) == row(tokenizer().encode_texts([text]), 0)


def test_texts_are_encoded_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["we propose [[ it ]]", "", "x << y >> [[ state ]] the art", "[[ a ]]", "we propose"]
    whole = tokenizer().encode_texts(texts)
    monkeypatch.setattr(insertion, "_CHUNK", 2)
    for name, value in vars(tokenizer().encode_texts(texts)).items():
        np.testing.assert_array_equal(value, getattr(whole, name))


def test_padding_and_truncation_that_a_base_brings_along_are_turned_off() -> None:
    raw = AutoTokenizer.from_pretrained(resolve_model("minilm"))
    assert raw.backend_tokenizer.padding is not None
    task = TaskTokenizer(raw, TOKENS, Settings(256, "shifted", MARKERS))
    assert task("we propose")["input_ids"] == row(tokenizer().encode_texts(["we propose"]), 0)[0]


def test_inserted_share_counts_base_tokens_with_their_frame() -> None:
    encoded = tokenizer().encode_texts(["we propose", "nothing here"])
    assert encoded.inserted_share == pytest.approx(1 / 8)
    assert tokenizer(tokens=None).encode_texts(["we propose"]).inserted_share == 0.0


def test_round_trip_through_a_folder(tmp_path: Path) -> None:
    original = tokenizer(max_tokens=32, positions="shared")
    original.save_pretrained(tmp_path)
    loaded = TaskTokenizer.from_pretrained(tmp_path)
    texts = ["we propose [[ natural ]] language processing", "state the art " * 20]
    for name, value in vars(original.encode_texts(texts)).items():
        np.testing.assert_array_equal(value, getattr(loaded.encode_texts(texts), name))


def test_a_token_set_of_another_vocabulary_is_refused() -> None:
    other = TokenSet(sequences=((1, 2),), base_vocabulary=100, max_gap=1, max_span=None)
    with pytest.raises(InputError, match=f"vocabulary of 100 tokens, this tokenizer has {SIZE}"):
        tokenizer(tokens=other)


def changed(model: str, folder: Path, **values: object) -> str:
    """Copy a model's folder with other values in its configuration."""
    shutil.copytree(model, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return str(folder)


def test_new_ids_begin_behind_the_rows_of_the_models_table(tiny_model: str, tmp_path: Path) -> None:
    padded = changed(tiny_model, tmp_path / "padded", vocab_size=SIZE + 6)
    empty = tokenizer(name=padded, max_tokens=32, tokens=None)
    assert empty.tokens.base_vocabulary == SIZE + 6
    tokens = TokenSet((ids_of("we propose"),), empty.tokens.base_vocabulary, 1, None)
    ids, _ = row(
        tokenizer(name=padded, max_tokens=32, tokens=tokens).encode_texts(["we propose"]), 0
    )
    assert ids == [BASE.cls_token_id, SIZE + 6, *ids_of("we propose"), BASE.sep_token_id]


def test_positions_of_a_roberta_model_begin_behind_its_padding(
    tiny_model: str, tmp_path: Path
) -> None:
    roberta = changed(tiny_model, tmp_path / "roberta", model_type="roberta", pad_token_id=1)
    options = {"name": roberta, "positions": "shared"}
    assert tokenizer(max_tokens=62, **options)("so we propose")["position_ids"] == [
        2,
        3,
        4,
        4,
        5,
        6,
    ]
    with pytest.raises(InputError, match="max_tokens is 63, .* positions for 62"):
        tokenizer(max_tokens=63, **options)
