"""Some of the faults of `make chaos`, on a real cluster of several nodes on this machine."""

from pathlib import Path

import pytest

import chaos_nodes
from chaos_scene import Fault, NotHere, Scene

pytestmark = [pytest.mark.ray, pytest.mark.slow]
FAULTS = {fault.name: fault for fault in chaos_nodes.FAULTS}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene.prepared(tmp_path_factory.mktemp("scene"))


@pytest.mark.parametrize(
    "fault",
    [
        FAULTS[name]
        for name in (
            "node lost in mining",
            "node lost in training with two workers",
            "node lost in a sweep",
            "storage that a node does not share",
        )
    ],
    ids=lambda fault: fault.name,
)
def test_a_fault_keeps_its_promise(fault: Fault, scene: Scene) -> None:
    try:
        fault.inject(scene)
    except NotHere as reason:
        pytest.skip(str(reason))


def test_the_scene_notices_another_end(scene: Scene, tmp_path: Path) -> None:
    from chaos_scene import Broken

    storage = scene.copy()
    next(storage.rglob("records/**/*.parquet")).unlink()
    with pytest.raises(Broken, match="1 missing"):
        scene.check_scores(storage, ("search", "final", "finetune"))
    with pytest.raises(Broken, match="artifacts differ"):
        scene.check_artifacts(tmp_path)
