"""Warming up the embeddings of task tokens: one epoch that all runs share.

Everything else is frozen meanwhile, except a head that is thrown away afterwards. Runs then start
from the same embeddings whatever their seed, and keep them, so that no gradient of theirs has to
reach the bottom of the model.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapt_ray import seeding
from adapt_ray.artifacts import ArtifactStore, Manifest, Stage, digest_json
from adapt_ray.config import ModelConfig, TrainingConfig
from adapt_ray.data.corpus import TRAIN_FILE, Corpus
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.modeling import TaskClassifier, build_classifier
from adapt_ray.pretrained import model_digest
from adapt_ray.tokenization.task_tokenizer import TaskTokenizer
from adapt_ray.training.engine import build_engine
from adapt_ray.training.evaluate import Scores, predict, score
from adapt_ray.training.examples import Examples
from adapt_ray.training.loop import train
from adapt_ray.training.world import World

# The same for every run: a warm-up that a search varied would not be shared.
SETTINGS = TrainingConfig(epochs=1, batch_size=16, learning_rate=1e-3, checkpoint_seconds=None)
SEED = 0
_FILE = "new_rows.safetensors"
_TENSOR = "rows"


@dataclass(frozen=True)
class NewRows:
    """Embeddings of the task tokens, in the order of their ids."""

    rows: Tensor  # float32 [n_new, H]

    def put_into(self, model: TaskClassifier) -> None:
        """Set the new rows of a model's embedding."""
        assert model.embedding.new is not None
        with torch.no_grad():
            model.embedding.new.copy_(self.rows)

    def save(self, folder: Path) -> None:
        """Write ``new_rows.safetensors``."""
        save_file({_TENSOR: self.rows}, folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        return cls(load_file(folder / _FILE)[_TENSOR])


@dataclass(frozen=True)
class WarmUpPlan:
    """What is warmed up: the task tokens of a corpus, from a start, in a model."""

    storage: str
    corpus: Manifest
    tokens: Manifest
    model: ModelConfig
    new_rows_init: Literal["mean", "random"]
    precision: Literal["fp32", "bf16"]
    seed: int = SEED  # of the head, of rows that start at random, and of the order of texts

    @property
    def stage(self) -> Stage:
        """The artifact that the warmed-up rows become; they depend on training rows only."""
        config: dict[str, Any] = {
            "model": self.model.key(),
            "new_rows_init": self.new_rows_init,
            "training": self.training.key(),
            "seed": self.seed,
        }
        del config["model"]["name"]
        inputs = {
            "train": self.corpus.files[TRAIN_FILE],
            "markers": digest_json(self.corpus.notes["markers"]),
            "model": model_digest(self.model.name),
            "tokens": self.tokens.digest,
        }
        return Stage("new_rows", 1, config, inputs)

    @property
    def training(self) -> TrainingConfig:
        """How the rows train."""
        return SETTINGS.model_copy(update={"precision": self.precision})


def warm_up(plan: WarmUpPlan) -> tuple[NewRows, Mapping[str, Any]]:
    """Train the new rows for one epoch in this process; return them and how it went.

    Raises :class:`adapt_ray.training.loop.DivergedError` when the loss stops being finite.
    """
    started = time.perf_counter()
    store = ArtifactStore(plan.storage)
    corpus = store.load(Corpus, plan.corpus)
    tokens = store.load(TokenSet, plan.tokens)
    tokenizer = TaskTokenizer.pretrained(plan.model, tokens, corpus.markers)
    examples = {
        name: Examples(
            tokenizer.encode_texts(corpus.splits[name].texts),
            corpus.splits[name].labels,
            tokenizer.pad_id,
        )
        for name in ("train", "dev")
    }
    world = World.current()
    model = _model(plan, tokenizer, len(corpus.label_names)).to(world.device)
    engine = build_engine(plan.training, model, world)

    def evaluate() -> Scores:
        logits = predict(engine, examples["dev"], world)
        return score(examples["dev"].labels, logits.argmax(1), len(corpus.label_names))

    curve = train(model, engine, examples["train"], plan.training, plan.seed, world, evaluate)
    assert model.embedding.new is not None
    return NewRows(model.embedding.new.detach().cpu().clone()), {
        "learning_rate": plan.training.learning_rate,
        "train_loss": curve[-1].train_loss,
        "dev_macro_f1": curve[-1].dev.macro_f1,
        "seconds": time.perf_counter() - started,
    }


def _model(plan: WarmUpPlan, tokenizer: TaskTokenizer, n_classes: int) -> TaskClassifier:
    """Return a model of which the new rows and the head train."""
    model = build_classifier(
        plan.model,
        n_classes,
        len(tokenizer.openings),
        tokenizer.tokens.sequences,
        new_rows_init=plan.new_rows_init,
        seed=seeding.derive(plan.seed, "initialisation"),
    )
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    assert model.embedding.new is not None
    model.embedding.new.requires_grad_(True)
    return model
