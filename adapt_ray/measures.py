"""What a run costs and where it ran: memory, floating-point operations, versions."""

import functools
import json
import os
import platform
import resource
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from adapt_ray.modeling import Batch, TaskClassifier

PACKAGES = ("ray", "torch", "transformers", "datasets", "pyarrow", "deepspeed", "optuna", "numba")


def resolve_precision(precision: Literal["auto", "fp32", "bf16"]) -> Literal["fp32", "bf16"]:
    """Return the precision that ``auto`` means here: bf16 where the hardware computes in it."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


class PeakMemory:
    """Peak memory from construction on: of the device, or of the process where there is none."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.kind: Literal["cuda", "rss"] = "cuda" if device.type == "cuda" else "rss"
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _reset_peak_rss()

    def bytes(self) -> int:
        """Return the peak in bytes."""
        if self.kind == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return _peak_rss()


def step_flops(model: TaskClassifier, batch: Batch, labels: Tensor) -> int:
    """Return the floating-point operations of one forward and backward pass over a batch.

    Counted by torch's dispatcher, on the model as prepared: what is frozen costs no gradient.
    """
    was_training = model.training
    model.eval()
    with FlopCounterMode(display=False) as counter:
        functional.cross_entropy(model(**batch.inputs()).float(), labels).backward()
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return int(counter.get_total_flops())


@functools.cache
def versions() -> str:
    """Return the versions of Python and of the packages that decide results, as JSON."""
    found = {name: metadata.version(name) for name in PACKAGES}
    return json.dumps({"python": platform.python_version(), **found})


@functools.cache
def machine() -> str:
    """Return a short description of the processor, or of the GPU where one is used."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}"
    return f"{_processor()}, {os.cpu_count()} CPUs"


@functools.cache
def git_revision() -> str:
    """Return the revision of the code, or ``unknown`` outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() if found.returncode == 0 else "unknown"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _reset_peak_rss() -> None:
    """Ask Linux to forget the high-water mark, so that each run in a process shows its own."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        try:
            clear.write_text("5")
        except OSError:  # a sandbox without the right: the mark then covers the whole process
            return


def _peak_rss() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
