"""Which modules train: sensitivities mixed by alpha fill a parameter budget (paper section 3.2)."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from adapt_ray.errors import InputError
from adapt_ray.sensitivity.measure import SensitivityMap

FILE = "selection.json"
Normalisation = Literal["rank", "minmax", "zscore", "none"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Selection:
    """The modules that train, in layer order, and the share of the model they hold."""

    modules: tuple[str, ...]
    parameters: int
    trained_share: float  # selected parameters / original parameters, embeddings included

    def save(self, folder: Path) -> None:
        """Write ``selection.json``."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Selection":
        """Read what :meth:`save` wrote."""
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls(tuple(values["modules"]), values["parameters"], values["trained_share"])


def normalise(values: Floats, how: Normalisation) -> Floats:
    """Make a measure comparable with another; equal values stay equal.

    ``rank`` gives average ranks scaled to (0, 1]; ``minmax`` and ``zscore`` give zeros where all
    values are equal; ``none`` leaves a mixture in which the larger unit decides whatever alpha is.
    """
    if how == "rank":
        return np.asarray(stats.rankdata(values) / len(values), dtype=np.float64)
    if how == "none":
        return values
    centred = values - (values.min() if how == "minmax" else values.mean())
    scale = np.ptp(values) if how == "minmax" else values.std()
    return centred / scale if scale > 0 else np.zeros_like(values)


def sensitivity(measured: SensitivityMap, alpha: float, how: Normalisation) -> Floats:
    """Return S = alpha norm(D) + (1 - alpha) norm(G) per module, in the map's order."""
    dispersion = normalise(np.array(measured.dispersion), how)
    gradient = normalise(np.array(measured.gradient), how)
    return alpha * dispersion + (1 - alpha) * gradient


def check_share(sparsity: float, selectable: int, original: int) -> None:
    """Raise InputError when a budget asks for more than all selectable modules hold.

    A share of exactly 1.0 is allowed: it trains the embeddings too.
    """
    largest = selectable / original
    if largest < sparsity < 1.0:
        raise InputError(
            f"method.sparsity is {sparsity}, but the modules that can be selected hold only "
            f"{largest:.3f} of this model's parameters (the rest are embeddings); give at most "
            f"{int(largest * 1000) / 1000}, or 1.0 to train everything"
        )


def select(
    measured: SensitivityMap, *, alpha: float, sparsity: float, normalisation: Normalisation
) -> Selection:
    """Fill ``sparsity`` of the original parameters with the most sensitive modules.

    Modules are taken by falling sensitivity, ties by layer order; one that no longer fits is
    skipped. Raises InputError when the budget cannot be met or holds not even one module.
    """
    sizes = [module.parameters for module in measured.modules]
    original = measured.original_parameters
    if sparsity == 1.0:  # embeddings too, which are no module
        return Selection(tuple(module.name for module in measured.modules), original, 1.0)
    check_share(sparsity, sum(sizes), original)
    budget = int(sparsity * original)
    scores = sensitivity(measured, alpha, normalisation)
    chosen: list[int] = []
    used = 0
    for index in np.argsort(-scores, kind="stable"):
        if used + sizes[index] <= budget:
            chosen.append(int(index))
            used += sizes[index]
    if not chosen:
        raise InputError(
            f"method.sparsity is {sparsity}, which is {budget} parameters; the smallest module "
            f"has {min(sizes)}"
        )
    names = tuple(measured.modules[index].name for index in sorted(chosen))
    return Selection(names, used, used / original)
