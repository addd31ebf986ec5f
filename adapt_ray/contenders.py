"""Turning a contender and proposed values into the method and training settings of a run."""

from collections.abc import Iterator, Mapping
from itertools import product

from torch import nn

from adapt_ray.adaptation.support import check_supported
from adapt_ray.config import (
    AdaptConfig,
    Contender,
    FullStableConfig,
    Interval,
    MethodConfig,
    ModelConfig,
    Range,
    Scalar,
    TrainingConfig,
    replace,
)
from adapt_ray.costs import StepModel
from adapt_ray.errors import InputError
from adapt_ray.modeling import module_infos, unloaded_backbone
from adapt_ray.selection import check_budgets
from adapt_ray.selection.transfer import map_of_another_task
from adapt_ray.training.trunk import check_trunk_cache

# Peak learning rates where none is given, within what a method's authors used. Few steps on little
# data want more, up to five times (docs/LOG.md): search them.
USUAL_RATES: Mapping[str, float] = {
    "full": 5e-5,
    "adapt": 2e-4,
    "layer_selection": 2e-4,
    "lora": 5e-4,
    "adalora": 2e-3,
    "houlsby": 1e-3,
    "prompt_tuning": 1e-2,
    "prefix_tuning": 1e-2,
    "bitfit": 2e-3,
    "embedding_only": 1e-3,
    "encoder_only": 5e-5,
}

# A contender that differs in these measures sensitivity on other inputs, or warms up its new
# embeddings in another way: that is another contender.
_FIXED = (
    "method.type",
    "method.task_tokens",
    "method.new_rows",
    "method.new_rows_init",
    "training.precision",
)


def settings(
    contender: Contender, training: TrainingConfig, values: Mapping[str, Scalar], origin: str
) -> tuple[MethodConfig, TrainingConfig]:
    """Apply a contender's own settings, then proposed values, to the job's training section.

    Raises InputError for a field that is neither ``method.*`` nor ``training.*``, or whose value
    is not allowed.
    """
    method = contender.method
    for path, value in {**contender.set, **values}.items():
        section, _, field = path.partition(".")
        if section == "training" and field:
            training = replace(training, {field: value}, origin)
        elif section == "method" and field:
            method = replace(method, {field: value}, origin)
        else:
            raise InputError(
                f"{origin}: field {path!r} cannot differ between contenders; only method.* and "
                "training.* can"
            )
    return method, resolved(method, training)


def resolved(method: MethodConfig, training: TrainingConfig) -> TrainingConfig:
    """Return training settings with what the method decides filled in.

    ``full_stable`` brings its learning rate, epochs and warm-up; any other method its usual
    learning rate where none is given.
    """
    if isinstance(method, FullStableConfig):
        own = {name: getattr(method, name) for name in _OF_FULL_STABLE}
        return training.model_copy(update=own)
    if training.learning_rate is None:
        return training.model_copy(update={"learning_rate": USUAL_RATES[method.type]})
    return training


_OF_FULL_STABLE = ("learning_rate", "epochs", "warmup")


def check_contender(name: str, contender: Contender, training: TrainingConfig) -> None:
    """Check every corner of a contender's search space before anything expensive starts."""
    origin = f"contender {name!r}"
    for path in [*contender.space, *contender.set]:
        section, _, field = path.partition(".")
        own = contender.method.type == "full_stable" and field in _OF_FULL_STABLE
        if own and section == "training":
            raise InputError(f"{origin}: {path!r} is full_stable's own; give 'method.{field}'")
    for path in contender.space:
        if path in _FIXED:
            raise InputError(
                f"{origin}: {path!r} cannot be searched; make a contender of each of its values"
            )
    for values in _corners(contender):
        check_trunk_cache(origin, *settings(contender, training, values, origin))


def check_method(
    origin: str,
    method: MethodConfig,
    model: ModelConfig,
    training: TrainingConfig,
    workers: int = 1,
) -> None:
    """Raise InputError when a method cannot train a model as it says."""
    backbone = unloaded_backbone(model)
    try:
        check_supported(method, backbone, model, training, workers)
        if isinstance(method, AdaptConfig):
            _check_selection(method, backbone, training)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


def _check_selection(method: AdaptConfig, backbone: nn.Module, training: TrainingConfig) -> None:
    modules = module_infos(backbone)
    # How many tokens one attends to is not known yet; it hardly moves the smallest share.
    step = StepModel(modules, width=0, attended=0.0, trunk_cached=caches_trunk(training))
    check_budgets(method, step, sum(p.numel() for p in backbone.parameters()))
    if method.map_from is not None:
        map_of_another_task(method.map_from, modules)


def caches_trunk(training: TrainingConfig) -> bool:
    """Return whether runs read what lies below their lowest trained layer from a cache."""
    return training.trunk_cache != "off"


def corners(
    contender: Contender, training: TrainingConfig
) -> Iterator[tuple[MethodConfig, TrainingConfig]]:
    """Yield the settings at every corner of a contender's search space."""
    for values in _corners(contender):
        yield settings(contender, training, values, "contender")


def _corners(contender: Contender) -> Iterator[dict[str, Scalar]]:
    """Yield the extreme values of intervals with every choice of the first difference."""
    names = list(contender.space)
    ends = [_ends(contender.space[name]) for name in names]
    for values in product(*ends):
        yield searched(contender.space, dict(zip(names, values, strict=True)))


def searched(space: Mapping[str, Range], values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return those of the values whose fields' conditions hold."""
    found: dict[str, Scalar] = {}
    for path, allowed in space.items():
        if is_searched(allowed, found):
            found[path] = values[path]
    return found


def is_searched(allowed: Range, values: Mapping[str, Scalar]) -> bool:
    """Whether a field's condition holds, given the values of the fields before it."""
    when = {} if isinstance(allowed, tuple) else allowed.when
    return all(path in values and values[path] in wanted for path, wanted in when.items())


def _ends(allowed: Range) -> tuple[Scalar, ...]:
    if isinstance(allowed, Interval):
        ends = (allowed.low, allowed.high)
        return tuple(int(end) for end in ends) if allowed.whole else ends
    return allowed if isinstance(allowed, tuple) else allowed.choices
