"""Methods that choose among a model's own parameters."""

from adapt_ray.config import MethodConfig
from adapt_ray.modeling import TaskClassifier
from adapt_ray.selection import Selection


def train_everything(
    model: TaskClassifier, method: MethodConfig, selection: Selection | None
) -> None:
    """Full finetuning: every pretrained parameter, the head and, if asked, the new rows."""
    model.requires_grad_(True)
    _set_new_rows(model, method)


def train_selected(
    model: TaskClassifier, method: MethodConfig, selection: Selection | None
) -> None:
    """AdaPT: the selected modules, the head and, if asked, the new rows; nothing else.

    Frozen parameters are outside the optimizer altogether: masking their gradients instead would
    let weight decay move them.
    """
    assert selection is not None
    if selection.trained_share == 1.0:
        model.requires_grad_(True)
    else:
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        modules = model.modules_by_name()
        for name in selection.modules:
            modules[name].requires_grad_(True)
    _set_new_rows(model, method)


def _set_new_rows(model: TaskClassifier, method: MethodConfig) -> None:
    if model.embedding.new is not None:
        model.embedding.new.requires_grad_(method.new_rows == "train")
