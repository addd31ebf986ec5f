"""The classifier: a pretrained backbone, an embedding that grows, and one linear head.

The embedding is split into the pretrained table and a small table of new rows. A frozen base then
costs no dense gradient and no optimizer state over the whole vocabulary, and weight decay cannot
move its rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from adapt_ray.config import ModelConfig
from adapt_ray.errors import InputError
from adapt_ray.pretrained import check_weight_files, model_type, resolve_model
from adapt_ray.tokenization.encoding import EncodedTexts

# What configurations call the dropout of a backbone.
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "embd_pdrop",
    "resid_pdrop",
)
NEW_ROW_STD = 0.02  # paper section 3.1: new embeddings are drawn from N(0, 0.02)


@dataclass(frozen=True)
class Family:
    """Where an architecture keeps the modules whose sensitivity is measured.

    ``modules`` maps a kind to its path in a layer; what has no parameters there (the first
    attention norm of ModernBERT) is no module. Models with rotary positions take them from 0.
    """

    layers: str
    modules: Mapping[str, str]
    position_offset: Literal["zero", "padding"] = "zero"
    causal: bool = False  # a token sees only those before it
    load_options: Mapping[str, bool | str] = field(default_factory=dict)


_BERT_MODULES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "ffn_norm": "output.LayerNorm",
}
# The pooler is left out: no pooling of ours reads it, so it would only be dead weight.
FAMILIES = {
    "bert": Family("encoder.layer", _BERT_MODULES, load_options={"add_pooling_layer": False}),
    "roberta": Family(
        "encoder.layer", _BERT_MODULES, "padding", load_options={"add_pooling_layer": False}
    ),
    "modernbert": Family(
        "layers",
        {
            "attention_norm": "attn_norm",
            "query_key_value": "attn.Wqkv",
            "attention_output": "attn.Wo",
            "ffn_norm": "mlp_norm",
            "ffn_gate_up": "mlp.Wi",
            "ffn_down": "mlp.Wo",
        },
    ),
    "gemma2": Family(
        "layers",
        {
            "attention_norm": "input_layernorm",
            "query": "self_attn.q_proj",
            "key": "self_attn.k_proj",
            "value": "self_attn.v_proj",
            "attention_output": "self_attn.o_proj",
            "attention_post_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "ffn_gate": "mlp.gate_proj",
            "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj",
            "ffn_post_norm": "post_feedforward_layernorm",
        },
        causal=True,
        # It caps attention logits, which torch's fused attention cannot.
        load_options={"attn_implementation": "eager"},
    ),
    "phi3": Family(
        "layers",
        {
            "attention_norm": "input_layernorm",
            "query_key_value": "self_attn.qkv_proj",
            "attention_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_gate_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        },
        causal=True,
    ),
}


@dataclass(frozen=True)
class ModuleInfo:
    """One selectable module: its name in the backbone, its place and its size."""

    name: str
    layer: int
    kind: str
    parameters: int
    flops: int  # of its matrix products in the forward pass, per token; 0 for norms


@dataclass(frozen=True)
class Batch:
    """Model inputs of B texts padded to T tokens."""

    ids: Tensor  # int64 [B, T]; ids from the base vocabulary's size on are task tokens
    mask: Tensor  # bool [B, T]; False on padding
    positions: Tensor  # int64 [B, T], counted from 0
    markers: Tensor  # int64 [B, M]; index of each opening marker, -1 where it is absent
    # float [B, T, H], for a model that is cut: what its lowest layer reads; ids play no part then
    states: Tensor | None = None

    @classmethod
    def of(
        cls, texts: EncodedTexts, rows: npt.NDArray[np.int64], pad_id: int, device: torch.device
    ) -> "Batch":
        """Pad the given rows of some encoded texts to their longest."""
        lengths = texts.lengths[rows]
        column = np.arange(int(lengths.max()))
        mask = column < lengths[:, None]
        at = np.where(mask, texts.offsets[rows][:, None] + column, 0)
        ids = np.where(mask, texts.ids[at], pad_id)
        positions = np.where(mask, texts.positions[at], 0)
        markers = texts.markers[rows].astype(np.int64)
        arrays = (ids.astype(np.int64), mask, positions.astype(np.int64), markers)
        return cls(*(to_device(array, device) for array in arrays))

    def inputs(self) -> dict[str, Tensor]:
        """Return the classifier's keyword arguments."""
        return vars(self)


def to_device(values: npt.NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Return an array as a tensor on a device; a GPU goes on computing while it is copied."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    # Only from pinned memory can a copy run beside other work.
    tensor = tensor.pin_memory() if device.type == "cuda" else tensor
    return tensor.to(device, non_blocking=True)


class SplitEmbedding(nn.Module):
    """The pretrained table beside a small table of new rows, addressed by one id range."""

    def __init__(self, base: nn.Embedding, new_rows: Tensor) -> None:
        super().__init__()
        self.base = base
        self.scale = float(getattr(base, "scalar_embed_scale", 1.0))  # Gemma scales what it reads
        # [n_new, hidden]; absent rather than empty, which engines and optimizers stumble over.
        self.new = nn.Parameter(new_rows) if len(new_rows) else None

    def forward(self, ids: Tensor) -> Tensor:
        """Return embeddings [B, T, hidden] of ids [B, T]."""
        if self.new is None:
            return cast(Tensor, self.base(ids))
        size = self.base.num_embeddings
        is_new = ids >= size
        embedded: Tensor = self.base(ids.masked_fill(is_new, 0))
        # Indexed even when no id is new, so that every worker has a gradient for the new rows.
        rows = self.new[ids[is_new] - size].to(embedded.dtype) * self.scale
        return embedded.index_put((is_new,), rows)


class _Given(nn.Module):
    """Stands for the embeddings of a model that is cut: the states are given."""

    def forward(self, *, inputs_embeds: Tensor, **_: Any) -> Tensor:
        return inputs_embeds


class _PassThrough(nn.Module):
    """Stands for a layer of a model that is cut, with the settings that the backbone reads."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, value in vars(layer).items():
            if isinstance(value, (int, str)) and not name.startswith("_"):
                setattr(self, name, value)  # of ModernBERT, attention_type

    def forward(self, states: Tensor, *_: Any, **__: Any) -> Tensor:
        return states


@dataclass(frozen=True)
class Structure:
    """An addition to a model (:mod:`adapt_ray.adaptation`), from which it is built again."""

    kind: Literal["lora", "adalora", "houlsby", "prompt_tuning", "prefix_tuning"]
    size: int  # rank, width of a bottleneck, or virtual tokens
    scale: float = 1.0  # of low-rank updates


class Prompt(nn.Module):
    """Trained embeddings ``rows`` [P, hidden] that stand before every text (prompt tuning)."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, embedded: Tensor) -> Tensor:
        """Return [B, P + T, hidden] of embedded texts [B, T, hidden]."""
        rows = self.rows.to(embedded.dtype).expand(embedded.shape[0], -1, -1)
        return torch.cat([rows, embedded], dim=1)


class TaskClassifier(nn.Module):
    """Backbone, pooling and a linear head over ``n_classes`` classes."""

    def __init__(
        self, backbone: nn.Module, config: ModelConfig, n_classes: int, n_markers: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = config.pooling
        self.family = family_of(backbone)
        width = int(backbone.config.hidden_size) * (  # type: ignore[union-attr,arg-type]
            1 + n_markers if config.pooling == "markers" else 1
        )
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(width, n_classes)
        self.added: Structure | None = None
        self.prompt: Prompt | None = None
        self.is_cut = False
        self._original = sum(p.numel() for p in backbone.parameters()) - self.added_parameters()

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        markers: Tensor,
        states: Tensor | None = None,
    ) -> Tensor:
        """Return logits [B, n_classes]; arguments as in :class:`Batch`.

        ValueError for states given to a whole model, or none to one that is cut.
        """
        if self.is_cut != (states is not None):
            raise ValueError(f"the model is {'cut' if self.is_cut else 'whole'}, the batch is not")
        before = 0
        seen = mask
        if self.prompt is not None:
            states = self.prompt(self.embedding(ids))
            before = len(self.prompt.rows)
            seen = functional.pad(mask, (before, 0), value=True)
            at = torch.arange(before, device=ids.device).expand(ids.shape[0], -1)
            positions = torch.cat([at, positions + before], dim=1)
        if self.family.position_offset == "padding":
            positions = positions + self.backbone.config.pad_token_id + 1  # type: ignore[union-attr,operator]
        states = self.backbone(
            input_ids=ids if states is None else None,
            inputs_embeds=states,
            attention_mask=seen.long(),
            position_ids=positions,
        ).last_hidden_state
        pooled = pool(states[:, before:], mask, markers, self.pooling)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    @property
    def embedding(self) -> SplitEmbedding:
        """The split embedding."""
        module = self.backbone.get_input_embeddings()  # type: ignore[operator]
        assert isinstance(module, SplitEmbedding)
        return module

    @property
    def layers(self) -> nn.ModuleList:
        """The backbone's layers, lowest first."""
        found = attrgetter(self.family.layers)(self.backbone)
        assert isinstance(found, nn.ModuleList)
        return found

    def trained_from(self) -> int:
        """Return the lowest layer with a trained parameter, 0 where the embeddings train too."""
        below = [self.bottom(), *([self.prompt] if self.prompt is not None else [])]
        if any(p.requires_grad for module in below for p in module.parameters()):
            return 0
        trained = (any(p.requires_grad for p in layer.parameters()) for layer in self.layers)
        return next((number for number, found in enumerate(trained) if found), len(self.layers))

    def cut_at(self, layer: int) -> None:
        """Drop the embeddings and the layers below ``layer``; batches must then bring its input.

        What is left keeps its names and numbers, and the backbone's own forward pass makes masks
        and rotary positions as before. ValueError where something that would be dropped trains.
        """
        if layer > self.trained_from():
            raise ValueError(f"cut at layer {layer}: layer {self.trained_from()} trains")
        layers = self.layers
        for number in range(layer):
            layers[number] = _PassThrough(layers[number])
        self.backbone.set_submodule(self._bottom_name(), _Given())
        self.is_cut = True

    def stop_at(self, layer: int) -> nn.Module:
        """Drop the layers from ``layer`` on; the module returned stands for it, and sees its input.

        What the rest of the forward pass returns then means nothing.
        """
        layers = self.layers
        for number in range(layer, len(layers)):
            layers[number] = _PassThrough(layers[number])
        return layers[layer]

    def bottom(self) -> nn.Module:
        """Return the module that turns ids into the lowest layer's input.

        That is the module around the table (BERT adds positions there) or the table itself.
        """
        return self.backbone.get_submodule(self._bottom_name())

    def _bottom_name(self) -> str:
        table = self.embedding
        names = (name for name, module in self.backbone.named_modules() if module is table)
        name: str = next(names)
        return name.rpartition(".")[0] or name

    def modules_by_name(self) -> dict[str, nn.Module]:
        """Return the selectable modules by the names that :func:`module_infos` gives."""
        infos = module_infos(self.backbone)
        return {info.name: attrgetter(info.name)(self.backbone) for info in infos}

    def original_parameters(self) -> int:
        """Return the number of pretrained parameters (no head, no new rows, nothing added)."""
        return self._original

    def added_parameters(self) -> int:
        """Return the number of parameters in the embeddings of task tokens."""
        return 0 if self.embedding.new is None else self.embedding.new.numel()


def module_infos(backbone: nn.Module) -> tuple[ModuleInfo, ...]:
    """Return every selectable module in layer order (paper section 3.2's granularity)."""
    family = family_of(backbone)
    infos = []
    for number, layer in enumerate(attrgetter(family.layers)(backbone)):
        for kind, path in family.modules.items():
            module = attrgetter(path)(layer)
            name = f"{family.layers}.{number}.{path}"
            size = sum(p.numel() for p in module.parameters())
            flops = sum(2 * p.numel() for p in module.parameters() if p.ndim == 2)
            infos.append(ModuleInfo(name, number, kind, size, flops))
    return tuple(info for info in infos if info.parameters)


def attention_width(backbone: nn.Module) -> int:
    """Return the width of a token's queries: heads times the width of one head."""
    config: Any = backbone.config
    heads = int(config.num_attention_heads)
    return heads * int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def pool(states: Tensor, mask: Tensor, markers: Tensor, pooling: str) -> Tensor:
    """Reduce states [B, T, H] to [B, H], or [B, (1 + M) H] for ``markers``.

    A marker that a text lacks (or lost to truncation) is represented by the mean state. ``last``
    is the state at the last token, the only one that has seen a whole text in a decoder.
    """
    if pooling == "cls":
        return states[:, 0]
    # A batch's size by its shape: len() of a tensor would become a constant of an exported graph.
    rows = torch.arange(states.shape[0], device=states.device)
    if pooling == "last":
        return states[rows, mask.sum(1) - 1]
    weights = mask.unsqueeze(-1).to(states.dtype)
    mean = (states * weights).sum(1) / weights.sum(1)
    if pooling == "mean":
        return mean
    at = states[rows.unsqueeze(1), markers.clamp(min=0)]  # [B, M, H]
    at = torch.where((markers < 0).unsqueeze(-1), mean.unsqueeze(1), at)
    return torch.cat([mean.unsqueeze(1), at], dim=1).flatten(1)


def family_of(backbone: nn.Module) -> Family:
    """Return the family entry of a backbone; InputError tells what to add for an unknown one."""
    return _family(str(backbone.config.model_type))  # type: ignore[union-attr]


def check_model(config: ModelConfig) -> None:
    """Check, without loading weights, that a model can be used. Raises InputError."""
    check_weights(resolve_model(config.name), AutoModel, load_options(_pretrained_config(config)))
    kind = str(_pretrained_config(config).model_type)
    if config.pooling == "cls" and FAMILIES[kind].causal:
        raise InputError(
            f"model.pooling is 'cls', but {config.name} is a {kind}, in which the first state has "
            "seen the first token alone; give last or mean"
        )


def check_weights(folder: Path, kind: Any, options: Mapping[str, Any]) -> None:
    """Check that a folder's weights are those that its configuration describes; none are loaded.

    ``kind`` is the class that would load them with ``options``. Raises InputError for one that is
    missing, which would otherwise be drawn at random, or has another shape.
    """
    check_weight_files(folder)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with reading_model(folder):
        _, found = kind.from_pretrained(
            folder,
            device_map="meta",
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    for name, theirs, ours in sorted(found["mismatched_keys"]):
        raise InputError(
            f"model folder {str(folder)!r}: weight {name} is {_size(theirs)}, where config.json "
            f"describes {_size(ours)}"
        )
    for name in sorted(found["missing_keys"]):
        raise InputError(
            f"model folder {str(folder)!r}: the weights lack {name}, which config.json describes"
        )


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


@contextmanager
def reading_model(folder: Path) -> Iterator[None]:
    """Turn what transformers says of a damaged model folder into one line that names the folder."""
    try:
        yield
    except InputError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        SafetensorError,
        StrictDataclassError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"model folder {str(folder)!r} cannot be opened as its config.json describes it: "
            f"{type(error).__name__}: {reason}"
        ) from None


def unloaded_backbone(config: ModelConfig) -> nn.Module:
    """Return a model's backbone without its weights, on the meta device."""
    pretrained = _pretrained_config(config)
    with reading_model(resolve_model(config.name)), torch.device("meta"):
        backbone: nn.Module = AutoModel.from_config(
            pretrained, trust_remote_code=False, **load_options(pretrained)
        )
    return backbone


def unloaded(config: ModelConfig) -> tuple[tuple[ModuleInfo, ...], int]:
    """Return a model's selectable modules and its number of parameters, without its weights."""
    backbone = unloaded_backbone(config)
    return module_infos(backbone), sum(p.numel() for p in backbone.parameters())


def build_classifier(
    config: ModelConfig,
    n_classes: int,
    n_markers: int,
    sequences: Sequence[Sequence[int]],
    *,
    new_rows_init: Literal["mean", "random"],
    seed: int,
) -> TaskClassifier:
    """Load the backbone, grow its embedding by one row a sequence and add a seeded head.

    ``sequences`` are the task tokens' base ids. The head and random rows depend on ``seed`` only,
    never on torch's global generator.
    """
    backbone = _load_backbone(config)
    generator = torch.Generator().manual_seed(seed)
    table = backbone.get_input_embeddings()  # type: ignore[operator]
    rows = initial_rows(table.weight.detach(), sequences, new_rows_init, generator)
    backbone.set_input_embeddings(SplitEmbedding(table, rows))  # type: ignore[operator]
    model = TaskClassifier(backbone, config, n_classes, n_markers)
    with torch.no_grad():
        model.head.weight.normal_(0.0, 0.02, generator=generator)
        model.head.bias.zero_()
    return model


def initial_rows(
    table: Tensor,
    sequences: Sequence[Sequence[int]],
    init: Literal["mean", "random"],
    generator: torch.Generator,
) -> Tensor:
    """Return new embedding rows [n_new, hidden]: the mean of the subwords', or N(0, 0.02)."""
    hidden = table.shape[1]
    if init == "random":
        return torch.empty(len(sequences), hidden).normal_(0.0, NEW_ROW_STD, generator=generator)
    rows = [table[torch.tensor(sequence)].mean(0) for sequence in sequences]
    return torch.stack(rows) if rows else torch.empty(0, hidden)


def _load_backbone(config: ModelConfig) -> nn.Module:
    # A head or pooler that we replace is reported as unexpected at every load.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    pretrained = _pretrained_config(config)
    if config.dropout is not None:
        for name in filter(lambda name: hasattr(pretrained, name), _DROPOUTS):
            setattr(pretrained, name, config.dropout)
    pretrained.use_cache = False  # nothing is generated: a decoder would only copy its keys
    backbone: nn.Module = AutoModel.from_pretrained(
        resolve_model(config.name),
        config=pretrained,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        **load_options(pretrained),
    )
    return backbone


def _pretrained_config(config: ModelConfig) -> Any:
    """Read a model's configuration. Raises InputError for a type that is no family of ours."""
    _family(model_type(config.name))  # first: transformers may not know the type either
    folder = resolve_model(config.name)
    with reading_model(folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_options(pretrained: Any) -> dict[str, Any]:
    """Return the keyword arguments with which a configuration becomes a backbone of ours."""
    # On one CPU thread in bf16, short rows train a little faster through plain attention
    # (docs/LOG.md has the figures).
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    options = _family(str(pretrained.model_type)).load_options
    return {"attn_implementation": attention, **options}


def _family(model_type: str) -> Family:
    if model_type not in FAMILIES:
        raise InputError(
            f"model type {model_type!r} is not known; known are {', '.join(FAMILIES)}. To add it, "
            "give FAMILIES in adapt_ray/modeling.py an entry that says where its layers and their "
            "query, key, value, output, up, down and norm modules are"
        )
    return FAMILIES[model_type]
