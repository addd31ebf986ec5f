import pytest
import torch
from torch import Tensor, nn

from adapt_ray.sensitivity.gradients import squared_norms


class Net(nn.Module):
    """One module under test between a random input and a per-example loss."""

    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.module = module
        self.readout = torch.randn(width)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.module(inputs)
        return outputs, torch.tanh(outputs @ self.readout).square().sum(1)  # losses [B]


def one_at_a_time(net: Net, inputs: Tensor) -> Tensor:
    norms = []
    for example in inputs:
        net.zero_grad()
        net(example[None])[1].sum().backward()
        grads = [p.grad for p in net.module.parameters() if p.grad is not None]
        norms.append(torch.sqrt(sum((g.square().sum() for g in grads), torch.zeros(()))))
    return torch.stack(norms)


@pytest.mark.parametrize(
    ("module", "width_in", "width_out"),
    [
        (nn.Linear(16, 24), 16, 24),
        (nn.Linear(16, 24, bias=False), 16, 24),
        (nn.Linear(200, 300), 200, 300),  # wide: the gradient is never built
        (nn.LayerNorm(16), 16, 16),
        (nn.LayerNorm(16, eps=1e-3), 16, 16),
    ],
)
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_norms_equal_the_one_example_loop(
    module: nn.Module, width_in: int, width_out: int, tokens: int
) -> None:
    torch.manual_seed(tokens)
    net = Net(module, width_out)
    inputs = torch.randn(5, tokens, width_in)
    outputs, losses = net(inputs)
    outputs.retain_grad()
    losses.sum().backward()
    assert outputs.grad is not None
    found = squared_norms(module, inputs, outputs.grad).sqrt()
    torch.testing.assert_close(found, one_at_a_time(net, inputs), rtol=1e-4, atol=1e-6)


def test_a_module_without_a_rule_is_refused() -> None:
    with pytest.raises(TypeError, match="no rule .* Embedding"):
        squared_norms(nn.Embedding(3, 4), torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
