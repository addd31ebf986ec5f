from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from adapt_ray.artifacts import ArtifactStore, Stage
from adapt_ray.config import ModelConfig, ResourcesConfig
from adapt_ray.data.corpus import Corpus, Split
from adapt_ray.data.synthetic import demo_rows
from adapt_ray.distributed import sensitivity
from adapt_ray.distributed.session import Session
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.modeling import module_infos
from adapt_ray.sensitivity.measure import MeasurePlan, SensitivityMap, measure_partial, merge

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> MeasurePlan:
    rows = demo_rows()["train"]
    labels = np.array([sorted(set(rows.labels)).index(label) for label in rows.labels[:600]])
    ids = np.arange(600)
    split = Split(rows.texts[:600], labels, ids, ids)
    corpus = Corpus("demo", ("a", "b", "c"), (), dict.fromkeys(("train", "dev", "test"), split))
    store = ArtifactStore(str(tmp_path_factory.mktemp("store")))
    tokens = TokenSet(((2196, 3369), (1996, 3308)), 30522, 1, None)
    return MeasurePlan(
        storage=store.root,
        corpus=store.publish(Stage("corpus", 1, {}, {}), corpus, {"name": "demo", "markers": []}),
        tokens=store.publish(Stage("tokens", 1, {}, {}), tokens, {}),
        model=ModelConfig(name=tiny_model, max_tokens=64),
        new_rows_init="mean",
        head_seed=0,
    )


def test_shards_on_ray_equal_one_process(session: Session, plan: MeasurePlan) -> None:
    found = sensitivity.measure(session, plan, ResourcesConfig())
    loaded = plan.load()
    everything = loaded.batches(np.array_split(np.arange(600), 20), torch.device("cpu"))
    infos = module_infos(loaded.model.backbone)
    alone = merge(infos, found.original_parameters, [measure_partial(loaded.model, everything)])
    assert found.modules == alone.modules
    np.testing.assert_allclose(found.dispersion, alone.dispersion, rtol=1e-5)
    np.testing.assert_allclose(found.gradient, alone.gradient, rtol=1e-5)


def test_measures_equal_their_definitions(plan: MeasurePlan, tmp_path: Path) -> None:
    """One example at a time through autograd, outputs collected whole."""
    loaded = plan.load()
    rows = np.arange(12)
    partials = measure_partial(
        loaded.model, loaded.batches([rows[:7], rows[7:]], torch.device("cpu"))
    )
    infos = module_infos(loaded.model.backbone)
    found: SensitivityMap = merge(infos, 1, [partials])

    model = plan.load().model.eval()
    outputs: dict[str, list[torch.Tensor]] = {info.name: [] for info in infos}
    norms: dict[str, list[float]] = {info.name: [] for info in infos}
    modules = model.modules_by_name()
    for name, module in modules.items():
        module.register_forward_hook(lambda m, i, o, name=name: outputs[name].append(o[0].detach()))
    for batch, labels in loaded.batches([rows[i : i + 1] for i in rows], torch.device("cpu")):
        model.zero_grad()
        functional.cross_entropy(model(**batch.inputs()), labels).backward()
        for name, module in modules.items():
            grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
            norms[name].append(float(torch.cat(grads).norm()))
    for index, info in enumerate(infos):
        values = torch.cat(outputs[info.name]).double()
        expected = values.var(0, correction=0).mean() / values.mean(0).abs().mean()
        assert found.dispersion[index] == pytest.approx(float(expected), rel=1e-4)
        assert found.gradient[index] == pytest.approx(np.mean(norms[info.name]), rel=1e-4)


def test_the_key_says_what_the_map_depends_on(plan: MeasurePlan) -> None:
    def changed(**fields: object) -> MeasurePlan:
        return MeasurePlan(**{**vars_of(plan), **fields})  # type: ignore[arg-type]

    assert changed() == plan
    assert changed(storage="/elsewhere") == plan
    for other in (
        changed(head_seed=1),
        changed(tokens=None),
        changed(new_rows_init="random"),
        changed(model=plan.model.model_copy(update={"pooling": "cls"})),
    ):
        assert other != plan


def vars_of(plan: MeasurePlan) -> dict[str, object]:
    names = ("storage", "corpus", "tokens", "model", "new_rows_init", "head_seed")
    return {name: getattr(plan, name) for name in names}
