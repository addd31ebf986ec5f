"""Per-example gradient norms of a module's parameters, from one backward pass over a batch.

The loss is summed over examples, so the gradient that reaches a module's output at example b is
that example's own. For a linear layer the weight gradient of example b is the sum over tokens of
g_t a_t^T, whose squared norm is sum over t, t' of (g_t . g_t')(a_t . a_t'): no per-example weight
gradient is ever built when texts are shorter than the layer is wide.
"""

from torch import Tensor, nn
from torch.nn import functional


def squared_norms(module: nn.Module, inputs: Tensor, output_gradients: Tensor) -> Tensor:
    """Return [B] squared L2 norms of the loss gradient by all of a module's parameters.

    ``inputs`` [B, T, in] went into the module, ``output_gradients`` [B, T, out] is the gradient
    of the summed loss by its output. Raises TypeError for a module kind that has no rule.
    """
    inputs, gradients = inputs.float(), output_gradients.float()
    if isinstance(module, nn.Linear):
        squared = _linear_weight(inputs, gradients)
    elif isinstance(module, nn.LayerNorm):
        normalized = functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
        squared = (gradients * normalized).sum(1).square().sum(-1)
    else:
        raise TypeError(f"no rule for the per-example gradient of a {type(module).__name__}")
    if module.bias is not None:
        squared = squared + gradients.sum(1).square().sum(-1)
    return squared


def _linear_weight(inputs: Tensor, gradients: Tensor) -> Tensor:
    tokens, width_in, width_out = inputs.shape[1], inputs.shape[2], gradients.shape[2]
    if tokens * (width_in + width_out) < width_in * width_out:
        overlap = (inputs @ inputs.mT) * (gradients @ gradients.mT)
        return overlap.sum((1, 2)).clamp(min=0)
    return (gradients.mT @ inputs).square().sum((1, 2))
