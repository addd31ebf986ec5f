from pathlib import Path
from typing import Any

import pytest

from adapt_ray.config import WatchConfig
from adapt_ray.distributed import watch
from adapt_ray.errors import InputError


class Trial:
    """What a callback knows of Tune's trial."""

    config: dict[str, Any] = {"label": "adapt #3", "known": []}  # noqa: RUF012
    evaluated_params: dict[str, Any] = {"training.learning_rate": 1e-4}  # noqa: RUF012


def test_what_is_not_installed_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "find_spec", lambda name: None)
    watch.check_watch(WatchConfig())
    with pytest.raises(InputError, match=r"watch\.mlflow is 'http://x', but mlflow is not"):
        watch.check_watch(WatchConfig(mlflow="http://x"))
    with pytest.raises(InputError, match=r"watch\.wandb is 'project', but wandb is not installed"):
        watch.check_watch(WatchConfig(wandb="project"))


def test_tensorboard_files_lie_in_the_storage_and_a_successor_adds_to_them(tmp_path: Path) -> None:
    for _ in range(2):
        [writer] = watch.callbacks(WatchConfig(), str(tmp_path), "search", "demo")
        trial = Trial()
        writer.log_trial_start(trial)  # type: ignore[attr-defined]
        for step in (1, 2):
            result = {"training_iteration": step, "mean_dev_macro_f1": 0.5 + step / 10}
            writer.log_trial_result(step, trial, result)  # type: ignore[attr-defined]
        writer.log_trial_end(trial)  # type: ignore[attr-defined]
    files = list((tmp_path / "tensorboard" / "demo-search" / "adapt #3").glob("*tfevents*"))
    assert files
    assert b"mean_dev_macro_f1" in b"".join(file.read_bytes() for file in files)
