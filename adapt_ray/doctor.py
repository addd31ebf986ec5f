"""What a run will need, looked at on every machine that takes part, and judged."""

import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement

from adapt_ray import measures
from adapt_ray.artifacts import digest_file, digest_json
from adapt_ray.beacon import Beacon
from adapt_ray.config import ModelConfig, ResourcesConfig
from adapt_ray.errors import InputError
from adapt_ray.mining.closed import mine_closed
from adapt_ray.modeling import check_model
from adapt_ray.prediction.model import settings_at
from adapt_ray.pretrained import model_digest

_MOST_CLOCK_SECONDS = 5.0  # between machines: mining.max_seconds ends at a time of day
_LEAST_FREE_GIB = 2.0
_GIB = 1 << 30
HERE = "this process"

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Request:
    """What to look for on a machine."""

    beacon: Beacon | None  # None: storage is not asked about
    model: ModelConfig | str | None  # a pretrained model, or the place of an exported one
    deepspeed: bool


@dataclass(frozen=True)
class Host:
    """What a machine says of itself; ``storage``, ``model`` and ``deepspeed`` say what is wrong."""

    name: str
    python: str
    packages: Mapping[str, str]
    code: str  # digest of the package's sources, 12 hex digits
    processor: str
    cpus: int
    memory_gib: float
    free_gib: float  # where temporary files go
    gpus: tuple[str, ...]
    cuda: str | None  # what torch was built for
    precision: str  # what ``auto`` means there
    kernel_seconds: float  # of the first search
    storage: str | None = None
    model: str | None = None
    model_digest: str | None = None
    deepspeed: str | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    topic: str
    text: str


def examine(request: Request) -> Host:
    """Look at the machine that this runs on."""
    model, digest = _model(request.model) if request.model else (None, None)
    gpus = range(torch.cuda.device_count())
    return Host(
        name=socket.gethostname(),
        python=platform.python_version(),
        packages={name: metadata.version(name) for name in measures.PACKAGES},
        code=code_digest(),
        processor=measures.machine(),
        cpus=os.cpu_count() or 1,
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB,
        free_gib=shutil.disk_usage(tempfile.gettempdir()).free / _GIB,
        gpus=tuple(torch.cuda.get_device_name(index) for index in gpus),
        cuda=torch.version.cuda,
        precision=measures.resolve_precision("auto"),
        kernel_seconds=_kernel_seconds(),
        storage=request.beacon.problem() if request.beacon else None,
        model=model,
        model_digest=digest,
        deepspeed=_deepspeed() if request.deepspeed else None,
    )


def code_digest() -> str:
    """Return a digest of the package's sources: nodes must run the same code as the driver."""
    folder = Path(__file__).parent
    files = sorted(folder.rglob("*.py"))
    return digest_json({str(p.relative_to(folder)): digest_file(p) for p in files})[:12]


def judge(here: Host, nodes: Mapping[str, Host], silent: Mapping[str, str]) -> list[Finding]:
    """Say what is well and what is not, of the driver's machine and of every node.

    ``nodes`` are by address, and ``silent`` says why others did not answer.
    """
    everyone = {HERE: here, **nodes}
    found = [_versions(here), *_alike(here, nodes)]
    found += [Finding("problem", "node", f"{node} {why}") for node, why in silent.items()]
    found += _by_host("storage", {name: host.storage for name, host in everyone.items()})
    found += _model_findings(everyone)
    found += _by_host("deepspeed", {name: host.deepspeed for name, host in everyone.items()})
    found += list(_machines(everyone))
    slowest = max(everyone.values(), key=lambda host: host.kernel_seconds)
    text = f"compiled; the first search took at most {slowest.kernel_seconds:.1f} s"
    return [*found, Finding("ok", "kernels", text)]


def fits(resources: ResourcesConfig, cpus: float, gpus: float, *, scales: bool) -> Finding:
    """Judge whether a run's workers fit a cluster; one that ``scales`` may get more nodes."""
    asked = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    wanted = {unit: each * resources.workers for unit, each in asked.items()}
    have = {"CPU": cpus, "GPU": gpus}
    text = ", ".join(f"{wanted[u]:g} of {have[u]:g} {u}s" for u in wanted if wanted[u] or have[u])
    if all(wanted[unit] <= have[unit] for unit in wanted):
        return Finding("ok", "resources", f"one run takes {text}")
    text = f"one run asks for {text} that are there now"
    if scales:
        return Finding("note", "resources", f"{text}; it waits until nodes are added")
    return Finding("problem", "resources", f"{text}; lower resources.workers or add nodes")


def as_text(findings: Sequence[Finding]) -> str:
    """Return one line a finding, problems in capitals."""
    width = max(len(finding.topic) for finding in findings)
    marks = {"ok": "ok", "note": "note", "problem": "PROBLEM"}
    return "\n".join(f"{marks[f.level]:8} {f.topic.ljust(width)}  {f.text}" for f in findings)


def bug_report(here: Host, nodes: Mapping[str, Host]) -> str:
    """Return the facts that somebody who helps needs; no path, address or name of a host."""
    lines = [
        f"adapt_ray {metadata.version('adapt_ray')}, revision {measures.git_revision()}, "
        f"sources {here.code}",
        f"Python {here.python}, {platform.system()} {platform.release()} {platform.machine()}",
        _listed(here.packages),
    ]
    lines += [
        f"{'driver' if number == 0 else f'node {number}'}: {_hardware(host)}"
        for number, host in enumerate([here, *nodes.values()])
    ]
    return "\n".join(lines)


def _versions(here: Host) -> Finding:
    wrong = list(_outside_bounds())
    if wrong:
        return Finding("problem", "versions", "; ".join(wrong))
    return Finding("ok", "versions", f"Python {here.python}, {_listed(here.packages)}")


def _outside_bounds() -> Iterator[str]:
    """Yield what of the package's own requirements this environment does not meet."""
    for line in metadata.requires("adapt_ray") or ():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield f"{requirement.name} is not installed; needed: {requirement.specifier}"
            continue
        if not requirement.specifier.contains(version.partition("+")[0], prereleases=True):
            yield f"{requirement.name} is {version}; needed: {requirement.specifier}"


def _alike(here: Host, nodes: Mapping[str, Host]) -> Iterator[Finding]:
    """Compare what must be the same everywhere."""
    for node, host in nodes.items():
        differing = [
            f"{name} {host.packages[name]} (here {version})"
            for name, version in here.packages.items()
            if host.packages[name].partition("+")[0] != version.partition("+")[0]
        ]
        if host.python.rpartition(".")[0] != here.python.rpartition(".")[0]:
            differing.append(f"Python {host.python} (here {here.python})")
        if differing:
            yield Finding("problem", "versions", f"node {node} has {', '.join(differing)}")
        if host.code != here.code:
            yield Finding(
                "problem",
                "code",
                f"node {node} has other sources of adapt_ray ({host.code}, here {here.code}); "
                "submit with --working-dir ., or rebuild the image",
            )


def clocks(asked: float, told: Mapping[str, float], heard: float) -> list[Finding]:
    """Judge what the nodes' clocks said between two moments of this one, in seconds."""
    found = []
    for node, clock in told.items():
        apart = max(asked - clock, clock - heard, 0.0)
        if apart > _MOST_CLOCK_SECONDS:
            text = f"node {node} is {apart:.0f} s apart; mining.max_seconds would end early or late"
            found.append(Finding("problem", "clock", text))
    return found or [Finding("ok", "clock", f"within {_MOST_CLOCK_SECONDS:g} s on every node")]


def _by_host(topic: str, problems: Mapping[str, str | None]) -> list[Finding]:
    found = [Finding("problem", topic, f"{n} {why}") for n, why in problems.items() if why]
    return found or [Finding("ok", topic, "well on every machine")]


def _model_findings(everyone: Mapping[str, Host]) -> list[Finding]:
    found = _by_host("model", {name: host.model for name, host in everyone.items()})
    digests = {host.model_digest for host in everyone.values() if host.model_digest}
    if len(digests) > 1:
        listed = ", ".join(f"{name}: {host.model_digest}" for name, host in everyone.items())
        found = [Finding("problem", "model", f"its files differ between machines ({listed})")]
    return found


def _machines(everyone: Mapping[str, Host]) -> Iterator[Finding]:
    for name, host in everyone.items():
        yield Finding("ok", "machine", f"{name}: {_hardware(host)}")
        if host.free_gib < _LEAST_FREE_GIB:
            text = f"{name}: {host.free_gib:.1f} GiB are free for temporary files"
            yield Finding("problem", "disk", text)
        if not host.gpus and Path("/proc/driver/nvidia/version").exists() and name == HERE:
            text = "there is an NVIDIA driver, but torch sees no GPU; install torch's CUDA build"
            yield Finding("problem", "machine", text)


def _hardware(host: Host) -> str:
    gpus = ", ".join(host.gpus) or "no GPU"
    return (
        f"{host.cpus} CPUs, {host.memory_gib:.0f} GiB, {host.free_gib:.0f} GiB of temporary disk, "
        f"{gpus}, torch for {f'CUDA {host.cuda}' if host.cuda else 'CPUs'}, auto precision "
        f"{host.precision}"
    )


def _listed(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _model(model: ModelConfig | str) -> tuple[str | None, str | None]:
    try:
        if isinstance(model, str):
            return None, settings_at(model).digest
        check_model(model)
        return None, model_digest(model.name)
    except InputError as error:
        return f"cannot use it: {error}", None


def _kernel_seconds() -> float:
    started = time.perf_counter()
    mine_closed([[3, 1, 4], [3, 9, 4]], min_support=2, max_gap=1)
    return time.perf_counter() - started


def _deepspeed() -> str | None:
    try:
        import deepspeed  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"cannot import it: {error}"
    return None
