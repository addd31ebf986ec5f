import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import torch
from torch import Tensor

from adapt_ray.config import AdaloraConfig, AdaptConfig, FullConfig, LayerSelectionConfig
from adapt_ray.errors import InputError
from adapt_ray.training import checkpoint
from adapt_ray.training.checkpoint import Checkpoints, discard, last_saved
from adapt_ray.training.run import Inputs, Outcome, RunPlan, execute
from adapt_ray.training.world import World

PlanFor = Callable[..., RunPlan]
ALONE = World(0, 1, torch.device("cpu"))
EVERY_STEP = 1e-9  # seconds


class KilledError(RuntimeError):
    """Stands for the death of a worker."""


@pytest.fixture(params=["local", "remote"])
def filesystem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let storage be this disk, or a filesystem that cannot rename and is not this disk."""
    if request.param == "remote":
        other = pafs.SubTreeFileSystem("/", pafs.LocalFileSystem())
        monkeypatch.setattr(checkpoint, "open_root", lambda root: (other, root))


def writing(content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        assert not list(folder.iterdir())
        (folder / "deep").mkdir()
        (folder / "weights").write_text(content)
        (folder / "deep" / "moments").write_text(2 * content)

    return write


def loaded(checkpoints: Checkpoints) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Return the state of a checkpoint and the files that a reader was given."""
    files: dict[str, str] = {}

    def read(folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path.read_text()

    return checkpoints.load(read), files


def stored(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("filesystem")
def test_the_latest_of_several_is_what_remains(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "run", ALONE, {"workers": 1})
    assert loaded(checkpoints) == (None, {})
    assert last_saved(str(tmp_path), "run") == ""
    for step in (3, 7):
        checkpoints.save(step, writing(str(step)), {"loss": step / 7})
        assert last_saved(str(tmp_path), "run") == f"step-{step}"
    again = Checkpoints(str(tmp_path), "run", ALONE, {"workers": 1})
    assert loaded(again) == ({"loss": 1.0}, {"weights": "7", "deep/moments": "77"})
    assert stored(tmp_path / "checkpoints" / "run") == {
        "latest.json",
        "step-7/weights",
        "step-7/deep/moments",
    }
    assert loaded(Checkpoints(str(tmp_path), "other", ALONE, {"workers": 1})) == (None, {})
    discard(str(tmp_path), "run")
    discard(str(tmp_path), "run")  # nothing is left to do
    assert loaded(checkpoints) == (None, {})
    assert stored(tmp_path) == set()


@pytest.mark.usefixtures("filesystem")
def test_a_save_that_was_cut_short_is_never_read_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(str(tmp_path), "run", ALONE, {})
    checkpoints.save(3, writing("3"), {"at": 3})

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", killed)
        with pytest.raises(KilledError):
            checkpoints.save(4, writing("4"), {"at": 4})
    (tmp_path / "checkpoints" / "run" / ".worker-killed").mkdir()
    assert loaded(checkpoints) == ({"at": 3}, {"weights": "3", "deep/moments": "33"})
    checkpoints.save(5, writing("5"), {"at": 5})
    assert {path.name for path in (tmp_path / "checkpoints" / "run").iterdir()} == {
        "latest.json",
        "step-5",
    }


@pytest.mark.usefixtures("filesystem")
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(str(tmp_path), "run", ALONE, {})
    checkpoints.save(3, writing("3"), {})
    file = tmp_path / "checkpoints" / "run" / "step-3" / "weights"
    if damage == "changed":
        file.write_text("4")
    else:
        file.unlink()
    with pytest.raises(
        InputError, match="run/step-3/weights is missing or changed.*; delete .*run "
    ):
        loaded(checkpoints)


def test_a_damaged_description_is_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), "run", ALONE, {})
    checkpoints.save(3, writing("3"), {})
    (tmp_path / "checkpoints" / "run" / "latest.json").write_text("{")
    with pytest.raises(InputError, match="latest.json is damaged; delete"):
        loaded(checkpoints)
    assert last_saved(str(tmp_path), "run") == ""


def test_another_setting_starts_again_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Checkpoints(str(tmp_path), "run", ALONE, {"workers": 2}).save(3, writing("3"), {})
    assert loaded(Checkpoints(str(tmp_path), "run", ALONE, {"workers": 1})) == (None, {})
    assert "{'workers': 2}" in caplog.text


def run(plan: RunPlan) -> tuple[Outcome, dict[str, Tensor]]:
    weights: dict[str, Tensor] = {}
    outcome = execute(plan, 0, Inputs.of(plan), export=lambda _, found, __: weights.update(found))
    return outcome, weights


def killed_after(plan: RunPlan, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a plan until the given step is saved."""
    save = Checkpoints.save

    def save_and_die(self: Checkpoints, saved: int, *arguments: Any) -> None:
        save(self, saved, *arguments)
        if saved == step:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(KilledError):
            run(plan)


def steps_saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by every step that is saved from now on."""
    steps: list[int] = []
    save = Checkpoints.save

    def note(self: Checkpoints, step: int, *arguments: Any) -> None:
        steps.append(step)
        save(self, step, *arguments)

    monkeypatch.setattr(Checkpoints, "save", note)
    return steps


MEASURED = ("seconds", "per_second", "started_at", "memory_bytes")


@pytest.mark.parametrize("step", [2, 5, 9])  # within an epoch of five steps, at its end, later
@pytest.mark.parametrize(
    "options",
    [
        {"method": FullConfig(task_tokens=True)},
        {"patience": 1, "accumulation": 2},
        {"focus": (1.0, 0.6)},
        {"frozen_storage": "bf16"},
        {"method": AdaloraConfig(rank=3)},  # whose ranks are settled at the last of the steps
        {"method": LayerSelectionConfig(choose="lisa", sparsity=0.5, of="encoder", interval=2)},
    ],
    ids=lambda options: options["method"].type if "method" in options else "-".join(options),
)
def test_a_killed_run_ends_as_the_undisturbed_one(
    plan_for: PlanFor,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: dict[str, Any],
    step: int,
) -> None:
    options = {"method": AdaptConfig(), "checkpoint_seconds": None, **options}
    plan = plan_for(epochs=3, **options)
    expected, weights = run(plan)

    every_step = plan.training.model_copy(update={"checkpoint_seconds": EVERY_STEP})
    plan = dataclasses.replace(plan, training=every_step)
    killed_after(plan, step, monkeypatch)
    latest = Path(plan.storage) / "checkpoints" / plan.run_id(0) / "latest.json"
    assert json.loads(latest.read_text())["folder"] == f"step-{step}"
    saved = steps_saved(monkeypatch)
    found, resumed = run(plan)
    discard(plan.storage, plan.run_id(0))

    assert saved[0] == step + 1  # it did go on from there
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert found.predictions.equals(expected.predictions)
    for column in ("epoch", "train_loss", "dev_macro_f1", "dev_accuracy"):
        assert found.curves[column].equals(expected.curves[column])
    records = [dataclasses.asdict(outcome.record) for outcome in (found, expected)]
    for name in records[0]:
        if not name.endswith(MEASURED):
            assert records[0][name] == records[1][name], name


def test_seconds_before_the_kill_count_once(
    plan_for: PlanFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(FullConfig(), epochs=2, checkpoint_seconds=EVERY_STEP)
    killed_after(plan, 8, monkeypatch)
    latest = Path(plan.storage) / "checkpoints" / plan.run_id(0) / "latest.json"
    description = json.loads(latest.read_text())
    description["state"]["seconds"] += 1000.0
    description["state"]["curve"][0]["train_seconds"] += 100.0
    description["state"]["curve"][0]["evaluate_seconds"] += 10.0
    latest.write_text(json.dumps(description))
    record = run(plan)[0].record
    discard(plan.storage, plan.run_id(0))
    assert record.train_seconds is not None
    assert record.evaluate_seconds is not None
    assert 1100 < record.train_seconds < 1200
    assert 10 < record.evaluate_seconds < 60
