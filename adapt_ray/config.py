"""What a run is: frozen, typed models, and the only decoder of recipes and flags.

One schema serves YAML recipes, command-line flags, Tune's proposals, artifact keys and records.
Precedence: defaults < recipe < flags. Unknown fields are refused with the nearest valid name. A
field marked ``outside_key`` says where or how fast something runs, never what comes out, and stays
out of every artifact key and run id.
"""

import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, Union

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from adapt_ray.errors import InputError, nearest, shown

Precision = Literal["auto", "fp32", "bf16"]
Scalar = bool | int | float | str | None


class Config(BaseModel):
    """Base of every section: immutable, refuses unknown fields, rejects NaN and infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

    def key(self) -> dict[str, Any]:
        """Return the JSON-ready content that identifies results (no paths, no resources)."""
        outside = {
            name
            for name, field in type(self).model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra["outside_key"]
        }
        return self.model_dump(mode="json", exclude=outside)


def _outside_key(default: Any, description: str, **bounds: Any) -> Any:
    extra: dict[str, Any] = {"outside_key": True}
    return Field(default, description=description, json_schema_extra=extra, **bounds)


def _without_secret(place: str) -> str:
    """Refuse a URI with a password or key, which would end up in reports and job metadata.

    Nothing of it is repeated in the message. A name alone is no secret to a bucket (``gs://
    anonymous@bucket``, ``abfs://container@account``), but can be a web server's token.
    """
    scheme, found, rest = place.partition("://")
    user, at, _ = re.split(r"[/?#]", rest)[0].rpartition("@")
    secret = at and (":" in user or scheme in ("http", "https"))
    if found and (secret or re.search(r"[?&][^=&]*(secret|token|password|key)[^=&]*=", rest, re.I)):
        raise ValueError(
            "the URI holds a secret, which reports and logs would repeat; leave it out and set the "
            "environment variables that the service reads"
        )
    return place


Place = Annotated[str, AfterValidator(_without_secret)]


class DataConfig(Config):
    """Which corpus, and how it is split, reduced and balanced."""

    task: str | None = Field(
        None,
        description="built-in task (brings its source, markers and preprocessing); 'demo' when "
        "neither task nor source is given",
    )
    source: Place | None = _outside_key(
        None,
        "a file (.parquet, .jsonl, .csv), a folder of train/dev/test files, a URI of either, or a "
        "Hugging Face hub id; with a task: where that task's files lie",
    )
    folder: Place | None = _outside_key(
        None,
        "a folder, or its URI, with one folder of train/dev/test files a task, read in place of "
        "the hub; named as the task is, or as its hub copy or a usual local one",
    )
    hub_config: str | None = Field(None, description="configuration name of a hub dataset")
    hub_revision: str | None = Field(None, description="commit, tag or branch of a hub dataset")
    text_column: str = Field("text", description="column with the text")
    label_column: str = Field("label", description="column with the class name or number")
    markers: tuple[str, ...] | None = Field(
        None,
        description="pairs of opening and closing strings that are no part of any pattern, as "
        '\'["[[", "]]"]\'; the task\'s own when not given',
    )
    oversample: int | None = Field(
        0,
        ge=0,
        description="repeat rows of smaller training classes up to this many (0: never; null: what "
        "the paper does for the task, 800 rows for each of its five, never for others)",
    )
    train_fraction: float = Field(
        1.0, gt=0, le=1, description="share of the training rows to keep, stratified"
    )
    evaluate_rows: int | None = Field(
        None,
        ge=2,
        description="keep at most this many rows of dev and of test, stratified and always the "
        "same, where evaluation would cost too much; scores are then of these rows alone",
    )
    resplit_seed: int | None = Field(
        None,
        ge=0,
        description="pool all rows and redraw train, dev and test with this seed, at their sizes "
        "or by test_fraction",
    )
    test_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="pool all rows and redraw test as this share of them, then dev as dev_fraction "
        "of the others, with resplit_seed (0 when not given): 0.1 is a 90/10 split, 0.7 a 30/70 "
        "split",
    )
    dev_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of train that becomes dev, where a corpus has no dev or test_fraction "
        "draws it anew",
    )
    drop_leaks: bool = Field(
        False,
        description="drop texts that lie in two splits: from train and dev what is in test, from "
        "train what is in dev; otherwise they are only counted",
    )

    @model_validator(mode="after")
    def _markers_in_pairs(self) -> "DataConfig":
        if self.markers is not None and len(self.markers) % 2:
            raise ValueError(
                f"markers {list(self.markers)} must be pairs of an opening and a closing string"
            )
        return self


class ModelConfig(Config):
    """The pretrained model and what is put on top of it."""

    name: Place = Field(
        "minilm",
        description="'minilm' (MiniLM-L6 from its Python package), a local folder, or a hub id",
    )
    pooling: Literal["mean", "cls", "markers", "last"] = Field(
        "mean",
        description="what the classification head sees: mean of the states, the first state, the "
        "mean beside the states at the task's opening markers, or the last state (decoders)",
    )
    max_tokens: int = Field(
        256, ge=8, le=8192, description="longest input in tokens; longer texts are truncated"
    )
    positions: Literal["shifted", "shared"] = Field(
        "shifted",
        description="position of an inserted token: its own (the paper), or that of the token it "
        "precedes",
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout of the backbone; the model's own when not given"
    )
    head_dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the classifier")
    trust_remote_code: Literal[False] = Field(
        False, description="Python code that a model brings along is never run"
    )


class MiningConfig(Config):
    """Closed frequent token sequences (paper section 3.1)."""

    min_support: int = Field(5, ge=1, description="least number of distinct texts with a pattern")
    min_length: int = Field(2, ge=1, description="shortest pattern, in tokens")
    max_length: int = Field(20, ge=1, description="longest pattern, in tokens")
    max_gap: int | None = Field(
        1, ge=0, description="most foreign tokens between two items (0: contiguous, null: no limit)"
    )
    max_span: int | None = Field(
        None, ge=1, description="widest occurrence in tokens, both ends counted (null: no limit)"
    )
    max_patterns: int = _outside_key(
        5_000_000, "stop with an error beyond this many patterns", ge=1
    )
    max_seconds: float | None = _outside_key(
        3600.0, "stop with an error after this time (null: no limit)", gt=0
    )
    memory_gb: float = _outside_key(
        4.0,
        "most memory of one mining task, in GiB, half of it for documents and half for the search; "
        "where three times the corpus exceed their half, they are shuffled to partitions that fit",
        gt=0,
    )

    @model_validator(mode="after")
    def _lengths_in_order(self) -> "MiningConfig":
        if self.min_length > self.max_length:
            raise ValueError(
                f"min_length {self.min_length} is greater than max_length {self.max_length}"
            )
        return self


class TokensConfig(Config):
    """Which patterns become tokens (paper section 3.1; budgets are ours)."""

    score: Literal["gap_corrected", "raw"] = Field(
        "gap_corrected",
        description="unigram-normalized perplexity: divided by the chance inflation of gaps, or as "
        "in the paper",
    )
    min_support: int = Field(5, ge=1, description="least support of a pattern to become a token")
    vocabulary_share: float = Field(
        0.1, ge=0, le=1, description="most new tokens, as a share of the base vocabulary"
    )
    insertion_budget: float = Field(
        0.05, ge=0, le=1, description="most inserted tokens, as a share of the corpus's tokens"
    )
    allow_overlap: bool = Field(
        False,
        description="also take near-copies of better sequences; otherwise min_support texts must "
        "hold a sequence apart from those",
    )
    label_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight, in the ranking, of what a sequence says about the class (mutual "
        "information, training rows only) against its perplexity; 0: labels play no part",
    )


class SensitivityConfig(Config):
    """How module sensitivity is measured (paper section 3.2)."""

    head_seed: int = Field(0, ge=0, description="seed of the untrained head that the loss needs")
    heads: int = _outside_key(
        1, "seeded heads, from head_seed on, whose maps the sensitivity job compares", ge=1
    )


class _Method(Config):
    task_tokens: bool = Field(False, description="insert the mined task tokens")
    new_rows: Literal["train", "warmup", "frozen"] = Field(
        "train",
        description="embeddings of new tokens: train in every run (the gradient then reaches the "
        "embeddings), train for one epoch that all runs share, or stay as they start",
    )
    new_rows_init: Literal["mean", "random"] = Field(
        "mean",
        description="new embeddings start as the mean of their subwords, or as N(0, 0.02)",
    )


class Budgeted(_Method):
    """A method whose size follows from the share of the model that it is to train."""

    sparsity: float = Field(
        0.2,
        gt=0,
        le=1,
        description="share of the parameters to train, beside the head and new embeddings: at most "
        "(adapt), or as close as rank, width or layers come",
    )
    of: Literal["model", "encoder"] = Field(
        "model",
        description="what sparsity is a share of: the pretrained model, or the modules of its "
        "layers alone (a small model is mostly embeddings)",
    )


class FullConfig(_Method):
    """Full finetuning: every parameter trains."""

    type: Literal["full"] = "full"


class FullStableConfig(_Method):
    """Full finetuning made stable (Mosbach et al. 2020): small steps, and many of them.

    Its learning rate, epochs and warm-up are what it is: they replace those of ``training``.
    """

    type: Literal["full_stable"] = "full_stable"
    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate")
    epochs: int = Field(20, ge=1, description="passes over the training rows")
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps with rising rate")


class AdaptConfig(Budgeted):
    """AdaPT: the most sensitive modules, the head and the new token embeddings train."""

    type: Literal["adapt"] = "adapt"
    task_tokens: bool = Field(True, description="insert the mined task tokens")
    alpha: float = Field(
        0.5, ge=0, le=1, description="weight of dispersion against gradient norm in sensitivity"
    )
    normalisation: Literal["rank", "minmax", "zscore", "none"] = Field(
        "rank", description="how dispersion and gradient norm are made comparable before mixing"
    )
    normalise_within: Literal["model", "kind"] = Field(
        "model", description="compare modules across the model, or with those of their kind only"
    )
    gradient_scale: Literal["norm", "per_sqrt_parameter"] = Field(
        "norm", description="gradient norm as it is, or divided by the root of the parameter count"
    )
    score: Literal["sensitivity", "fisher", "magnitude", "random", "type_matched"] = Field(
        "sensitivity",
        description="what modules are chosen by; all but sensitivity are controls: mean squared "
        "gradient, mean absolute weight, chance, or chance with sensitivity's number of each kind",
    )
    fill: Literal["budget", "depth_aware"] = Field(
        "budget",
        description="most sensitive modules first until the share is spent (the paper), or the "
        "best sum of sensitivity times parameters within the share and flop_budget",
    )
    flop_budget: float = Field(
        0.54,
        gt=0,
        le=1,
        description="depth_aware: most FLOPs of a training step, as a share of full finetuning's; "
        "with training.trunk_cache, what is read from the cache costs none",
    )
    selection_seed: int = Field(0, ge=0, description="seed of random and type_matched")
    map_from: Place | None = Field(
        None,
        description="sensitivity.json of another task (file or URI) to select by, a control; this "
        "task's when not given",
    )


# Fields of AdaptConfig that only lead to a selection: where one is made, its content counts.
LEAD_TO_SELECTION = (
    "alpha",
    "sparsity",
    "of",
    "normalisation",
    "normalise_within",
    "gradient_scale",
    "score",
    "fill",
    "flop_budget",
    "selection_seed",
    "map_from",
)


class LayerSelectionConfig(Budgeted):
    """Whole layers train: the top ones, or others every few steps (LISA, Pan et al. 2024)."""

    type: Literal["layer_selection"] = "layer_selection"
    choose: Literal["top", "lisa"] = Field(
        "top", description="the top layers, or layers drawn anew every ``interval`` steps"
    )
    interval: int = Field(20, ge=1, description="lisa: steps between draws")


class LoraConfig(Budgeted):
    """LoRA (Hu et al. 2021): low-rank updates of every linear layer, through peft."""

    type: Literal["lora"] = "lora"
    rank: int | None = Field(None, ge=1, description="rank of updates; by sparsity if not given")
    scale: float = Field(2.0, gt=0, description="what updates are multiplied by: alpha over rank")


class AdaloraConfig(Budgeted):
    """AdaLoRA (Zhang et al. 2023): updates whose ranks shrink where they matter least, by peft."""

    type: Literal["adalora"] = "adalora"
    rank: int | None = Field(
        None,
        ge=2,
        description="rank that every update starts with, two thirds of which remain on average; "
        "by sparsity if not given",
    )
    scale: float = Field(2.0, gt=0, description="what updates are multiplied by: alpha over rank")


class HoulsbyConfig(Budgeted):
    """Bottleneck adapters in every layer (Houlsby et al. 2019); the layers' norms train too."""

    type: Literal["houlsby"] = "houlsby"
    width: int | None = Field(
        None, ge=1, description="units of a bottleneck; by sparsity if not given"
    )


class _Virtual(_Method):
    length: int | None = Field(
        None,
        ge=1,
        description="virtual tokens; 20% of the mean length of the training texts if not given",
    )


class PromptTuningConfig(_Virtual):
    """Prompt tuning (Lester et al. 2021): trained embeddings before every text."""

    type: Literal["prompt_tuning"] = "prompt_tuning"


class PrefixTuningConfig(_Virtual):
    """Prefix tuning (Li and Liang 2021): trained keys and values in every layer's attention."""

    type: Literal["prefix_tuning"] = "prefix_tuning"


class BitfitConfig(_Method):
    """BitFit (Ben Zaken et al. 2021): the biases train."""

    type: Literal["bitfit"] = "bitfit"


class EmbeddingOnlyConfig(_Method):
    """The embeddings train (of tokens, positions and their norm), the layers do not."""

    type: Literal["embedding_only"] = "embedding_only"


class EncoderOnlyConfig(_Method):
    """The layers train, the embeddings do not."""

    type: Literal["encoder_only"] = "encoder_only"


_METHODS: tuple[type[_Method], ...] = (
    FullConfig,
    FullStableConfig,
    AdaptConfig,
    LayerSelectionConfig,
    LoraConfig,
    AdaloraConfig,
    HoulsbyConfig,
    PromptTuningConfig,
    PrefixTuningConfig,
    BitfitConfig,
    EmbeddingOnlyConfig,
    EncoderOnlyConfig,
)
MethodConfig = Annotated[
    FullConfig
    | FullStableConfig
    | AdaptConfig
    | LayerSelectionConfig
    | LoraConfig
    | AdaloraConfig
    | HoulsbyConfig
    | PromptTuningConfig
    | PrefixTuningConfig
    | BitfitConfig
    | EmbeddingOnlyConfig
    | EncoderOnlyConfig,
    Field(discriminator="type"),
]


SeededStream = Literal["initialisation", "data_order", "dropout"]
# The streams of a run seed that can have a seed of their own, and its field.
STREAM_SEEDS: dict[SeededStream, str] = {
    "initialisation": "initialisation_seed",
    "data_order": "data_order_seed",
    "dropout": "dropout_seed",
}


def _stream_seed(what: str) -> Any:
    return Field(
        None,
        ge=0,
        description=f"seed of how {what}, the same for all run seeds; the run seed's own stream "
        "when not given",
    )


class TrainingConfig(Config):
    """How a run trains; the same for every method unless a contender says otherwise."""

    epochs: int = Field(3, ge=1, description="passes over the training rows")
    batch_size: int = Field(16, ge=1, description="examples per optimizer step, over all workers")
    learning_rate: float | None = Field(
        None, gt=0, description="peak learning rate of AdamW; the method's usual one if not given"
    )
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay")
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps with rising rate")
    gradient_clip: float = Field(1.0, gt=0, description="largest gradient norm")
    accumulation: int = Field(
        1,
        ge=1,
        description="micro-batches that one step's examples are computed in, to save memory",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after this many epochs without a better dev macro-F1 and keep the best "
        "weights (null: train all epochs and keep the last)",
    )
    focus: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (),
        description="share of the training rows that each epoch trains on, half of them those of "
        "the largest loss when last seen, half drawn from the others: one number an epoch, the "
        "last one again for more epochs, the first 1 (empty: all rows in every epoch)",
    )
    frozen_blocks: Literal["train", "eval"] = Field(
        "eval", description="whether layers without any trained module drop out units"
    )
    frozen_storage: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="precision in which frozen matrices and embedding tables are kept; what "
        "trains, and frozen biases and norms, stay fp32",
    )
    trunk_cache: Literal["off", "fp32", "bf16"] = Field(
        "off",
        description="compute the states below the lowest trained layer once and share them "
        "between runs, stored in this precision",
    )
    compile: bool = Field(
        False,
        description="compile the model with torch.compile (plain engine): for long runs on GPUs, "
        "since it takes minutes at first; on a CPU steps became no faster",
    )
    precision: Precision = Field(
        "auto", description="bf16 is autocast over fp32 weights; auto takes it where it is fast"
    )
    engine: Literal["plain", "deepspeed"] = Field("plain", description="training engine")
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage")
    initialisation_seed: int | None = _stream_seed("the head, new embeddings and adapters start")
    data_order_seed: int | None = _stream_seed("rows are ordered and chosen")
    dropout_seed: int | None = _stream_seed("units drop out")
    checkpoint_seconds: float | None = _outside_key(
        300.0, "save what a killed run resumes from this often (null: only between runs)", gt=0
    )

    def key(self) -> dict[str, Any]:
        """Return what identifies results; streams that follow the run seed are not named."""
        found = super().key()
        return {k: v for k, v in found.items() if k not in STREAM_SEEDS.values() or v is not None}

    def stream_seed(self, stream: SeededStream, seed: int) -> int:
        """Return the seed that a stream of a run with some seed is derived from."""
        own: int | None = getattr(self, STREAM_SEEDS[stream])
        return seed if own is None else own

    @property
    def peak_rate(self) -> float:
        """The learning rate of settings that are resolved for a method."""
        assert self.learning_rate is not None
        return self.learning_rate

    @model_validator(mode="after")
    def _focus_starts_with_all(self) -> "TrainingConfig":
        if self.focus and self.focus[0] < 1:
            raise ValueError(
                f"focus begins with {self.focus[0]}, but no loss is known before the first epoch; "
                "let it begin with 1"
            )
        if len(self.focus) > self.epochs:
            raise ValueError(
                f"focus has {len(self.focus)} numbers for {self.epochs} epochs; give as many or "
                "fewer, or more epochs"
            )
        return self

    @model_validator(mode="after")
    def _compiles_where_it_can(self) -> "TrainingConfig":
        if self.compile and self.engine == "deepspeed":
            raise ValueError(
                "compile is for the plain engine, but engine is 'deepspeed'; change one of them"
            )
        return self


class ResourcesConfig(Config):
    """Where a job runs and how wide; never part of a key."""

    address: Place | None = Field(
        None,
        description="Ray address to join ('auto', host:port); a local Ray starts when not given "
        "and RAY_ADDRESS is not set",
    )
    workers: int = Field(1, ge=1, description="training workers of one run")
    cpus_per_worker: float = Field(1, gt=0, description="CPUs (and threads) of one worker")
    gpus_per_worker: float = Field(0, ge=0, description="GPUs of one worker; fractions share one")
    runs_at_once: int | None = Field(
        None,
        ge=1,
        description="most runs side by side; as many as fit on the cluster as it is when the job "
        "starts if not given, so give it where nodes are started on demand",
    )
    trunk_cache_gb: float = Field(
        20.0, gt=0, description="most disk that cached trunk states take, in GiB"
    )
    mining_tasks: int | None = Field(
        None,
        ge=1,
        description="partitions that mining is split into; by the corpus's size when not given",
    )
    tflops: float = Field(
        25.0,
        gt=0,
        description="operations a second that one worker sustains in training, in 10^12, for the "
        "estimates of a dry run: 25 is 8% of an A100's best in bf16 (312), for small batches of "
        "short texts; long texts and large batches reach several times that",
    )


Condition = dict[str, Annotated[tuple[Scalar, ...], Field(min_length=1)]]


class Interval(Config):
    """A search range between two numbers."""

    low: float = Field(description="lower end")
    high: float = Field(description="upper end")
    log: bool = Field(True, description="uniform in the logarithm")
    whole: bool = Field(False, description="whole numbers only, as of a batch size")
    when: Condition = Field(
        {}, description="searched only where fields of the space before it have these values"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Interval":
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} must be positive on a logarithmic range")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"the ends {self.low} and {self.high} of a whole range must be whole")
        return self


Choices = Annotated[tuple[Scalar, ...], Field(min_length=1)]


class Options(Config):
    """A list of choices under a condition."""

    choices: Choices = Field(description="the values")
    when: Condition = Field(
        {}, description="searched only where fields of the space before it have these values"
    )


Range = Interval | Options | Choices


class Contender(Config):
    """A method that takes part in a comparison, with its own settings and search space."""

    method: MethodConfig = Field(description="the method and its settings")
    set: dict[str, Scalar | tuple[float, ...]] = Field(
        default_factory=dict,
        description="fields of model and training that differ for this contender, e.g. "
        "training.learning_rate",
    )
    space: dict[str, Range] = Field(
        default_factory=dict,
        description="what a sweep searches: dotted field to a list of choices or {low, high, log, "
        "whole}; {choices, when} and {low, high, when} are searched only where fields before them "
        "have certain values, as in '{choices: [16, 64], when: {method.of: [model]}}'",
    )

    @model_validator(mode="after")
    def _conditions_name_earlier_fields(self) -> "Contender":
        earlier: dict[str, Range] = {}
        for path, allowed in self.space.items():
            condition = {} if isinstance(allowed, tuple) else allowed.when
            for name, values in condition.items():
                before = earlier.get(name)
                if before is None or isinstance(before, Interval):
                    raise ValueError(
                        f"space: {path!r} depends on {name!r}, which must be a field with choices "
                        "before it in the same space"
                    )
                known = before if isinstance(before, tuple) else before.choices
                for value in values:
                    if value not in known:
                        raise ValueError(
                            f"space: {path!r} is searched where {name!r} is {value!r}, which is "
                            f"none of its choices {list(known)}"
                        )
            earlier[path] = allowed
        return self


def _default_contenders() -> dict[str, Contender]:
    return {
        "adapt": Contender(
            method=AdaptConfig(),
            space={
                "method.alpha": Interval(low=1e-3, high=1.0),
                "method.sparsity": (0.05, 0.1, 0.15, 0.2),
                "training.learning_rate": Interval(low=5e-5, high=1e-3),
            },
        ),
        "full": Contender(
            method=FullConfig(),
            set={"training.learning_rate": 5e-5},
            space={"training.learning_rate": Interval(low=1e-5, high=3e-4)},
        ),
    }


Sampler = Literal["tpe", "grid", "random", "qmc", "gp", "nsga2"]
Objective = Literal["macro_f1", "macro_f1_sd", "train_flops"]


class SearchConfig(Config):
    """How each contender is searched and how the winners are compared."""

    configurations: int = Field(
        12, ge=1, description="configurations tried per contender; a grid has as many as points"
    )
    seeds: int = Field(10, ge=1, description="seeds that judge each configuration (0, 1, ...)")
    final_seeds: int = Field(
        10, ge=1, description="fresh seeds of the final comparison (100, 101, ...)"
    )
    sampler: Sampler = Field(
        "tpe",
        description="how configurations are proposed; grid takes every combination of choices",
    )
    racing: bool = Field(
        True,
        description="drop a configuration after some of its seeds when it cannot win; off: each "
        "runs all of them",
    )
    objectives: tuple[Objective, ...] = Field(
        ("macro_f1",),
        min_length=1,
        description="what is best: mean dev macro-F1, its standard deviation over seeds, training "
        "operations; with several all seeds run, and every configuration that no other one beats "
        "in all of them goes into the final comparison",
    )
    warm_start: tuple[Place, ...] = Field(
        (),
        description="storages of earlier sweeps: the best configurations of the same method that "
        "lie in the space are tried first",
    )
    study_seed: int = Field(0, ge=0, description="seed of the sampler's proposals")
    concurrency: int = Field(
        1,
        ge=1,
        description="configurations of one contender that race side by side; later ones are "
        "proposed when all of them are through",
    )
    time_budget_hours: float | None = _outside_key(
        None,
        "begin no seed-run of the search later than this many hours after its start; the winners "
        "of what is finished are compared, and the same command goes on searching",
        gt=0,
    )

    @model_validator(mode="after")
    def _mean_leads(self) -> "SearchConfig":
        if self.objectives[0] != "macro_f1" or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(
                f"objectives {list(self.objectives)} must begin with 'macro_f1' and name each once"
            )
        several = len(self.objectives) > 1
        if several and self.sampler == "gp":
            raise ValueError("sampler 'gp' takes one objective; take tpe or nsga2 for several")
        if "macro_f1_sd" in self.objectives and self.seeds < 2:
            raise ValueError("objective 'macro_f1_sd' needs at least two seeds")
        return self


class WatchConfig(Config):
    """Where a sweep can be followed, besides its storage; TensorBoard files are always written."""

    mlflow: Place | None = Field(None, description="tracking URI of an MLflow server, or a folder")
    wandb: str | None = Field(
        None, description="Weights & Biases project; the key is read from WANDB_API_KEY"
    )


# ---------------------------------------------------------------------------------------------
# Jobs


class Job(Config):
    """What every job takes."""

    storage: Place = _outside_key(
        "runs", "folder or URI that holds artifacts, records and reports; shared by all nodes"
    )
    data: DataConfig = Field(DataConfig(), description="the corpus")
    resources: ResourcesConfig = _outside_key(ResourcesConfig(), "where and how wide")


class MineJob(Job):
    """Mine closed token sequences from the training texts and select the task tokens."""

    model: ModelConfig = Field(ModelConfig(), description="the pretrained model")
    mining: MiningConfig = Field(MiningConfig(), description="pattern mining")
    tokens: TokensConfig = Field(TokensConfig(), description="token selection")


class SensitivityJob(MineJob):
    """Measure dispersion and gradient norm of every module, and select by them."""

    sensitivity: SensitivityConfig = Field(
        SensitivityConfig(), description="sensitivity measurement"
    )
    method: AdaptConfig = Field(
        AdaptConfig(), description="how modules are selected; another selection costs nothing"
    )
    report: Place | None = _outside_key(None, "folder for the figure; under the storage by default")


class _TrainJob(MineJob):
    sensitivity: SensitivityConfig = Field(
        SensitivityConfig(), description="sensitivity measurement"
    )
    training: TrainingConfig = Field(TrainingConfig(), description="training")


class FinetuneJob(_TrainJob):
    """Train one method with one seed, record it, and optionally export the model."""

    method: MethodConfig = Field(AdaptConfig(), description="the method")
    seed: int = Field(0, ge=0, description="run seed: initialisation, data order and dropout")
    test: bool = Field(False, description="also score the test split")
    export: Place | None = _outside_key(
        None,
        "folder or URI that receives the trained model; on a cluster a folder that all nodes see",
    )


TableName = Literal[
    "macro_f1",
    "sparsity",
    "large_shares",
    "ablation",
    "costs",
    "stability",
    "imdb_small_models",
    "prompting",
]
Varied = Annotated[tuple[Scalar | dict[str, Any], ...], Field(min_length=1)]
_MAY_VARY = ("data", "model", "mining", "tokens", "sensitivity", "training")


def _repeat_shared() -> Any:
    # Outside the key: it adds runs to a comparison and changes none.
    return _outside_key(
        False,
        "run the winner (the best on dev of those that have such stages) once more with its "
        "sensitivity map and warmed-up embeddings computed anew for every seed, so that its spread "
        "includes theirs",
    )


class StabilityJob(_TrainJob):
    """Run contenders over the same fresh seeds on the test split, on one or many corpora."""

    contenders: dict[str, Contender] = Field(
        default_factory=_default_contenders, description="the methods to compare", min_length=1
    )
    only: tuple[str, ...] = Field((), description="of the contenders, these alone (empty: all)")
    across: dict[str, Varied] = Field(
        {},
        description="run every combination of these values: a dotted field or section of the job "
        "to a list, whose items may be mappings that set several fields at once, as "
        "'{data.task: [rct, scierc], model: [{name: A}, {name: B, pooling: last}]}'",
    )
    skip_impossible: bool = Field(
        False,
        description="leave out contenders whose share of parameters a model of across cannot hold, "
        "and say so, instead of refusing the job",
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        tuple(range(100, 110)), description="run seeds, the same for every contender", min_length=1
    )
    repeat_shared: bool = _repeat_shared()
    table: TableName | None = _outside_key(
        None, "published table that the report prints beside these runs"
    )
    watch: WatchConfig = _outside_key(WatchConfig(), "where else to follow it")
    report: Place | None = _outside_key(None, "folder for the report; under the storage by default")

    @model_validator(mode="after")
    def _names_known(self) -> "StabilityJob":
        for name in self.only:
            if name not in self.contenders:
                raise ValueError(
                    f"only names {name!r}{nearest(name, self.contenders)}; contenders are "
                    f"{', '.join(self.contenders)}"
                )
        for path in self.across:
            if path.partition(".")[0] not in _MAY_VARY:
                raise ValueError(
                    f"across varies {path!r}; it can vary fields of {', '.join(_MAY_VARY)}"
                )
        return self


class SweepJob(_TrainJob):
    """Search every contender on the dev split, then compare the winners on the test split."""

    contenders: dict[str, Contender] = Field(
        default_factory=_default_contenders, description="the methods to compare", min_length=1
    )
    search: SearchConfig = Field(SearchConfig(), description="the search")
    repeat_shared: bool = _repeat_shared()
    watch: WatchConfig = _outside_key(WatchConfig(), "where else to follow it")
    report: Place | None = _outside_key(None, "folder for the report; under the storage by default")

    @model_validator(mode="after")
    def _grid_is_finite(self) -> "SweepJob":
        if self.search.sampler == "grid":
            for name, contender in self.contenders.items():
                for path, allowed in contender.space.items():
                    if isinstance(allowed, Interval):
                        raise ValueError(
                            f"search.sampler is 'grid', but {path!r} of contender {name!r} is an "
                            "interval; list its values, or take another sampler"
                        )
        return self


class PromptConfig(Config):
    """How a causal model is asked for classes."""

    model: Place | None = Field(
        None,
        description="the causal model: a local folder or hub id, or its name at the endpoint",
    )
    endpoint: str | None = Field(
        None,
        description="base URL of an OpenAI-compatible server, as https://host/v1; not given: the "
        "model runs here, on Ray",
    )
    api_key_env: str | None = _outside_key(
        None,
        "name of the environment variable that holds the endpoint's key; not given: none is sent",
    )
    shots: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 10),
        min_length=1,
        description="examples in a prompt, each number a method of its own; every class is covered",
    )
    temperatures: tuple[Annotated[float, Field(ge=0, le=2)], ...] = Field(
        (0.0, 0.5, 1.0),
        min_length=1,
        description="sampling temperatures, 0 the likeliest token; the best is chosen on dev",
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), min_length=1, description="seeds of the drawn examples and of sampling"
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="most rows asked about of dev, and of test, stratified and always the same",
    )
    text_characters: int = Field(
        2000, ge=20, description="longest text in a prompt; longer ones are cut and counted"
    )
    max_new_tokens: int = Field(32, ge=1, description="longest reply, in tokens")
    length_field: Literal["max_tokens", "max_completion_tokens"] = _outside_key(
        "max_tokens", "what the endpoint calls the longest reply"
    )
    precision: Precision = Field("auto", description="of a local model's weights")
    batch_size: int = _outside_key(16, "prompts in a local model's batch", ge=1)
    concurrency: int = _outside_key(8, "requests to the endpoint in flight", ge=1)
    attempts: int = _outside_key(
        8, "tries of a request that meets rate limits, timeouts or server errors", ge=1
    )
    timeout_seconds: float = _outside_key(120.0, "longest wait for one reply", gt=0)
    prompt_price: float | None = _outside_key(None, "USD for a million prompt tokens", ge=0)
    completion_price: float | None = _outside_key(None, "USD for a million reply tokens", ge=0)

    @model_validator(mode="after")
    def _no_repeats(self) -> "PromptConfig":
        for name in ("shots", "temperatures", "seeds"):
            values: tuple[float, ...] = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} has a value twice")
        return self

    @model_validator(mode="after")
    def _endpoint_holds_no_secret(self) -> "PromptConfig":
        """Refuse what would end up in records; nothing of it is repeated in the message."""
        if self.endpoint is not None and not re.fullmatch(r"https?://[^\s@?#]+", self.endpoint):
            raise ValueError(
                "endpoint must be a base URL such as https://host/v1, without user, query or key"
            )
        if self.api_key_env is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]*", self.api_key_env):
            raise ValueError(
                "api_key_env must be the name of an environment variable in capital letters, never "
                "a key itself"
            )
        if self.api_key_env is not None and self.endpoint is None:
            raise ValueError("api_key_env is for an endpoint, and none is given")
        return self

    @model_validator(mode="after")
    def _both_prices(self) -> "PromptConfig":
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("give both prompt_price and completion_price, or neither")
        return self


class PromptJob(Job):
    """Ask a causal model for the class of every text, with and without examples, and record it."""

    prompt: PromptConfig = Field(PromptConfig(), description="model, prompts and sampling")


class PredictData(Config):
    """Which texts are classified."""

    source: Place | None = Field(
        None,
        description="a file (.parquet, .jsonl, .csv), a folder of train, dev or test files, a URI "
        "of either, or a Hugging Face hub id; labels are not needed",
    )
    hub_config: str | None = Field(None, description="configuration name of a hub dataset")
    hub_revision: str | None = Field(None, description="commit, tag or branch of a hub dataset")
    splits: tuple[Literal["train", "dev", "test"], ...] = Field(
        (), description="which splits, one after the other (empty: all there are)"
    )
    text_column: str = Field("text", description="column with the text")
    label_column: str | None = Field(
        None, description="column with the true class, to score the predictions by"
    )
    columns: tuple[str, ...] = Field(
        (), description="columns that are carried along into the predictions, as '[id, label]'"
    )

    @model_validator(mode="after")
    def _each_column_once(self) -> "PredictData":
        for name, values in (("columns", self.columns), ("splits", self.splits)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} names one twice")
        return self


class PredictJob(Config):
    """Classify the texts of a corpus with an exported model."""

    model: Place | None = Field(
        None,
        description="the exported model: a folder that every node sees, or its URI, which every "
        "node copies once",
    )
    output: Place = _outside_key("predictions", "folder or URI that receives the predictions")
    data: PredictData = Field(PredictData(), description="the texts")
    part_rows: int = Field(
        10_000, ge=1, description="texts of one output file; a killed job repeats unfinished ones"
    )
    batch_tokens: int | None = _outside_key(
        None,
        "tokens of a batch, padding included; every worker looks for the fastest number on the "
        "first texts when not given",
        ge=1,
    )
    resources: ResourcesConfig = _outside_key(ResourcesConfig(), "where and how wide")


class ServeConfig(Config):
    """How a model is served; the arguments of ``serve run adapt_ray.distributed.serve:app``."""

    model: Place = Field(description="the exported model: a folder all nodes see, or its URI")
    replicas: int = Field(1, ge=1, description="copies of the model")
    threads: int = Field(1, ge=1, description="CPUs, and threads of torch, of one replica")
    gpus: float = Field(0, ge=0, description="GPUs of one replica; fractions share one")
    batch_tokens: int = Field(4096, ge=1, description="tokens of a batch, padding included")
    max_ongoing: int = Field(32, ge=1, description="requests that a replica holds at a time")
    max_queued: int = Field(
        32, ge=0, description="requests that wait for a replica; further ones get status 503"
    )
    max_texts: int = Field(64, ge=1, description="texts of one request")
    max_characters: int = Field(20_000, ge=1, description="characters of one text")
    max_bytes: int = Field(4_000_000, ge=1, description="bytes of one request")


class ReportJob(Config):
    """Write tables and figures from records."""

    storage: Place = _outside_key("runs", "folder or URI that holds the records")
    task: str | None = Field(None, description="only records of this task")
    table: TableName | None = Field(
        None, description="published table that the report prints beside the records"
    )
    search_curves: bool = Field(
        False, description="draw the learning curves of a search's runs too"
    )
    report: Place | None = _outside_key(None, "folder for the report; under the storage by default")


# ---------------------------------------------------------------------------------------------
# Decoding recipes and flags

C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Invocation(Generic[C]):
    """A decoded command line."""

    config: C
    dry_run: bool


def decode(model: type[C], values: Mapping[str, Any], origin: str | Mapping[str, str]) -> C:
    """Build a config from plain values.

    ``origin`` says where the values came from, for errors: one name, or a mapping from dotted path
    to name. Raises InputError naming the first bad value, its place and what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(model, error, values, origin)) from None


def replace(config: C, changes: Mapping[str, Any], origin: str) -> C:
    """Return a copy with dotted fields changed and everything validated again."""
    values = config.model_dump(mode="json")
    for path, value in changes.items():
        _put(values, path, value)
    return decode(type(config), values, origin)


def parse(model: type[C], argv: Sequence[str], *, prog: str) -> Invocation[C]:
    """Decode a job's arguments: an optional recipe, then flags.

    Flags are ``--dotted.field value``, ``--dotted.field=value`` or ``dotted.field=value``. Prints
    help and exits on ``--help``. Raises InputError on anything that the model does not allow.
    """
    values: dict[str, Any] = model().model_dump(mode="json")
    origin: dict[str, str] = {}
    flags: dict[str, Any] = {}
    dry_run = False
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        if argument in ("-h", "--help"):
            print(describe(model, prog))
            raise SystemExit(0)
        if argument == "--dry-run":
            dry_run = True
        elif argument.startswith("--") or "=" in argument:
            path, equals, text = argument.removeprefix("--").partition("=")
            if not all(path.split(".")):
                raise InputError(
                    f"flag {argument!r} names no field: give --FIELD or --SECTION.FIELD; see "
                    f"{prog} --help"
                )
            if not equals:
                if not arguments:
                    raise InputError(f"flag --{path} has no value; see {prog} --help")
                text = arguments.pop(0)
            flags[path] = _scalar(path, text)
            origin[path] = f"flag --{path}"
        elif argument.endswith((".yaml", ".yml")):
            recipe = _read_recipe(argument)
            values = _merge(values, recipe)
            origin |= {path: f"recipe {argument}" for path, _ in _leaves(recipe)}
        else:
            raise InputError(
                f"argument {argument!r} is neither a recipe (.yaml) nor a flag; see {prog} --help"
            )
    _forget_replaced_methods(values, flags)
    for path, value in flags.items():
        _put(values, path, value)
    return Invocation(decode(model, values, origin), dry_run)


def describe(model: type[Config], prog: str) -> str:
    """Return the ``--help`` text of a job: every flag with its type, default and meaning."""
    lines = [
        f"usage: {prog} [RECIPE.yaml] [--FIELD VALUE | FIELD=VALUE ...] [--dry-run] [--help]",
        "",
        (model.__doc__ or "").strip(),
        "",
        "  RECIPE.yaml".ljust(34) + "fields in a file; flags override them",
        "  --dry-run".ljust(34) + "print the resolved plan and what is already done, run nothing",
    ]
    section = None
    for path, kind, default, description in _fields(model):
        head = path.rpartition(".")[0]
        if head != section:
            section = head
            lines += ["", f"{section or 'general'}:"]
        lines.append(f"  --{path} {kind}".ljust(34) + f" {description} [{default}]")
    return "\n".join(lines)


def absolute_storage(storage: str, field: str = "storage") -> str:
    """Return a storage location that means the same on every node: absolute, or a URI.

    ``field`` is what the configuration calls it. Raises InputError for a relative folder inside a
    submitted Ray job, where the working directory is a temporary copy that Ray deletes.
    """
    if "://" in storage:
        return storage
    path = expanded(storage, field)
    if not path.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise InputError(
            f"{field} {storage!r} is relative, and a submitted job runs in a temporary copy of the "
            f"working directory; give an absolute path or a URI with --{field}"
        )
    return str(path.resolve())


def expanded(path: str, field: str) -> Path:
    """Return a folder or file with ``~`` replaced. InputError for what can be no path."""
    if "\0" in path:
        raise InputError(f"{field} {path!r} holds a NUL character, which no path can")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{field} {path!r}: there is no such user's home folder") from None


def _read_recipe(path: str) -> dict[str, Any]:
    try:
        values = _from_yaml(expanded(path, "recipe").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"recipe {path!r} does not exist") from None
    except IsADirectoryError:
        raise InputError(f"recipe {path!r} is a folder; give a YAML file") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"recipe {path!r} is not UTF-8 text: byte {error.start + 1} is "
            f"0x{error.object[error.start]:02x}"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"recipe {path!r} cannot be read: {_yaml_reason(error)}") from None
    if values is None:
        raise InputError(f"recipe {path!r} is empty; give fields with values")
    if not isinstance(values, dict):
        raise InputError(f"recipe {path!r} holds a {type(values).__name__}, not fields with values")
    return values


def _scalar(path: str, text: str) -> Any:
    try:
        return _from_yaml(text)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"flag --{path} has the value {shown(text)}, which is not YAML: {_yaml_reason(error)}"
        ) from None


def _yaml_reason(error: Exception) -> str:
    """Say in one line what is wrong with YAML, and where."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).replace('in "<unicode string>", ', "at ").split())


_MOST_NODES = 100_000  # of a YAML document, aliases followed: a recipe has a few hundred


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys and aliases that grow without bound."""

    def get_single_node(self) -> yaml.Node | None:
        """Return the document's root; ValueError where it stands for too much."""
        root: yaml.Node | None = super().get_single_node()
        if root is not None and _nodes(root, {}) > _MOST_NODES:
            raise ValueError(f"its aliases stand for more than {_MOST_NODES:,} values")
        return root


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values below a node, those of an alias wherever it stands."""
    if id(node) not in known:
        known[id(node)] = _MOST_NODES + 1  # what an alias of itself stands for
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            _refuse_repeats(node)
            children = [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        known[id(node)] = 1 + sum(_nodes(child, known) for child in children)
    return known[id(node)]


def _refuse_repeats(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {key.start_mark.line + 1}: a list or mapping names no field")
        if key.value in seen:
            raise ValueError(f"line {key.start_mark.line + 1}: field {key.value!r} is given twice")
        seen.add(key.value)


def _from_yaml(text: str) -> Any:
    """Return what a YAML document holds; ValueError or YAMLError, whose text says what is wrong."""
    try:
        return _Loader(text).get_single_data()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (AttributeError, LookupError, TypeError):  # PyYAML on ``!!timestamp x``, ``!!bool x``
        raise ValueError("a value does not fit its tag") from None


# A recipe that names a method or contenders means exactly those: nothing of the defaults shines
# through. Flags, in contrast, change single fields of whatever stands.
_REPLACED = ("method", "contenders")


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        if isinstance(old, dict) and isinstance(value, dict) and name not in _REPLACED:
            value = _merge(old, value)
        merged[name] = value
    return merged


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError(f"field {path!r}: {parent!r} is a value, it has no fields")
        values = child
    values[last] = value


def _forget_replaced_methods(values: dict[str, Any], flags: Mapping[str, Any]) -> None:
    """Drop a recipe's method fields where a flag switches the method's type."""
    for path, value in flags.items():
        if path == "method.type":
            method = values.get("method")
            if isinstance(method, dict) and method.get("type") != value:
                values["method"] = {}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}.")
        yield path, value


def _models_in(annotation: Any) -> list[type[Config]]:
    """Return the config classes that an annotation names (a section, or a union's members)."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _models_in(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [m for member in typing.get_args(annotation) for m in _models_in(member)]
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return []


def _fields(model: type[Config], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield path, type, default and meaning of every flag; scalars before sections."""
    sections = []
    for name, field in model.model_fields.items():
        nested = _models_in(field.annotation)
        if nested:
            sections.append((name, nested))
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, dict):
            default = ", ".join(default) or "none"
        yield f"{prefix}{name}", _kind(field.annotation), str(default), field.description or ""
    for name, nested in sections:
        if len(nested) > 1:
            tags = "|".join(str(m.model_fields["type"].default) for m in nested)
            yield f"{prefix}{name}.type", tags, "", "which one; its own fields follow"
        seen = {"type"} if len(nested) > 1 else set()
        for member in nested:
            for path, kind, default, description in _fields(member, f"{prefix}{name}."):
                if path.rpartition(".")[2] not in seen:
                    seen.add(path.rpartition(".")[2])
                    only = f"({member.model_fields['type'].default}) " if len(nested) > 1 else ""
                    shared = all(path.rpartition(".")[2] in m.model_fields for m in nested)
                    yield path, kind, default, ("" if shared else only) + description


def _kind(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is Literal:
        return "|".join(str(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return "|".join(_kind(a) for a in arguments if a is not type(None))
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is tuple:
        return "LIST"
    if origin is dict:
        return "MAP"
    return getattr(annotation, "__name__", str(annotation)).upper()


def _explain(
    model: type[Config],
    error: ValidationError,
    values: Mapping[str, Any],
    origin: str | Mapping[str, str],
) -> str:
    path, problem = _first(error, values)
    where = _origin_of(path, origin)
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        section, _, name = path.rpartition(".")
        allowed = _names_at(model, section, values)
        place = "the job" if model.__name__.endswith("Job") else "it"
        place = f"section {section!r}" if section else place
        return (
            f"unknown field {path!r} ({where}){nearest(name, allowed)}; "
            f"{place} takes {', '.join(allowed)}"
        )
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        given = problem["input"].get("type") if isinstance(problem["input"], dict) else None
        tags = [t.strip("' ") for t in problem.get("ctx", {}).get("expected_tags", "").split(",")]
        tags = [t for t in tags if t] or [m.model_fields["type"].default for m in _METHODS]
        where = _origin_of(f"{path}.type", origin)
        return (
            f"{path}.type is {shown(given)} ({where}){nearest(str(given), tags)}; "
            f"allowed: {', '.join(tags)}"
        )
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = "" if problem["type"] == "missing" else f" is {shown(problem['input'])}"
    if problem["type"] == "value_error":
        given, where = "", _origin_of_named(path, origin, message) or where
    return f"{path or 'configuration'}{given} ({where}): {message}"


def _first(error: ValidationError, values: Any) -> tuple[str, Any]:
    """Return the place and the first error; of a union's, one about what was given.

    A list is no section, but that a list has no items says more.
    """
    found: list[Any] = error.errors()
    paths = [_written_path([str(part) for part in one["loc"]], values) for one in found]
    same = [one for one, path in zip(found, paths, strict=True) if path == paths[0]]
    telling = (one for one in same if one["type"] not in ("model_type", "tuple_type"))
    return paths[0], next(telling, found[0])


def _written_path(location: list[str], values: Any) -> str:
    """Return the path as the user wrote it, without pydantic's union member names."""
    path = []
    for part in location:
        if isinstance(values, Mapping):
            if part not in values and (part != location[-1] or "[" in part):
                continue
            values = values.get(part)
        elif not part.isdigit():
            continue
        path.append(part)
    return ".".join(path)


def _origin_of(path: str, origin: str | Mapping[str, str]) -> str:
    """Return where a field's value came from: set itself, by a parent, or by one of its fields."""
    if isinstance(origin, str):
        return origin
    inside = [name for field, name in origin.items() if field.startswith(f"{path}.")]
    while path:
        if path in origin:
            return origin[path]
        path = path.rpartition(".")[0]
    return inside[0] if inside else "default"


def _origin_of_named(path: str, origin: str | Mapping[str, str], message: str) -> str | None:
    """Return where the field came from that a message about its whole section names."""
    if isinstance(origin, str):
        return None
    inside = f"{path}." if path else ""
    for field, name in origin.items():
        last = re.escape(field.rpartition(".")[2])
        if field.startswith(inside) and re.search(rf"\b{last}\b", message):
            return name
    return None


def _names_at(model: type[Config], section: str, values: Mapping[str, Any]) -> list[str]:
    models: list[type[Config]] = [model]
    here: Any = values
    for part in section.split(".") if section else []:
        here = here.get(part) if isinstance(here, Mapping) else None
        found = []
        for candidate in models:
            field = candidate.model_fields.get(part)
            if field is not None:
                found += _models_in(field.annotation) or _mapped_models(field.annotation)
            else:
                found.append(candidate)  # a key of a mapping of sections
        models = found
    tag = here.get("type") if isinstance(here, Mapping) else None
    tagged = [m for m in models if "type" in m.model_fields]
    chosen = [m for m in tagged if m.model_fields["type"].default == tag] or models
    return list(dict.fromkeys(name for m in chosen for name in m.model_fields))


def _mapped_models(annotation: Any) -> list[type[Config]]:
    if typing.get_origin(annotation) is dict:
        return _models_in(typing.get_args(annotation)[1])
    return []
