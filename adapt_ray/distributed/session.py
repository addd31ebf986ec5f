"""The connection to Ray: made when the first stage needs it, never before."""

import logging
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from urllib.parse import urlsplit

import ray
from ray._private import ray_constants

from adapt_ray.beacon import Beacon, lit
from adapt_ray.cli import end_at_once
from adapt_ray.config import ResourcesConfig, absolute_storage
from adapt_ray.distributed.nodes import check_shared
from adapt_ray.errors import InputError, JobError, disk_problem

# Nothing is sent anywhere, and Ray's own chatter leaves the terminal to our progress lines.
_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread left over must not join somebody else's Ray
    # A group that is preempted is started again, and its run goes on: warnings change nothing.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean in workers what they mean in the driver
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job, not only the search
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

    A job whose stages are all done never starts Ray. ``shared`` are the places that the nodes of a
    cluster must share, by the name of their field in the configuration.
    """

    def __init__(self, resources: ResourcesConfig, **shared: str | None) -> None:
        self._resources = resources
        self._shared = shared
        self._started = False
        self._undo = ExitStack()
        self.beacons: list[Beacon] = []  # by which a node that joins later is checked

    def start(self) -> None:
        """Connect if not yet connected.

        Raises InputError when the address does not answer, and when a node does not share what it
        must.
        """
        if self._started:
            return
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        address = self._resources.address or os.environ.get("RAY_ADDRESS")
        named = "resources.address" if self._resources.address else "RAY_ADDRESS"
        if address is None:
            _use_loopback()
            self._undo.enter_context(_on_loopback())
        else:
            _check_address(address, named)
        for name, level in _LOGGERS.items():
            logging.getLogger(name).setLevel(level)
        on_stop = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=address or "local",
                runtime_env=_local_python() if address is None else None,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except ConnectionError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{named} {address!r}: no Ray cluster answers ({reason})") from None
        if callable(on_stop):  # Ray has put its own in its place
            signal.signal(signal.SIGTERM, on_stop)
        self._started = True
        ray.data.DataContext.get_current().enable_progress_bars = False
        for handler in logging.getLogger("ray.data").handlers:
            handler.setLevel(logging.ERROR)
        if address is None:
            self._check_fits()
            return
        for field, place in self._shared.items():
            if place is not None:
                beacon = self._undo.enter_context(lit(absolute_storage(place, field), field))
                check_shared(beacon)
                self.beacons.append(beacon)

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()
        # After an error, threads may be in the middle of a call: Ray goes with the process.
        if self._started and not (error is not None and end_at_once()):
            ray.shutdown()
        elsewhere = isinstance(error, (ray.exceptions.RayError, JobError))
        problem = disk_problem(str(error)) if elsewhere else None
        if problem is not None:
            raise JobError(problem) from None

    def concurrent_runs(self) -> int:
        """Return how many runs go side by side: as given, or as many as fit now, at least 1."""
        if self._resources.runs_at_once is not None:
            return self._resources.runs_at_once
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


def _check_address(address: str, named: str) -> None:
    """Refuse an address where nothing listens: Ray would knock there for two minutes, and die."""
    if address in ("auto", "local"):
        return
    try:
        found = urlsplit(address if "://" in address else f"//{address}")
        host, port = found.hostname, found.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or found.scheme not in ("", "ray"):
        raise InputError(f"{named} is {address!r}; give auto, local, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        raise InputError(f"{named} {address!r}: no Ray cluster answers ({error})") from None


def _local_python() -> dict[str, str]:
    """Return a runtime environment in which this interpreter may lie below a folder with spaces.

    Ray hands the path of the interpreter to a shell as it stands.
    """
    quoted = shlex.quote(sys.executable)
    return {} if quoted == sys.executable else {"py_executable": quoted}


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a local Ray listen on 127.0.0.1 alone: on Linux it would be open to the whole network.

    The switch is meant for desktop systems, where this is the default; only the environment tells
    Ray's other processes, and this one has read it when it imported Ray.
    """
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    own = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(name)
        if own is not None:
            os.environ[name] = own


def _use_loopback() -> None:
    """Let workers on this machine find each other where the host name means loopback."""
    try:
        own = socket.gethostbyname(socket.gethostname())
    except OSError:
        own = "127.0.0.1"
    if own.startswith("127."):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
