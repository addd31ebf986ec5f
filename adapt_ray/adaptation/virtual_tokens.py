"""Prompt and prefix tuning: trained vectors that stand before every text.

peft puts prefixes into the key-value cache, which encoders such as ModernBERT do not take. Here
they join keys and values inside attention, through transformers' interface for attention functions:
one function for every family, and rotary positions stay those of the text.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from adapt_ray.modeling import Prompt, TaskClassifier, module_infos

_ATTENTION = "adapt_ray_prefix"
_STD = 0.02


def attach_prompt(model: TaskClassifier, length: int, generator: torch.Generator) -> None:
    """Put ``length`` trained embeddings before every text; they start as those of random tokens."""
    table = model.embedding.base
    ids = torch.randint(table.num_embeddings, (length,), generator=generator)
    with torch.no_grad():
        model.prompt = Prompt(table(ids).detach().clone())


def attach_prefixes(model: TaskClassifier, length: int, generator: torch.Generator) -> None:
    """Put ``length`` trained keys and values before those of the text, in every layer.

    A layer's attention module holds them as ``prefix`` [2, key heads, length, head width].
    """
    AttentionInterface.register(_ATTENTION, _attend)
    AttentionMaskInterface.register(_ATTENTION, eager_mask)
    config: Any = model.backbone.config
    config._attn_implementation = _ATTENTION
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    width = int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    for attention in _attention_modules(model.backbone):
        values = torch.empty(2, heads, length, width).normal_(0.0, _STD, generator=generator)
        attention.prefix = nn.Parameter(values)


def _attention_modules(backbone: nn.Module) -> list[nn.Module]:
    """Return the module of each layer that holds the projection to keys."""
    names = [info.name for info in module_infos(backbone) if info.kind in _KEYS]
    return [backbone.get_submodule(name.rpartition(".")[0]) for name in names]


_KEYS = ("key", "query_key_value")


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend to the prefix and the text: [B, T, heads, width] of queries [B, heads, T, width].

    Keys and values have [B, key heads, T, width]; the mask is added to scores [B, 1, T, T]. A
    prefix is visible to every token.
    """
    prefix = cast(Tensor, module.prefix).to(key.dtype)
    before = prefix.unsqueeze(1).expand(2, key.shape[0], *prefix.shape[1:])
    groups = query.shape[1] // key.shape[1]
    keys = torch.cat([before[0], key], dim=2).repeat_interleave(groups, dim=1)
    values = torch.cat([before[1], value], dim=2).repeat_interleave(groups, dim=1)
    scores = (
        query @ keys.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    )
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + functional.pad(attention_mask, (prefix.shape[2], 0))
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = functional.dropout(weights, dropout, module.training)
    return (weights @ values).transpose(1, 2).contiguous(), None
