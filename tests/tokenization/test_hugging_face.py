"""The task tokenizer where Hugging Face expects a tokenizer, over every kind of base."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    GemmaConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    pipeline,
)

import adapt_ray
from adapt_ray.errors import InputError
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.tokenization.task_tokenizer import Settings, TaskTokenizer

PHRASES = ["natural language processing", "natural language", "state the art", "we propose", "of"]
TEXTS = [
    "we propose natural language processing of the state of the art",
    "",
    "x",
    "natural art language. We propose!",
    "  the natural   language ",
]
GAP = 2


def task_tokenizer(base: Any, **options: Any) -> TaskTokenizer:
    """Give a base tokenizer the phrases as they are inside a text, longest first."""
    inside = [
        tuple(base("a " + phrase, add_special_tokens=False)["input_ids"]) for phrase in PHRASES
    ]
    first = len(base("a", add_special_tokens=False)["input_ids"])
    sequences = sorted({ids[first:] for ids in inside}, key=lambda ids: (-len(ids), ids))
    tokens = TokenSet(tuple(sequences), len(base), GAP, None)
    return TaskTokenizer(base, tokens, Settings(**{**DEFAULTS, **options}))


DEFAULTS: dict[str, Any] = {"max_tokens": 64, "positions": "shifted", "markers": ()}


def occurs(ids: list[int], start: int, sequence: tuple[int, ...]) -> bool:
    """Try every way to place a sequence whose first token is at ``start``."""
    if ids[start] != sequence[0]:
        return False
    rest = sequence[1:]
    reach = range(start + 1, min(start + 2 + GAP, len(ids)))
    return not rest or any(occurs(ids, following, rest) for following in reach)


def inserted_by_hand(task: TaskTokenizer, ids: list[int]) -> list[int]:
    """Insert task tokens into the ids of a text without special tokens."""
    out = []
    for start, token in enumerate(ids):
        for number, sequence in enumerate(task.tokens.sequences):
            if occurs(ids, start, sequence):
                out.append(task.tokens.base_vocabulary + number)
                break
        out.append(token)
    return out


def dropped(task: TaskTokenizer, ids: list[int], values: list[Any] | None = None) -> list[Any]:
    """Return the ids, or what goes with them, without the inserted ones."""
    kept = [index < task.tokens.base_vocabulary for index in ids]
    return [v for v, keep in zip(ids if values is None else values, kept, strict=True) if keep]


EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
words = st.sampled_from(
    ["natural", "language", "processing", "state", "the", "art", "we", "propose", "of", "é",
     "[CLS]", "<s>", "7.5", "\n", "  ", "日本", "👩‍👩‍👧", "ﬁ", "\u200b"]
)  # fmt: skip
texts_of_words = st.lists(words, max_size=12).map(" ".join)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(texts_of_words | any_text, min_size=1, max_size=4))
def test_any_text_keeps_its_base_ids_and_gets_every_match(base: Any, texts: list[str]) -> None:
    task = task_tokenizer(base)
    found = task(texts, return_offsets_mapping=True, return_special_tokens_mask=True)
    wanted = base(texts, return_offsets_mapping=True, return_special_tokens_mask=True)
    assert list(found) == list(wanted)
    for row, ids in enumerate(found["input_ids"]):
        for name in wanted:
            assert dropped(task, ids, found[name][row]) == wanted[name][row]
    bare = task(texts, add_special_tokens=False)["input_ids"]
    for ids, text in zip(bare, texts, strict=True):
        assert ids == inserted_by_hand(task, base(text, add_special_tokens=False)["input_ids"])
        frame = task._frame.prefix.tolist(), task._frame.suffix.tolist()
        assert task(text)["input_ids"] == frame[0] + ids + frame[1]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(texts_of_words, min_size=1, max_size=4),
    limit=st.integers(2, 20),
    side=st.sampled_from(["left", "right"]),
)
def test_truncation_loses_inserted_tokens_before_text(
    base: Any, texts: list[str], limit: int, side: str
) -> None:
    task = task_tokenizer(base, max_tokens=limit)
    plain = copy.deepcopy(base)
    task.truncation_side = plain.truncation_side = side
    found = task(texts, truncation=True)["input_ids"]
    whole = task(texts)["input_ids"]
    for ids, all_ids, wanted in zip(
        found, whole, plain(texts, truncation=True, max_length=limit)["input_ids"], strict=True
    ):
        assert dropped(task, ids) == wanted
        assert len(ids) == min(limit, len(all_ids))
    encoded = task.encode_texts(texts)
    parts = np.split(encoded.ids, encoded.offsets[1:-1])
    assert [part.tolist() for part in parts] == found


def test_frames_and_sides_are_the_bases(base: Any) -> None:
    task = task_tokenizer(base)
    assert task.padding_side == base.padding_side
    assert task.model_input_names == base.model_input_names
    assert task.special_tokens_map == base.special_tokens_map
    assert task.num_special_tokens_to_add() == base.num_special_tokens_to_add()
    assert task._frame.size == base.num_special_tokens_to_add()
    assert len(task) == len(base) + len(task.tokens) == len(task.get_vocab())


def test_an_inserted_token_has_an_empty_span_where_its_phrase_begins(base: Any) -> None:
    task = task_tokenizer(base)
    text = "so we propose natural language"
    out = task(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    inserted = [i for i, index in enumerate(out["input_ids"]) if index >= len(base)]
    assert len(inserted) == 2
    for place, phrase in zip(inserted, ("we propose", "natural language"), strict=True):
        begin, end = out["offset_mapping"][place]
        assert begin == end == out["offset_mapping"][place + 1][0]
        assert text[begin:].lstrip().startswith(phrase)
        assert out["special_tokens_mask"][place] == 1
        assert task.convert_ids_to_tokens(out["input_ids"][place]).endswith(f"{phrase}>")


@pytest.mark.parametrize("options", [{"padding": True}, {"padding": "max_length"},
                                     {"padding": True, "pad_to_multiple_of": 8},
                                     {"padding": True, "padding_side": "left"}])  # fmt: skip
def test_padding_fills_every_output(base: Any, options: dict[str, Any]) -> None:
    task = task_tokenizer(base, positions="shared")
    asked = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
    padded = task(TEXTS, return_length=True, **options, **asked)
    width = len(padded["input_ids"][0])
    assert padded["length"] == [width] * len(TEXTS)
    left = options.get("padding_side", base.padding_side) == "left"
    fillers = {"input_ids": base.pad_token_id, "attention_mask": 0, "token_type_ids": 0,
               "special_tokens_mask": 1, "offset_mapping": (0, 0), "position_ids": 0}  # fmt: skip
    for row, text in enumerate(TEXTS):
        alone = task(text, **asked)
        for name, values in alone.items():
            fill = [fillers[name]] * (width - len(values))
            assert padded[name][row] == (fill + values if left else values + fill)
    if options["padding"] == "max_length":
        assert width == 64
    elif "pad_to_multiple_of" in options:
        assert width % 8 == 0


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_tensors_and_single_texts(base: Any, kind: str) -> None:
    task = task_tokenizer(base)
    tensors = task(TEXTS, padding=True, return_tensors=kind)
    lists = task(TEXTS, padding=True)
    for name, values in lists.items():
        assert tensors[name].tolist() == values
    assert task(TEXTS[0], return_tensors=kind)["input_ids"].shape == (
        1, len(task(TEXTS[0])["input_ids"])
    )  # fmt: skip
    assert task.encode(TEXTS[0]) == task(TEXTS)["input_ids"][0]
    assert task([])["input_ids"] == []


def test_a_collator_pads_what_single_calls_gave(base: Any) -> None:
    task = task_tokenizer(base)
    batch = DataCollatorWithPadding(task)([dict(task(text)) for text in TEXTS])
    expected = task(TEXTS, padding=True, return_tensors="pt")
    for name in expected:
        assert torch.equal(batch[name], expected[name])


def test_decode_shows_inserted_tokens_until_asked_not_to(base: Any) -> None:
    task = task_tokenizer(base)
    text = "so we propose it"
    ids, plain = task(text)["input_ids"], base(text)["input_ids"]
    assert "<task_" in task.decode(ids)
    assert task.decode(ids, skip_inserted_tokens=True) == base.decode(plain)
    assert task.decode(ids, skip_special_tokens=True) == base.decode(
        plain, skip_special_tokens=True
    )
    rows = task(TEXTS)["input_ids"]
    assert task.batch_decode(rows, skip_special_tokens=True) == base.batch_decode(
        base(TEXTS)["input_ids"], skip_special_tokens=True
    )
    assert task.decode(plain) == base.decode(plain)
    assert task.decode(torch.tensor(ids)) == task.decode(ids)


def test_every_id_has_a_string_and_back(base: Any) -> None:
    task = task_tokenizer(base)
    every = list(range(len(task)))
    strings = task.convert_ids_to_tokens(every)
    assert strings[: len(base)] == base.convert_ids_to_tokens(every[: len(base)])
    assert len(set(strings)) == len(task)
    assert task.convert_tokens_to_ids(strings) == every
    ids = task(TEXTS[0])["input_ids"]
    assert task.tokenize(TEXTS[0]) == task.convert_ids_to_tokens(
        task(TEXTS[0], add_special_tokens=False)["input_ids"]
    )
    assert task.convert_ids_to_tokens(ids, skip_special_tokens=True) == base.tokenize(TEXTS[0])
    mask = task(TEXTS[0], return_special_tokens_mask=True)["special_tokens_mask"]
    assert task.get_special_tokens_mask(ids, already_has_special_tokens=True) == mask


def test_round_trip_through_a_folder_a_pickle_and_a_copy(base: Any, tmp_path: Path) -> None:
    task = task_tokenizer(base, positions="shared", markers=("[[", "]]"), first_position=2)
    written = task.save_pretrained(tmp_path)
    assert {Path(name) for name in written} == {p for p in tmp_path.rglob("*") if p.is_file()}
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json"}
    texts = [*TEXTS, "we [[ propose ]] it"]
    for other in (
        adapt_ray.TaskTokenizer.from_pretrained(tmp_path),
        pickle.loads(pickle.dumps(task)),
        copy.deepcopy(task),
    ):
        assert dict(other(texts, truncation=True)) == dict(task(texts, truncation=True))
        assert other.settings == task.settings
        assert other.model_max_length == 64
        for name, value in vars(task.encode_texts(texts)).items():
            np.testing.assert_array_equal(value, getattr(other.encode_texts(texts), name))


@pytest.mark.parametrize("config", [None, BertConfig, RobertaConfig, LlamaConfig, GemmaConfig])
def test_plain_auto_tokenizer_refuses_the_folder(base: Any, config: Any, tmp_path: Path) -> None:
    """Opening it as a base tokenizer, or an empty one, would drop the task tokens silently."""
    task_tokenizer(base).save_pretrained(tmp_path)
    if config is not None:
        config().save_pretrained(tmp_path)
    for kind in (AutoTokenizer, PreTrainedTokenizerFast):
        with pytest.raises(Exception, match=r"open it with adapt_ray\.TaskTokenizer"):
            kind.from_pretrained(tmp_path)


def test_folders_that_hold_no_task_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no task_tokenizer\.json"):
        TaskTokenizer.from_pretrained(tmp_path)
    for content in ("{", json.dumps({"max_tokens": 8, "markers": []}), "[]"):
        (tmp_path / "task_tokenizer.json").write_text(content)
        with pytest.raises(InputError, match="is damaged"):
            TaskTokenizer.from_pretrained(tmp_path)
    (tmp_path / "task_tokenizer.json").write_text(json.dumps(DEFAULTS))
    with pytest.raises(InputError, match="is damaged: no base_tokenizer in it"):
        TaskTokenizer.from_pretrained(tmp_path)


def test_without_a_limit_nothing_is_cut(base: Any) -> None:
    task = task_tokenizer(base)
    task.model_max_length = base.model_max_length  # the largest number there is
    assert task.encode_texts(TEXTS).truncated == 0
    assert task(TEXTS, truncation=True)["input_ids"] == task(TEXTS)["input_ids"]


def test_a_text_classification_pipeline(base: Any, tmp_path: Path) -> None:
    task = task_tokenizer(base)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(task), hidden_size=16, num_hidden_layers=1,
                        num_attention_heads=2, intermediate_size=16)  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    classify = pipeline("text-classification", model=model, tokenizer=task, device="cpu")
    texts = [text for text in TEXTS if text]
    rows = 1 if base.padding_side == "left" else 2  # BERT counts positions from the left
    found: list[Any] = classify(texts, batch_size=rows, truncation=True, top_k=None)
    for text, scores in zip(texts, found, strict=True):
        with torch.no_grad():
            logits = model(**task(text, truncation=True, return_tensors="pt")).logits
        for score in scores:
            label = int(score["label"].removeprefix("LABEL_"))
            assert score["score"] == pytest.approx(float(logits.softmax(-1)[0, label]), abs=1e-5)
    classify.save_pretrained(tmp_path)
    assert TaskTokenizer.from_pretrained(tmp_path)(TEXTS)["input_ids"] == task(TEXTS)["input_ids"]


def test_datasets_map(base: Any) -> None:
    from datasets import Dataset

    task = task_tokenizer(base)
    rows = Dataset.from_dict({"text": TEXTS * 3})
    encoded = rows.map(lambda batch: task(batch["text"], truncation=True), batched=True)
    assert encoded["input_ids"][:] == task(TEXTS * 3)["input_ids"]


def test_shared_positions_are_part_of_the_output(base: Any) -> None:
    task = task_tokenizer(base, positions="shared", first_position=2)
    out = task("so we propose it")
    assert "position_ids" in task.model_input_names
    kept = dropped(task, out["input_ids"], out["position_ids"])
    assert kept == list(range(2, 2 + len(kept)))
    place = next(i for i, index in enumerate(out["input_ids"]) if index >= len(base))
    assert out["position_ids"][place] == out["position_ids"][place + 1]


@pytest.mark.parametrize(
    "options", [{"text_pair": "b"}, {"is_split_into_words": True}, {"stride": 2},
                {"return_overflowing_tokens": True}]
)  # fmt: skip
def test_what_is_not_supported_is_refused(base: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} is not supported"):
        task_tokenizer(base)("a", **options)


def test_bad_arguments_are_named(base: Any) -> None:
    task = task_tokenizer(base)
    with pytest.raises(InputError, match="text 1 is None, a NoneType; give strings"):
        task(["a", None])
    with pytest.raises(InputError, match="text 0 is .*, a tuple"):
        task([("a", "b")])
    if task._frame.size:
        with pytest.raises(InputError, match="too short for the . special tokens"):
            task("a", truncation=True, max_length=task._frame.size - 1)


def test_the_vocabulary_is_closed(base: Any) -> None:
    task = task_tokenizer(base)
    with pytest.raises(InputError, match="'<new>' cannot be added"):
        task.add_tokens(["<new>"])
    with pytest.raises(InputError, match="'<new>' cannot be added"):
        task.add_special_tokens({"mask_token": "<new>"})
    task.add_special_tokens({"mask_token": base.pad_token})
    assert len(task) == len(base) + len(task.tokens)


def test_what_others_do_with_the_base_changes_nothing(base: Any) -> None:
    own = copy.deepcopy(base)
    task = task_tokenizer(own)
    before = task(TEXTS)["input_ids"]
    own(TEXTS, truncation=True, max_length=3, padding="max_length", split_special_tokens=True)
    assert task(TEXTS)["input_ids"] == before
    task(TEXTS, split_special_tokens=True)
    assert task(TEXTS)["input_ids"] == before


def test_ids_that_a_vocabulary_leaves_out_are_not_given_again() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"a": 0, "b": 7}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    base = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="a")
    with pytest.raises(InputError, match="vocabulary of 2 tokens, this tokenizer has 8"):
        TaskTokenizer(base, TokenSet(((0, 7),), 2, 0, None), Settings(**DEFAULTS))
    task = TaskTokenizer(base, TokenSet(((0, 7),), 8, 0, None), Settings(**DEFAULTS))
    assert task("a b a")["input_ids"] == [8, 0, 7, 0]
