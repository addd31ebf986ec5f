"""One registry of methods: each says, before any optimizer exists, what of a model trains."""

from collections.abc import Callable, Mapping

from adapt_ray.adaptation.freezing import train_everything, train_selected
from adapt_ray.config import AdaptConfig, MethodConfig
from adapt_ray.modeling import TaskClassifier
from adapt_ray.selection import Selection

Prepare = Callable[[TaskClassifier, MethodConfig, Selection | None], None]

METHODS: Mapping[str, Prepare] = {
    "full": train_everything,
    "adapt": train_selected,
}


def prepare(model: TaskClassifier, method: MethodConfig, selection: Selection | None) -> None:
    """Set what trains under a method. Call it before the optimizer is built."""
    METHODS[method.type](model, method, selection)


def needs_selection(method: MethodConfig) -> bool:
    """Return whether a method trains modules chosen by sensitivity."""
    return isinstance(method, AdaptConfig)
