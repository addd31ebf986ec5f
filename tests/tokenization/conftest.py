"""Small base tokenizers of every kind, trained on a few sentences."""

from typing import Any

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "We propose a model of natural language processing, the state of the art.",
    "the natural language of a state is the language we propose [[ here ]].",
    "unbelievably natural art; a café in the state, 7.5 of them!",
]
SMALL: dict[str, Any] = {"vocab_size": 320, "show_progress": False}


def _wordpiece() -> PreTrainedTokenizerFast:
    """WordPiece in BERT's frame."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(special_tokens=names, **SMALL))
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    pad, unk, cls, sep, mask = names
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        mask_token=mask,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE in RoBERTa's frame."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = ["<s>", "<pad>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=names, initial_alphabet=alphabet, **SMALL)
    backend.train_from_iterator(SENTENCES, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    bos, pad, eos = names
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, pad_token=pad, eos_token=eos
    )


def _unigram() -> PreTrainedTokenizerFast:
    """A SentencePiece-like Unigram model in Llama's frame, padded on the left."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        special_tokens=["<unk>", "<s>", "<pad>"], unk_token="<unk>", **SMALL
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        pad_token="<pad>",
        padding_side="left",
    )


def _frameless() -> PreTrainedTokenizerFast:
    """Byte-level BPE without special tokens around the text."""
    base = _byte_level()
    base.backend_tokenizer.post_processor = processors.ByteLevel()
    return base


BASES = {
    "wordpiece": _wordpiece(),
    "byte_level": _byte_level(),
    "unigram": _unigram(),
    "frameless": _frameless(),
}


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> Any:
    return BASES[request.param]
