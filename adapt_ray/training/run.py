"""One run, from a plan and a seed to a record: what every job, local or distributed, executes."""

import functools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from adapt_ray import measures, seeding
from adapt_ray.adaptation import prepare
from adapt_ray.artifacts import ArtifactStore, Manifest, digest_json
from adapt_ray.config import MethodConfig, ModelConfig, TrainingConfig
from adapt_ray.data.corpus import Corpus, Split
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.modeling import Batch, TaskClassifier, build_classifier
from adapt_ray.pretrained import model_digest
from adapt_ray.records import CURVES_SCHEMA, PREDICTIONS_SCHEMA, Phase, RunRecord, Status
from adapt_ray.selection import Selection
from adapt_ray.tokenization.encoding import EncodedTexts
from adapt_ray.tokenization.task_tokenizer import TaskTokenizer
from adapt_ray.training.engine import Engine, build_engine
from adapt_ray.training.evaluate import Scores, majority_macro_f1, predict, score
from adapt_ray.training.loop import DivergedError, Epoch, TrainSplit, total_steps, train
from adapt_ray.training.world import World


@dataclass(frozen=True)
class RunPlan:
    """Everything that defines the runs of one configuration, over any number of seeds.

    ``training.precision`` is resolved: the plan's identity must say what is computed.
    """

    storage: str
    phase: Phase
    contender: str
    corpus: Manifest
    tokens: Manifest | None
    selection: Selection | None
    model: ModelConfig
    method: MethodConfig
    training: TrainingConfig
    test: bool  # whether the test split is predicted too

    @property
    def task(self) -> str:
        """Name of the corpus."""
        return str(self.corpus.notes["name"])

    def identity(self) -> dict[str, Any]:
        """Return what defines the results, except the seed.

        A method that trains a selection is defined by the selection's content: two alphas that
        select the same modules are one run.
        """
        method = self.method.key()
        if self.selection is not None:
            method = {name: method[name] for name in method if name not in _DECIDE_SELECTION}
            method["selection"] = list(self.selection.modules)
        if self.tokens is None:
            method = {name: method[name] for name in method if name not in _DESCRIBE_NEW_ROWS}
        return {
            "version": 1,
            "corpus": self.corpus.digest,
            "tokens": self.tokens.digest if self.tokens else None,
            "model": {**self.model.key(), "name": model_digest(self.model.name)},
            "method": method,
            "training": self.training.key(),
            "splits": ["dev", "test"] if self.test else ["dev"],
        }

    @functools.cached_property
    def configuration_id(self) -> str:
        """Hash of the identity."""
        return digest_json(self.identity())[:20]

    @functools.cached_property
    def config_json(self) -> str:
        """The identity as canonical JSON, with method and model as the user configured them."""
        config = self.identity() | {"method": self.method.key(), "model": self.model.key()}
        return json.dumps(config, sort_keys=True)

    def run_id(self, seed: int) -> str:
        """Return the hash of the identity and a seed: a finished run is found again by it."""
        return digest_json([self.configuration_id, seed])[:20]


_DECIDE_SELECTION = ("alpha", "sparsity", "normalisation")
_DESCRIBE_NEW_ROWS = ("task_tokens", "new_rows", "new_rows_init")


@dataclass(frozen=True)
class Inputs:
    """What all seeds of a plan share: loaded and encoded once per worker."""

    corpus: Corpus
    tokenizer: TaskTokenizer
    encoded: dict[str, EncodedTexts]

    @classmethod
    def of(cls, plan: RunPlan) -> "Inputs":
        """Load the plan's artifacts and encode the splits it needs."""
        store = ArtifactStore(plan.storage)
        corpus = store.load(Corpus, plan.corpus)
        tokens = store.load(TokenSet, plan.tokens) if plan.tokens else None
        tokenizer = TaskTokenizer.pretrained(plan.model, tokens, corpus.markers)
        names = ["train", "dev", "test"] if plan.test else ["train", "dev"]
        encoded = {name: tokenizer.encode_texts(corpus.splits[name].texts) for name in names}
        return cls(corpus, tokenizer, encoded)


@dataclass(frozen=True)
class Outcome:
    """A finished run: its record, and the tables that are kept beside it."""

    record: RunRecord
    predictions: pa.Table
    curves: pa.Table


def execute(
    plan: RunPlan,
    seed: int,
    inputs: Inputs,
    *,
    export: Callable[[TaskClassifier, Engine, RunRecord], None] | None = None,
) -> Outcome:
    """Train, evaluate and describe one run; every worker of the run calls it.

    A loss that stops being finite gives a record with status ``diverged``, not an exception.
    ``export`` is called with the trained model on every worker.
    """
    world = World.current()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    memory = measures.PeakMemory(world.device)
    model = _model(plan, seed, inputs).to(world.device)
    split = TrainSplit(
        inputs.encoded["train"], inputs.corpus.splits["train"].labels, inputs.tokenizer.pad_id
    )
    flops = _epoch_flops(model, split, plan.training, world)
    parameters = _parameters(model)
    engine = build_engine(plan.training, model, world)
    clock = _Clock()
    logits: dict[str, npt.NDArray[np.float32]] = {}

    def evaluate(name: str = "dev") -> Scores:
        with clock:
            logits[name] = predict(engine, inputs.encoded[name], split.pad_id, world)
        labels = inputs.corpus.splits[name].labels
        return score(labels, logits[name].argmax(1), len(inputs.corpus.label_names))

    error = None
    curve: list[Epoch] = []
    scores: dict[str, Scores] = {}
    try:
        curve = train(model, engine, split, plan.training, seed, world, evaluate)
        scores["dev"] = curve[-1].dev
        if plan.test:
            scores["test"] = evaluate("test")
    except DivergedError as diverged:
        error = str(diverged)
        logits.clear()

    record = _record(
        plan,
        seed,
        inputs,
        scores,
        started_at=started_at,
        error=error,
        train_seconds=sum(epoch.train_seconds for epoch in curve),
        evaluate_seconds=clock.seconds,
        flops_per_epoch=flops,
        peak_memory_bytes=max(world.gather(memory.bytes())),
        memory_kind=memory.kind,
        world_size=world.size,
        **parameters,
    )
    if export is not None and error is None:
        export(model, engine, record)
    return Outcome(record, _predictions(inputs.corpus, logits), _curves(curve))


def failed(plan: RunPlan, seed: int, inputs: Inputs, error: str, world_size: int) -> Outcome:
    """Return the outcome of a run that an exception ended; a later start tries it again."""
    record = _record(
        plan,
        seed,
        inputs,
        {},
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        error=error,
        status="error",
        world_size=world_size,
    )
    return Outcome(record, _predictions(inputs.corpus, {}), _curves([]))


class _Clock:
    """Sums the wall-clock time of the blocks it is entered for."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


def _model(plan: RunPlan, seed: int, inputs: Inputs) -> TaskClassifier:
    model = build_classifier(
        plan.model,
        len(inputs.corpus.label_names),
        len(inputs.tokenizer.openings),
        inputs.tokenizer.tokens.sequences,
        new_rows_init=plan.method.new_rows_init,
        seed=seeding.derive(seed, "initialisation"),
    )
    prepare(model, plan.method, plan.selection)
    return model


def _parameters(model: TaskClassifier) -> dict[str, Any]:
    """Count parameters; the head and the new rows are apart from the trained share."""
    original = model.original_parameters()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    new = model.embedding.new
    trained_new = new.numel() if new is not None and new.requires_grad else 0
    head = sum(p.numel() for p in model.head.parameters())
    return {
        "total_parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": trained,
        "added_parameters": model.added_parameters(),
        "trained_share": (trained - trained_new - head) / original,
    }


def _epoch_flops(
    model: TaskClassifier, split: TrainSplit, config: TrainingConfig, world: World
) -> int:
    """Estimate an epoch's FLOPs from one batch of median length, scaled by tokens."""
    lengths = split.texts.lengths
    middle = np.argsort(lengths, kind="stable")[len(lengths) // 2 :][: config.batch_size]
    batch = Batch.of(split.texts, middle, split.pad_id, world.device)
    labels = torch.from_numpy(split.labels[middle]).to(world.device)
    counted = measures.step_flops(model, batch, labels)
    return int(counted * lengths.sum() / batch.ids.numel())


def _record(
    plan: RunPlan,
    seed: int,
    inputs: Inputs,
    scores: dict[str, Scores],
    *,
    error: str | None,
    status: Status | None = None,
    **measured: Any,
) -> RunRecord:
    train_texts = inputs.encoded["train"]
    dev, test = scores.get("dev"), scores.get("test")
    steps = total_steps(plan.training, len(train_texts))
    seconds = measured.get("train_seconds") or None
    return RunRecord(
        run_id=plan.run_id(seed),
        configuration_id=plan.configuration_id,
        phase=plan.phase,
        task=plan.task,
        model=plan.model.name,
        contender=plan.contender,
        method=plan.method.type,
        config_json=plan.config_json,
        seed=seed,
        status=status or ("diverged" if error else "ok"),
        error=error,
        dev_macro_f1=dev.macro_f1 if dev else None,
        dev_accuracy=dev.accuracy if dev else None,
        dev_per_class_f1=dev.per_class_f1 if dev else None,
        test_macro_f1=test.macro_f1 if test else None,
        test_accuracy=test.accuracy if test else None,
        test_per_class_f1=test.per_class_f1 if test else None,
        majority_macro_f1=_majority(inputs.corpus, "dev"),
        epochs=plan.training.epochs,
        steps=steps,
        samples_per_second=plan.training.epochs * len(train_texts) / seconds if seconds else None,
        new_tokens=len(inputs.tokenizer.tokens.sequences),
        inserted_token_share=train_texts.inserted_share,
        truncated_texts=train_texts.truncated,
        precision=plan.training.precision,
        engine=plan.training.engine,
        zero_stage=plan.training.zero_stage if plan.training.engine == "deepspeed" else None,
        corpus_digest=plan.corpus.digest,
        token_set_digest=plan.tokens.digest if plan.tokens else None,
        selection_json=json.dumps(asdict(plan.selection)) if plan.selection else None,
        versions_json=measures.versions(),
        machine=measures.machine(),
        git_revision=measures.git_revision(),
        **measured,
    )


def _majority(corpus: Corpus, split: str) -> float:
    return majority_macro_f1(corpus.splits[split].labels, len(corpus.label_names))


def _predictions(corpus: Corpus, logits: dict[str, npt.NDArray[np.float32]]) -> pa.Table:
    def table(name: str, split: Split, values: npt.NDArray[np.float32]) -> pa.Table:
        return pa.table(
            {
                "row_id": split.row_ids,
                "text_id": split.text_ids,
                "split": [name] * len(split.labels),
                "label": split.labels,
                "logits": pa.array(list(values), pa.list_(pa.float32())),
            },
            schema=PREDICTIONS_SCHEMA,
        )

    tables = [table(name, corpus.splits[name], values) for name, values in logits.items()]
    return pa.concat_tables(tables) if tables else PREDICTIONS_SCHEMA.empty_table()


def _curves(curve: list[Epoch]) -> pa.Table:
    rows = [
        {
            "epoch": point.epoch,
            "train_loss": point.train_loss,
            "dev_macro_f1": point.dev.macro_f1,
            "dev_accuracy": point.dev.accuracy,
            "seconds": point.train_seconds,
        }
        for point in curve
    ]
    return pa.Table.from_pylist(rows, schema=CURVES_SCHEMA)
