"""The sensitivity map: dispersion and gradient norm of every module, one pass over the texts."""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from adapt_ray import seeding
from adapt_ray.artifacts import ArtifactStore, Manifest, Stage, digest_json
from adapt_ray.config import ModelConfig
from adapt_ray.data.corpus import TRAIN_FILE, Corpus
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.modeling import Batch, ModuleInfo, TaskClassifier, build_classifier
from adapt_ray.pretrained import model_digest
from adapt_ray.sensitivity.dispersion import Moments
from adapt_ray.sensitivity.gradients import squared_norms
from adapt_ray.tokenization.encoding import EncodedTexts
from adapt_ray.tokenization.task_tokenizer import TaskTokenizer

FILE = "sensitivity.json"


@dataclass(frozen=True)
class SensitivityMap:
    """Dispersion D and gradient norm G of every selectable module, in layer order."""

    modules: tuple[ModuleInfo, ...]
    dispersion: tuple[float, ...]
    gradient: tuple[float, ...]
    original_parameters: int

    def save(self, folder: Path) -> None:
        """Write ``sensitivity.json``."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "SensitivityMap":
        """Read what :meth:`save` wrote."""
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        modules = tuple(ModuleInfo(**module) for module in values["modules"])
        return cls(
            modules,
            tuple(values["dispersion"]),
            tuple(values["gradient"]),
            values["original_parameters"],
        )


@dataclass(frozen=True, eq=False)
class MeasurePlan:
    """What is measured: which texts and labels, through which model and untrained head.

    Plans with the same stage key are equal, so a worker can keep what it loaded for one.
    """

    storage: str
    corpus: Manifest
    tokens: Manifest | None
    model: ModelConfig
    new_rows_init: Literal["mean", "random"]
    head_seed: int

    @functools.cached_property
    def stage(self) -> Stage:
        """The artifact that the measurement becomes; it depends on training rows only."""
        inputs = {
            "train": self.corpus.files[TRAIN_FILE],
            "markers": digest_json(self.corpus.notes["markers"]),
            "model": model_digest(self.model.name),
        }
        config: dict[str, Any] = {"model": self.model.key(), "head_seed": self.head_seed}
        del config["model"]["name"]
        if self.tokens is not None:
            inputs["tokens"] = self.tokens.digest
            config["new_rows_init"] = self.new_rows_init
        return Stage("sensitivity", 1, config, inputs)

    def load(self) -> "Loaded":
        """Load the model with its seeded head, and encode the training texts."""
        store = ArtifactStore(self.storage)
        corpus = store.load(Corpus, self.corpus)
        tokens = store.load(TokenSet, self.tokens) if self.tokens else None
        tokenizer = TaskTokenizer.pretrained(self.model, tokens, corpus.markers)
        model = build_classifier(
            self.model,
            len(corpus.label_names),
            len(tokenizer.openings),
            tokenizer.tokens.sequences,
            new_rows_init=self.new_rows_init,
            seed=seeding.derive(self.head_seed, "initialisation"),
        )
        split = corpus.splits["train"]
        return Loaded(model, tokenizer.encode_texts(split.texts), split.labels, tokenizer.pad_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MeasurePlan) and self.stage.key == other.stage.key

    def __hash__(self) -> int:
        return hash(self.stage.key)


@dataclass(frozen=True)
class Loaded:
    """A plan's model and training texts."""

    model: TaskClassifier
    texts: EncodedTexts
    labels: npt.NDArray[np.int64]
    pad_id: int

    def batches(
        self, rows: Iterable[npt.NDArray[np.int64]], device: torch.device
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Yield model inputs and labels for each group of rows."""
        for group in rows:
            labels = torch.from_numpy(self.labels[group]).to(device)
            yield Batch.of(self.texts, group, self.pad_id, device), labels


@dataclass(frozen=True)
class Partial:
    """What one shard of the texts says of one module; merges with other shards exactly."""

    count: int  # outputs (tokens) seen
    mean: npt.NDArray[np.float64]  # [elements]
    m2: npt.NDArray[np.float64]  # [elements]
    examples: int
    norm_sum: float  # sum over examples of the gradient norm

    def merge(self, other: "Partial") -> "Partial":
        """Return the partial result of both shards together."""
        both = self._moments().merge(other._moments())
        return Partial(
            both.count,
            both.mean.numpy(),
            both.m2.numpy(),
            self.examples + other.examples,
            self.norm_sum + other.norm_sum,
        )

    def dispersion(self) -> float:
        """Return the module's index of dispersion."""
        return self._moments().dispersion()

    def gradient(self) -> float:
        """Return the mean over examples of the module's gradient norm (paper eq. 5)."""
        return self.norm_sum / self.examples

    def _moments(self) -> Moments:
        return Moments(self.count, torch.from_numpy(self.mean), torch.from_numpy(self.m2))


class _Probe:
    """Watches one module through a batch's forward and backward pass."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.moments: Moments | None = None
        self.norm_sum = torch.zeros((), dtype=torch.float64)
        self.mask: Tensor | None = None
        self.handle = module.register_forward_hook(self._on_forward)

    def _on_forward(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert self.mask is not None
        mask = self.mask
        batch = Moments.of(output[mask])
        self.moments = batch if self.moments is None else self.moments.merge(batch)
        inputs = args[0].detach()

        def on_gradient(gradient: Tensor) -> None:
            squared = squared_norms(self.module, inputs, gradient * mask.unsqueeze(-1))
            self.norm_sum += squared.double().sqrt().sum().cpu()

        output.register_hook(on_gradient)

    def result(self, examples: int) -> Partial:
        assert self.moments is not None
        moments = self.moments
        return Partial(
            moments.count,
            moments.mean.cpu().numpy(),
            moments.m2.cpu().numpy(),
            examples,
            float(self.norm_sum),
        )


def measure_partial(
    model: TaskClassifier, batches: Iterable[tuple[Batch, Tensor]]
) -> dict[str, Partial]:
    """Measure every selectable module on some batches of (inputs, labels [B]).

    Dropout is off and the loss is the summed cross-entropy, so each example's gradient is its own.
    No weight gradient is computed: activation gradients from the embeddings on are enough. The
    model is left frozen and in eval mode.
    """
    model.eval().requires_grad_(False)
    start = model.embedding.register_forward_hook(lambda *args: args[-1].requires_grad_())
    probes = {name: _Probe(module) for name, module in model.modules_by_name().items()}
    examples = 0
    try:
        for batch, labels in batches:
            for probe in probes.values():
                probe.mask = batch.mask
            logits = model(**batch.inputs())
            loss = functional.cross_entropy(logits.float(), labels, reduction="sum")
            loss.backward()
            examples += len(labels)
    finally:
        for handle in [start, *(probe.handle for probe in probes.values())]:
            handle.remove()
    return {name: probe.result(examples) for name, probe in probes.items()}


def merge(
    modules: tuple[ModuleInfo, ...],
    original_parameters: int,
    shards: Sequence[dict[str, Partial]],
) -> SensitivityMap:
    """Merge the shards' partial results, in the order given, into the map."""
    merged = [reduce(Partial.merge, [shard[info.name] for shard in shards]) for info in modules]
    return SensitivityMap(
        modules,
        tuple(partial.dispersion() for partial in merged),
        tuple(partial.gradient() for partial in merged),
        original_parameters,
    )
