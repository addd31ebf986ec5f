"""The two training engines behind one interface: plain PyTorch and DeepSpeed.

An engine owns the optimizer and the parallel wrapping; the loop owns the data, the loss and the
learning rate. Optimizer state exists for trained parameters only, in both.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adapt_ray.config import TrainingConfig
from adapt_ray.modeling import Batch, TaskClassifier
from adapt_ray.training.world import World


class Engine(Protocol):
    """What the loop asks of an engine."""

    optimizer: torch.optim.Optimizer

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, n_classes] in float32; inference under ``torch.no_grad`` works too."""

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """Backward, clip, and update the trained parameters once."""

    def weights(self) -> dict[str, Tensor]:
        """Return all weights, whole, on the CPU; every worker must call it."""


def build_engine(config: TrainingConfig, model: TaskClassifier, world: World) -> Engine:
    """Wrap a prepared model; its ``requires_grad`` flags decide what trains."""
    if config.engine == "deepspeed":
        return DeepSpeedEngine(config, model, world)
    return PlainEngine(config, model, world)


def adamw(config: TrainingConfig, model: nn.Module, *, fused: bool) -> torch.optim.AdamW:
    """Return AdamW over the trained parameters; biases and norms are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)


class PlainEngine:
    """PyTorch, with DistributedDataParallel where there are several workers."""

    def __init__(self, config: TrainingConfig, model: TaskClassifier, world: World) -> None:
        self._model = model
        self._clip = config.gradient_clip
        self._device = world.device
        self._bf16 = config.precision == "bf16"
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer: torch.optim.Optimizer = adamw(config, model, fused=True)
        self._module: nn.Module = DistributedDataParallel(model) if world.size > 1 else model

    def forward(self, batch: Batch) -> Tensor:
        """See :class:`Engine`."""
        with _autocast(self._bf16, self._device):
            # DDP must not wait for gradients that inference never makes.
            module = self._module if torch.is_grad_enabled() else self._model
            logits: Tensor = module(**batch.inputs())
        return logits.float()

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """See :class:`Engine`."""
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, self._clip)
        _set_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self) -> dict[str, Tensor]:
        """See :class:`Engine`."""
        return {name: value.detach().cpu() for name, value in self._model.state_dict().items()}


class DeepSpeedEngine:
    """DeepSpeed ZeRO 0 to 3 on CUDA or CPU."""

    def __init__(self, config: TrainingConfig, model: TaskClassifier, world: World) -> None:
        import deepspeed

        _without_shared_memory_op()
        self._deepspeed = deepspeed
        self._model = model
        self._stage = config.zero_stage
        # ZeRO steps on flat slices of its own; the fused kernel gains nothing there on CPU.
        self.optimizer: torch.optim.Optimizer = adamw(
            config, model, fused=world.device.type == "cuda"
        )
        deepspeed.init_distributed(
            "nccl" if world.device.type == "cuda" else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
        )
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=self.optimizer, config=_deepspeed_config(config, world)
        )

    def forward(self, batch: Batch) -> Tensor:
        """See :class:`Engine`."""
        logits: Tensor = self._engine(**batch.inputs())
        return logits.float()

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """See :class:`Engine`."""
        self._engine.backward(loss)
        _set_rate(self.optimizer, learning_rate)
        self._engine.step()

    def weights(self) -> dict[str, Tensor]:
        """See :class:`Engine`."""
        with self._gathered():
            return {
                name: value.detach().cpu().clone()
                for name, value in self._model.state_dict().items()
            }

    @contextmanager
    def _gathered(self) -> Iterator[None]:
        whole = self._deepspeed.zero.GatheredParameters(list(self._model.parameters()))
        with whole if self._stage == 3 else nullcontext():
            yield


def _deepspeed_config(config: TrainingConfig, world: World) -> dict[str, Any]:
    return {
        "train_batch_size": config.batch_size * world.size,
        # The loop divides each global batch among the workers itself; DeepSpeed only needs
        # numbers that agree with each other.
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.gradient_clip,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": config.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _without_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling a CPU collective (over a minute) that training never uses."""
    if not torch.cuda.is_available():
        from deepspeed import ops

        ops.__compatible_ops__.pop("deepspeed_shm_comm", None)


def _autocast(enabled: bool, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
