"""Following a sweep while it runs, through Tune's own callbacks."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.logger import TBXLoggerCallback

from adapt_ray.artifacts import folder_name
from adapt_ray.config import WatchConfig
from adapt_ray.errors import InputError


def check_watch(watch: WatchConfig) -> None:
    """Raise InputError when something is asked for that is not installed."""
    for name, asked in (("mlflow", watch.mlflow), ("wandb", watch.wandb)):
        if asked is not None and find_spec(name) is None:
            raise InputError(
                f"watch.{name} is {asked!r}, but {name} is not installed; pip install {name}, or "
                "leave it out (TensorBoard files are always written)"
            )


def callbacks(watch: WatchConfig, storage: str, phase: str, task: str) -> list[tune.Callback]:
    """Return what follows the trials of a sweep: TensorBoard, and what else is asked for."""
    found: list[tune.Callback] = [_TensorBoard(storage, f"{task}-{phase}")]
    if watch.mlflow is not None:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        found.append(MLflowLoggerCallback(watch.mlflow, experiment_name=f"{task}-{phase}"))
    if watch.wandb is not None:
        from ray.air.integrations.wandb import WandbLoggerCallback

        found.append(WandbLoggerCallback(project=watch.wandb, group=f"{task}-{phase}"))
    return found


class _TensorBoard(TBXLoggerCallback):
    """Writes where a killed sweep leaves its curves, and its successor adds to them."""

    def __init__(self, storage: str, name: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # A writer knows folders alone; beside a URI, Tune keeps the files with its own and goes.
        self._folder = (
            None if "://" in storage else Path(storage) / "tensorboard" / folder_name(name)
        )

    def log_trial_start(self, trial: Any) -> None:
        """Open the trial's file."""
        if self._folder is None:
            super().log_trial_start(trial)
            return
        if trial in self._trial_writer:
            self._trial_writer[trial].close()
        label = folder_name(trial.config["label"]).replace("%23", "#")  # "adapt #3", as elsewhere
        folder = self._folder / label
        self._trial_writer[trial] = self._summary_writer_cls(str(folder), flush_secs=10)
        self._trial_result[trial] = {}
