"""Seeds of single streams: each holds its own part of a run still, and nothing else."""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

from adapt_ray.config import STREAM_SEEDS, AdaptConfig, FullConfig, LoraConfig, MethodConfig
from adapt_ray.data.batches import Ints, epoch_batches
from adapt_ray.training import loop
from adapt_ray.training.run import Inputs, RunPlan, _model, execute

PlanFor = Callable[..., RunPlan]
FIELDS = tuple(STREAM_SEEDS.values())
METHODS: tuple[MethodConfig, ...] = (
    FullConfig(),
    AdaptConfig(new_rows_init="random"),
    LoraConfig(rank=2),
)


def trained(plan: RunPlan, seed: int) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    execute(plan, seed, Inputs.of(plan), export=lambda _, found, __: weights.update(found))
    return weights


def initial(plan: RunPlan, seed: int) -> dict[str, Tensor]:
    return dict(_model(plan, seed, Inputs.of(plan)).state_dict())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.type)
def test_an_initialisation_seed_gives_one_start_to_all_run_seeds(
    plan_for: PlanFor, method: MethodConfig
) -> None:
    free, held = plan_for(method), plan_for(method, initialisation_seed=7)
    assert equal(initial(held, 3), initial(held, 4))
    assert equal(initial(held, 3), initial(free, 7))
    assert not equal(initial(free, 3), initial(free, 4))


def test_a_data_order_seed_gives_one_order_to_all_run_seeds(
    plan_for: PlanFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[list[list[int]]] = []

    def spy(lengths: Ints, batch_size: int, seed: int, epoch: int) -> list[Ints]:
        batches = epoch_batches(lengths, batch_size, seed, epoch)
        orders.append([batch.tolist() for batch in batches])
        return batches

    monkeypatch.setattr(loop, "epoch_batches", spy)
    held = plan_for(epochs=1, data_order_seed=7)
    kept = plan_for(epochs=1, initialisation_seed=7)
    for plan, seed in ((held, 3), (held, 4), (plan_for(epochs=1), 7), (kept, 3), (kept, 4)):
        trained(plan, seed)
    assert orders[0] == orders[1] == orders[2]
    assert orders[3] != orders[4]


def test_all_streams_held_are_a_run_of_that_seed(plan_for: PlanFor) -> None:
    held = plan_for(epochs=1, **dict.fromkeys(FIELDS, 7))
    expected = trained(plan_for(epochs=1), 7)
    assert equal(trained(held, 3), expected)
    assert equal(trained(held, 4), expected)


@pytest.mark.parametrize("fields", list(combinations(FIELDS, 2)))
def test_the_stream_that_is_left_still_follows_the_run_seed(
    plan_for: PlanFor, fields: tuple[str, ...]
) -> None:
    plan = plan_for(epochs=1, **dict.fromkeys(fields, 7))
    assert not equal(trained(plan, 3), trained(plan, 4))


def test_streams_of_the_run_seed_leave_the_identity_as_it_was(plan_for: PlanFor) -> None:
    plan = plan_for()
    assert not set(FIELDS) & plan.training.key().keys()
    assert not set(FIELDS) & plan.identity()["training"].keys()
    ids = {plan_for(**{name: seed}).configuration_id for name in FIELDS for seed in (0, 1)}
    assert len(ids | {plan.configuration_id}) == 7
