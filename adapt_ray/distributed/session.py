"""The connection to Ray: made when the first stage needs it, never before."""

import logging
import os
import shlex
import socket
import sys
from types import TracebackType

import ray

from adapt_ray.config import ResourcesConfig
from adapt_ray.errors import InputError

# Nothing is sent anywhere, and Ray's own chatter leaves the terminal to our progress lines.
_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread left over must not join somebody else's Ray
    # A group that is preempted is started again, and its run goes on: warnings change nothing.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Light drivers beside their workers are meant, not a mistake to be warned of.
    "RAY_worker_maximum_startup_concurrency": "16",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


_LOGGERS = {
    "ray": logging.WARNING,
    "ray.train": logging.ERROR,
    "ray.tune": logging.CRITICAL,  # the progress says which configuration failed, and why
    # Says on every start that the token that it has just written is asked for.
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
}


class Session:
    """Joins a Ray cluster, or starts a local Ray, on first use; leaves it on exit.

    A job whose stages are all done never starts Ray.
    """

    def __init__(self, resources: ResourcesConfig) -> None:
        self._resources = resources
        self._started = False

    def start(self) -> None:
        """Connect if not yet connected. Raises InputError when the address does not answer."""
        if self._started:
            return
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        address = self._resources.address or os.environ.get("RAY_ADDRESS")
        if address is None:
            _use_loopback()
        for name, level in _LOGGERS.items():
            logging.getLogger(name).setLevel(level)
        try:
            ray.init(
                address=address or "local",
                runtime_env=_local_python() if address is None else None,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except ConnectionError as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"resources.address {address!r}: no Ray cluster answers ({reason})"
            ) from None
        self._started = True
        ray.data.DataContext.get_current().enable_progress_bars = False
        for handler in logging.getLogger("ray.data").handlers:
            handler.setLevel(logging.ERROR)
        if address is None:
            self._check_fits()

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._started:
            ray.shutdown()

    def concurrent_runs(self) -> int:
        """Return how many runs fit beside each other on the cluster as it is now, at least 1."""
        have = ray.cluster_resources()
        need = self._resources
        fits = have.get("CPU", 0) // (need.workers * need.cpus_per_worker)
        if need.gpus_per_worker:
            fits = min(fits, have.get("GPU", 0) // (need.workers * need.gpus_per_worker))
        return max(1, int(fits))

    def cpus(self) -> int:
        """Return the cluster's CPUs as it is now, at least 1."""
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _check_fits(self) -> None:
        """Refuse a run that this machine can never place: Ray would wait for ever."""
        have = ray.cluster_resources()
        for unit, each in (
            ("CPU", self._resources.cpus_per_worker),
            ("GPU", self._resources.gpus_per_worker),
        ):
            asked = each * self._resources.workers
            if asked > have.get(unit, 0):
                raise InputError(
                    f"resources: {self._resources.workers} worker(s) of {each:g} {unit} ask for "
                    f"{asked:g}, this machine has {have.get(unit, 0):g}"
                )


def _local_python() -> dict[str, str]:
    """Return a runtime environment in which this interpreter may lie below a folder with spaces.

    Ray hands the path of the interpreter to a shell as it stands.
    """
    quoted = shlex.quote(sys.executable)
    return {} if quoted == sys.executable else {"py_executable": quoted}


def _use_loopback() -> None:
    """Let workers on this machine find each other where the host name means loopback."""
    try:
        own = socket.gethostbyname(socket.gethostname())
    except OSError:
        own = "127.0.0.1"
    if own.startswith("127."):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
