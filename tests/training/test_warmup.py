import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from adapt_ray.artifacts import ArtifactStore
from adapt_ray.config import AdaptConfig, FullConfig
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.modeling import TaskClassifier, build_classifier
from adapt_ray.records import RunRecord
from adapt_ray.training import warmup
from adapt_ray.training.run import Inputs, RunPlan, execute
from adapt_ray.training.warmup import NewRows, WarmUpPlan, warm_up

PlanFor = Callable[..., RunPlan]


def warm_up_plan(plan: RunPlan, **changes: Any) -> WarmUpPlan:
    assert plan.tokens is not None
    fields: dict[str, Any] = {
        "storage": plan.storage,
        "corpus": plan.corpus,
        "tokens": plan.tokens,
        "model": plan.model,
        "new_rows_init": "mean",
        "precision": "fp32",
    }
    return WarmUpPlan(**{**fields, **changes})


def start(plan: WarmUpPlan) -> Tensor:
    tokens = ArtifactStore(plan.storage).load(TokenSet, plan.tokens)
    model = build_classifier(
        plan.model, 2, 0, tokens.sequences, new_rows_init=plan.new_rows_init, seed=0
    )
    assert model.embedding.new is not None
    return model.embedding.new.detach()


def test_rows_move_and_nothing_of_it_depends_on_chance(plan_for: PlanFor) -> None:
    plan = warm_up_plan(plan_for(AdaptConfig()))
    first, notes = warm_up(plan)
    torch.manual_seed(7)
    again, _ = warm_up(plan)
    assert torch.equal(first.rows, again.rows)
    assert (first.rows != start(plan)).any(dim=1).all()
    assert notes["learning_rate"] == warmup.SETTINGS.learning_rate
    assert notes["train_loss"] > 0


def test_warming_up_lowers_the_loss_of_rows_and_head_alone(
    plan_for: PlanFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = warmup.SETTINGS.model_copy(update={"epochs": 30})
    plan = warm_up_plan(plan_for(AdaptConfig()))
    after_one = warm_up(plan)[1]["train_loss"]
    monkeypatch.setattr(warmup, "SETTINGS", many)
    assert warm_up(plan)[1]["train_loss"] < after_one


def test_a_run_starts_from_warm_rows_and_keeps_them(plan_for: PlanFor) -> None:
    plan = plan_for(AdaptConfig(new_rows="frozen"))
    rows, notes = warm_up(warm_up_plan(plan))
    stage = warm_up_plan(plan).stage
    manifest = ArtifactStore(plan.storage).publish(stage, rows, notes)
    for method in (AdaptConfig(new_rows="warmup"), FullConfig(task_tokens=True, new_rows="warmup")):
        selection = plan.selection if method.type == "adapt" else None
        warm = dataclasses.replace(plan, method=method, selection=selection, new_rows=manifest)
        exported: dict[str, Tensor] = {}

        def keep(
            model: TaskClassifier,
            weights: dict[str, Tensor],
            record: RunRecord,
            into: dict[str, Tensor] = exported,
        ) -> None:
            into.update(weights)

        record = execute(warm, 0, Inputs.of(warm), export=keep).record
        assert record.status == "ok"
        assert torch.equal(exported["backbone.embeddings.word_embeddings.new"], rows.rows)
        other = ArtifactStore(plan.storage).publish(
            warm_up_plan(plan, precision="bf16").stage, NewRows(rows.rows + 1), {}
        )
        assert dataclasses.replace(warm, new_rows=other).run_id(0) != warm.run_id(0)


def test_a_plan_without_the_rows_it_warms_up_is_refused(plan_for: PlanFor) -> None:
    with pytest.raises(ValueError, match="new_rows are 'warmup'"):
        plan_for(AdaptConfig(new_rows="warmup"))


def test_the_key_says_what_the_rows_depend_on(plan_for: PlanFor) -> None:
    plan = plan_for(AdaptConfig())
    first = warm_up_plan(plan)
    assert plan.tokens is not None
    assert dataclasses.replace(first, storage="/elsewhere").stage.key == first.stage.key
    other_tokens = dataclasses.replace(plan.tokens, files={"x": "y"})
    others = [
        dataclasses.replace(first, new_rows_init="random"),
        dataclasses.replace(first, precision="bf16"),
        dataclasses.replace(first, tokens=other_tokens),
        dataclasses.replace(first, model=plan.model.model_copy(update={"pooling": "cls"})),
    ]
    assert len({other.stage.key for other in others} | {first.stage.key}) == len(others) + 1


def test_another_seed_warms_up_to_other_rows_under_another_key(plan_for: PlanFor) -> None:
    first, other = (warm_up_plan(plan_for(AdaptConfig()), seed=seed) for seed in (0, 5))
    assert first.stage.config["seed"] == warm_up_plan(plan_for(AdaptConfig())).stage.config["seed"]
    assert first.stage.key != other.stage.key
    assert not torch.equal(warm_up(first)[0].rows, warm_up(other)[0].rows)
