"""A tiny exported model for the tests of prediction and serving."""

from pathlib import Path

import torch

from adapt_ray.config import ModelConfig
from adapt_ray.export import export
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.modeling import build_classifier
from adapt_ray.tokenization.task_tokenizer import TaskTokenizer

NAMES = ("billing", "delivery", "product")


def export_tiny(folder: Path, tiny_model: str) -> Path:
    """Export an untrained model with a task token whose predictions are of every class."""
    config = ModelConfig(name=tiny_model, max_tokens=48)
    tokens = TokenSet(((1996, 2344),), base_vocabulary=30522, max_gap=1, max_span=None)  # the order
    tokenizer = TaskTokenizer.pretrained(config, tokens, ())
    model = build_classifier(config, 3, 0, tokens.sequences, new_rows_init="mean", seed=0)
    torch.manual_seed(3)
    with torch.no_grad():
        model.head.weight.normal_(0.0, 1.0)
    export(folder, model, model.state_dict(), tokenizer, config, NAMES, {})
    return folder
