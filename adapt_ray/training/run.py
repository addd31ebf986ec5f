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
from torch import Tensor
from torch.nn import functional

from adapt_ray import measures, seeding
from adapt_ray.adaptation import Schedule, Setting, prepare
from adapt_ray.artifacts import ArtifactStore, Manifest, digest_json
from adapt_ray.config import LEAD_TO_SELECTION, MethodConfig, ModelConfig, TrainingConfig
from adapt_ray.data.corpus import Corpus, Split
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.modeling import TaskClassifier, build_classifier, unloaded
from adapt_ray.pretrained import model_digest
from adapt_ray.records import CURVES_SCHEMA, PREDICTIONS_SCHEMA, Phase, RunRecord, Status
from adapt_ray.selection import Selection
from adapt_ray.tokenization.task_tokenizer import TaskTokenizer
from adapt_ray.training.checkpoint import Checkpoints
from adapt_ray.training.engine import build_engine
from adapt_ray.training.evaluate import Scores, majority_macro_f1, predict, score
from adapt_ray.training.examples import Examples
from adapt_ray.training.focus import total_rows, total_steps
from adapt_ray.training.loop import (
    DivergedError,
    Epoch,
    kept_epoch,
    set_train_mode,
    train,
)
from adapt_ray.training.storage import store_frozen_in_bf16
from adapt_ray.training.trunk import TrunkPlan, check_trunk_cache, fill, run_here
from adapt_ray.training.warmup import NewRows
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
    new_rows: Manifest | None = None  # warmed-up embeddings of the task tokens
    trunk_cache_gb: float = 20.0  # most that cached trunk states take; no part of the identity

    def __post_init__(self) -> None:
        if self.training.precision == "auto" or self.training.learning_rate is None:
            raise ValueError("precision and learning rate of a plan must be resolved")
        warm = self.tokens is not None and self.method.new_rows == "warmup"
        if warm != (self.new_rows is not None):
            raise ValueError(f"new_rows are {self.method.new_rows!r}, but given: {self.new_rows}")

    @property
    def task(self) -> str:
        """Name of the corpus."""
        return str(self.corpus.notes["name"])

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the runs read."""
        return ("train", "dev", "test") if self.test else ("train", "dev")

    @functools.cached_property
    def cut(self) -> int:
        """The lowest layer that trains, 0 where the embeddings or their new rows do."""
        if self.selection is None or self.selection.trained_share == 1.0:
            return 0
        if self.tokens is not None and self.method.new_rows == "train":
            return 0
        layers = {info.name: info.layer for info in unloaded(self.model)[0]}
        return min(layers[name] for name in self.selection.modules)

    @functools.cached_property
    def trunk(self) -> TrunkPlan | None:
        """The cached states that the runs read; None where none are wanted, or layer 0 trains.

        Raises InputError where the states below the cut are no constants.
        """
        check_trunk_cache(self.contender, self.method, self.training)
        if self.training.trunk_cache == "off" or self.cut == 0:
            return None
        assert self.training.precision != "auto"  # said again for the type checker
        return TrunkPlan(
            storage=self.storage,
            space_bytes=int(self.trunk_cache_gb * 2**30),
            corpus=self.corpus,
            tokens=self.tokens,
            new_rows=self.new_rows,
            new_rows_init=self.method.new_rows_init,
            model=self.model,
            layer=self.cut,
            keep=self.training.trunk_cache,
            precision=self.training.precision,
            frozen_storage=self.training.frozen_storage,
        )

    def identity(self) -> dict[str, Any]:
        """Return what defines the results, except the seed.

        A method that trains a selection is defined by the selection's content: two alphas that
        select the same modules are one run.
        """
        method = self.method.key()
        if self.selection is not None:
            method = {name: method[name] for name in method if name not in LEAD_TO_SELECTION}
            method["selection"] = list(self.selection.modules)
        if self.tokens is None:
            method = {name: method[name] for name in method if name not in _DESCRIBE_NEW_ROWS}
        training = self.training.key()
        if self.trunk is None:  # without a cache, a run is the same whether one was wanted or not
            training["trunk_cache"] = "off"
        return {
            "version": 1,
            "corpus": self.corpus.digest,
            "tokens": self.tokens.digest if self.tokens else None,
            "new_rows": self.new_rows.digest if self.new_rows else None,
            "model": {**self.model.key(), "name": model_digest(self.model.name)},
            "method": method,
            "training": training,
            "splits": list(self.splits[1:]),
        }

    @functools.cached_property
    def inputs_id(self) -> str:
        """Hash of what decides the :class:`Inputs`: plans that agree in it can share them."""
        artifacts = (self.corpus, self.tokens, self.new_rows)
        digests = [artifact.digest if artifact else None for artifact in artifacts]
        trunk = self.trunk.identity if self.trunk else None
        return digest_json([self.storage, digests, self.model.key(), list(self.splits), trunk])

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


_DESCRIBE_NEW_ROWS = ("task_tokens", "new_rows", "new_rows_init")


@dataclass(frozen=True)
class Inputs:
    """What all seeds of a plan share: loaded and encoded once per worker."""

    corpus: Corpus
    tokenizer: TaskTokenizer
    examples: dict[str, Examples]  # by split
    new_rows: NewRows | None  # warmed-up embeddings of the task tokens

    @classmethod
    def of(cls, plan: RunPlan) -> "Inputs":
        """Load the plan's artifacts and encode the splits it needs.

        Trunk states that a plan reads and nobody has computed yet are computed here. They stay
        where they are while the inputs exist.
        """
        store = ArtifactStore(plan.storage)
        corpus = store.load(Corpus, plan.corpus)
        tokens = store.load(TokenSet, plan.tokens) if plan.tokens else None
        tokenizer = TaskTokenizer.pretrained(plan.model, tokens, corpus.markers)
        held = fill(plan.trunk, plan.splits, run_here) if plan.trunk else {}
        examples = {}
        for name in plan.splits:
            split = corpus.splits[name]
            texts = tokenizer.encode_texts(split.texts)
            states = None
            if plan.trunk is not None:
                states = plan.trunk.open(held[name], split.texts, texts.lengths)
            examples[name] = Examples(texts, split.labels, tokenizer.pad_id, states)
        new_rows = store.load(NewRows, plan.new_rows) if plan.new_rows else None
        return cls(corpus, tokenizer, examples, new_rows)


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
    export: Callable[[TaskClassifier, dict[str, Tensor], RunRecord], None] | None = None,
) -> Outcome:
    """Train, evaluate and describe one run; every worker of the run calls it.

    A loss that stops being finite gives a record with status ``diverged``, not an exception.
    ``export`` is called on the first worker with the model and its whole weights: what trained, on
    the pretrained ones, so that those are exact however a run stored them. A run that was killed
    goes on from its last checkpoint; the caller discards that once the record is written.
    """
    world = World.current()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    model, schedule, facts = prepared(plan, seed, inputs)
    model.to(world.device)
    memory = measures.PeakMemory(world.device)  # a trunk that is cached has left it
    examples = inputs.examples["train"]
    costs: dict[str, Any] = _step_costs(model, examples, plan.training, world)
    if schedule is not None:
        schedule.register()
    engine = build_engine(plan.training, model, world)
    clock = _Clock()
    logits: dict[str, npt.NDArray[np.float32]] = {}

    def evaluate(name: str = "dev") -> Scores:
        logits[name] = predict(engine, inputs.examples[name], world)
        labels = inputs.examples[name].labels
        return score(labels, logits[name].argmax(1), len(inputs.corpus.label_names))

    error = None
    curve: list[Epoch] = []
    scores: dict[str, Scores] = {}
    try:
        checkpoints = _checkpoints(plan, seed, world)
        curve = train(
            model, engine, examples, plan.training, seed, world, evaluate, checkpoints, schedule
        )
        with clock:
            kept = kept_epoch(plan.training, curve)
            # The predictions must be those of the weights that are kept.
            scores["dev"] = kept.dev if kept is curve[-1] else evaluate()
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
        epochs=len(curve) or plan.training.epochs,
        **_times(curve, len(inputs.examples["dev"]), clock.seconds),
        **costs,
        train_flops=_flops_of(curve, costs["flops_per_epoch"], examples),
        peak_memory_bytes=max(world.gather(memory.bytes())),
        memory_kind=memory.kind,
        world_size=world.size,
        **facts,
    )
    if export is not None and error is None:
        trained = engine.weights()
        if world.rank == 0:
            export(model, _model(plan, seed, inputs).state_dict() | trained, record)
    engine.close()
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
        epochs=plan.training.epochs,
        status="error",
        world_size=world_size,
    )
    return Outcome(record, _predictions(inputs.corpus, {}), _curves([]))


def _checkpoints(plan: RunPlan, seed: int, world: World) -> Checkpoints | None:
    if plan.training.checkpoint_seconds is None:
        return None
    setting = {
        "workers": world.size,
        "device": world.device.type,
        "versions": measures.versions(),
    }
    return Checkpoints(plan.storage, plan.run_id(seed), world, setting)


def _flops_of(curve: list[Epoch], per_epoch: int, examples: Examples) -> int:
    """Return the FLOPs of what a run trained on; all rows in every epoch, or the hardest."""
    tokens = sum(epoch.tokens for epoch in curve)
    return int(per_epoch * tokens / examples.texts.lengths.sum())


def _times(curve: list[Epoch], dev_rows: int, evaluated_after: float) -> dict[str, Any]:
    """Sum up the seconds of the epochs, and those of the evaluation after them."""
    evaluating = sum(epoch.evaluate_seconds for epoch in curve)
    return {
        "train_seconds": sum(epoch.train_seconds for epoch in curve),
        "evaluate_seconds": evaluating + evaluated_after,
        "evaluate_samples_per_second": len(curve) * dev_rows / evaluating if curve else None,
    }


class _Clock:
    """Sums the wall-clock time of the blocks it is entered for."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


def _model(plan: RunPlan, seed: int, inputs: Inputs) -> TaskClassifier:
    return _adapted(plan, seed, inputs)[0]


def _adapted(plan: RunPlan, seed: int, inputs: Inputs) -> tuple[TaskClassifier, Schedule | None]:
    seed = plan.training.stream_seed("initialisation", seed)
    model = build_classifier(
        plan.model,
        len(inputs.corpus.label_names),
        len(inputs.tokenizer.openings),
        inputs.tokenizer.tokens.sequences,
        new_rows_init=plan.method.new_rows_init,
        seed=seeding.derive(seed, "initialisation"),
    )
    if inputs.new_rows is not None:
        inputs.new_rows.put_into(model)
    texts = inputs.examples["train"].texts
    setting = Setting(
        mean_length=float(texts.base_lengths.mean()),
        steps=total_steps(plan.training, plan.training.epochs, len(texts)),
        seed=seed,
    )
    return model, prepare(model, plan.method, plan.selection, setting)


def prepared(
    plan: RunPlan, seed: int, inputs: Inputs
) -> tuple[TaskClassifier, Schedule | None, dict[str, Any]]:
    """Return the model as it trains, what its method changes, and what was counted of the whole."""
    model, schedule = _adapted(plan, seed, inputs)
    if schedule is not None:
        schedule.before_step(0)
    facts = _parameters(model) | {"cut_layer": model.trained_from()}
    if plan.trunk is not None:
        model.cut_at(plan.trunk.layer)
    if plan.training.frozen_storage == "bf16":
        store_frozen_in_bf16(model)
    return model, schedule, facts


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
        "adapter_size": model.added.size if model.added else None,
    }


def _step_costs(
    model: TaskClassifier, examples: Examples, config: TrainingConfig, world: World
) -> dict[str, int]:
    """Count a step on texts of median length, and estimate an epoch's FLOPs by tokens."""
    lengths = examples.texts.lengths
    middle = np.argsort(lengths, kind="stable")[len(lengths) // 2 :][: config.batch_size]
    batch = examples.batch(middle, world.device)
    labels = torch.from_numpy(examples.labels[middle]).to(world.device)
    set_train_mode(model, config)
    flops, memory = measures.step_costs(
        model, lambda: functional.cross_entropy(model(**batch.inputs()).float(), labels)
    )
    return {
        "flops_per_epoch": int(flops * lengths.sum() / batch.ids.numel()),
        "step_memory_bytes": memory.total,
    }


def _record(
    plan: RunPlan,
    seed: int,
    inputs: Inputs,
    scores: dict[str, Scores],
    *,
    error: str | None,
    epochs: int,
    status: Status | None = None,
    **measured: Any,
) -> RunRecord:
    train_texts = inputs.examples["train"].texts
    dev, test = scores.get("dev"), scores.get("test")
    # Of the training rows alone: no other cost counts evaluation either.
    states = inputs.examples["train"].states
    seconds = measured.get("train_seconds") or None
    rows = total_rows(plan.training, epochs, len(train_texts))
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
        epochs=epochs,
        steps=total_steps(plan.training, epochs, len(train_texts)),
        samples_per_second=rows / seconds if seconds else None,
        trunk_cache=plan.trunk.keep if plan.trunk else None,
        trunk_fill_seconds=states.notes["seconds"] if states else None,
        trunk_fill_flops=states.notes["flops"] if states else None,
        new_tokens=len(inputs.tokenizer.tokens.sequences),
        inserted_token_share=train_texts.inserted_share,
        truncated_texts=train_texts.truncated,
        precision=plan.training.precision,
        engine=plan.training.engine,
        zero_stage=plan.training.zero_stage if plan.training.engine == "deepspeed" else None,
        corpus_digest=plan.corpus.digest,
        **inputs.corpus.record_fields(),
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
