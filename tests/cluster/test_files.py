"""The files of ``cluster/``, validated as far as can be without a cloud.

Ray's launcher files go through Ray's own validation and its autoscaler's scheduler, the Kubernetes
manifests through what the CRDs of two KubeRay releases say, the Slurm script is run with stand-ins
for Slurm and Ray, and every shell script goes through ShellCheck.
"""

import copy
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from adapt_ray.config import SweepJob, parse
from adapt_ray.distributed.session import Session

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
HERE = Path(__file__).parent
RELEASES = ("1.5.1", "1.7.0")
LAUNCHERS = ("aws.yaml", "gcp.yaml")
# vCPUs and GPUs of the instance types, as the clouds publish them.
INSTANCES = {
    "m7i.xlarge": (4, 0),
    "g6.2xlarge": (8, 1),
    "e2-standard-4": (4, 0),
    "g2-standard-8": (8, 1),
}


def load(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


# ---------------------------------------------------------------------------------------------
# Ray's cluster launcher


@pytest.fixture(params=LAUNCHERS)
def launcher(request: pytest.FixtureRequest) -> Any:
    """Return a launcher file as Ray completes it, validated by Ray."""
    config = prepare_config(load(request.param))
    validate_config(config)
    return config


def launched(config: Any, demands: list[dict[str, float]], **availability: float) -> dict[str, int]:
    """Return the nodes that Ray's autoscaler would launch, by type."""
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=AutoscalingConfig(copy.deepcopy(config)).get_node_type_configs(),
        max_num_nodes=config["max_workers"] + 1,
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(demand) for demand in demands]
        ),
        recoverable_resource_availabilities=availability,
        cloud_resource_availabilities=availability,
    )
    reply = ResourceDemandScheduler().schedule(request)
    return {each.instance_type: each.count for each in reply.to_launch}


def test_without_work_there_are_no_workers(launcher: Any) -> None:
    assert launched(launcher, []) == {}
    assert launcher["idle_timeout_minutes"] <= 15
    assert not any(each["min_workers"] for each in launcher["available_node_types"].values())


def test_spot_instances_first_and_on_demand_ones_where_there_are_none(launcher: Any) -> None:
    runs = [{"CPU": 1.0, "GPU": 1.0}] * 3
    assert launched(launcher, runs) == {"gpu_spot": 3}
    assert launched(launcher, runs, gpu_spot=0.0) == {"gpu_on_demand": 3}
    quarters = [{"CPU": 1.0, "GPU": 0.25}] * 8
    assert launched(launcher, quarters) == {"gpu_spot": 2}


def market(node: Any) -> Any:
    """Return what a node's configuration says of spot capacity."""
    return node.get("InstanceMarketOptions", {}).get("MarketType") or node.get(
        "scheduling", {}
    ).get("provisioningModel")


def test_the_groups_are_what_their_names_say(launcher: Any) -> None:
    types = launcher["available_node_types"]
    markets = {name: market(each["node_config"]) for name, each in types.items()}
    assert str(markets["gpu_spot"]).lower() == "spot"
    assert markets["gpu_on_demand"] is markets["head"] is None
    for each in types.values():
        instance = each["node_config"].get("InstanceType") or each["node_config"]["machineType"]
        assert (each["resources"]["CPU"], each["resources"].get("GPU", 0)) == INSTANCES[instance]


def ray_starts(commands: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the environment and the arguments of every ``ray start``."""
    for command in commands:
        before, found, arguments = command.partition("ray start ")
        if found:
            yield before, shlex.split(arguments)


def test_ray_starts_with_a_token_and_a_dashboard_on_loopback(launcher: Any) -> None:
    assert launcher["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    for role in ("head", "worker"):
        ((environment, arguments),) = ray_starts(launcher[f"{role}_start_ray_commands"])
        assert "RAY_AUTH_MODE=token" in environment
        options = start.make_context("start", arguments).params  # an unknown option raises
        assert options["dashboard_host"] in ("127.0.0.1", "localhost")
        assert options["head"] == (role == "head")


def test_nothing_of_rays_defaults_is_installed(launcher: Any) -> None:
    commands = launcher["head_setup_commands"] + launcher["worker_setup_commands"]
    assert launcher["setup_commands"] == []
    assert not [command for command in commands if "wheel" in command or "conda" in command]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("idle_timout_minutes",), 5),
        (("head_node_type",), "heads"),
        (("available_node_types", "gpu_spot", "priorty"), 1),
        (("available_node_types", "gpu_spot", "min_workers"), 99),
        (("docker", "images"), "IMAGE"),
        (("auth", "user"), "ubuntu"),
    ],
)
def test_rays_validation_would_find_a_mistake(path: tuple[str, ...], value: Any) -> None:
    config = load("aws.yaml")
    here = config
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = value
    with pytest.raises((jsonschema.ValidationError, ValueError, AssertionError, KeyError)):
        validate_config(prepare_config(config))


# ---------------------------------------------------------------------------------------------
# Kubernetes


def errors(document: Any, release: str) -> list[str]:
    """Return what a release's definitions say against a manifest."""
    schemas = json.loads((HERE / f"kuberay-{release}.json").read_text())
    validator = jsonschema.Draft202012Validator(schemas[document["kind"]])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@pytest.fixture(params=["raycluster.yaml", "rayjob.yaml"])
def manifest(request: pytest.FixtureRequest) -> Any:
    return load(f"kuberay/{request.param}")


def cluster_of(manifest: Any) -> Any:
    spec = manifest["spec"]
    return spec["rayClusterSpec"] if manifest["kind"] == "RayJob" else spec


def pods(manifest: Any) -> list[Any]:
    cluster = cluster_of(manifest)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("release", RELEASES)
def test_the_manifests_are_what_kuberay_takes(manifest: Any, release: str) -> None:
    assert manifest["apiVersion"] == "ray.io/v1"
    assert errors(manifest, release) == []


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("entrypoints",), "python"),
        (("backoffLimit",), "3"),
        (("rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("rayClusterSpec", "enableInTreeAutoscaling"), "yes"),
        (("rayClusterSpec", "autoscalerOptions", "idleTimeout"), 60),
        (("rayClusterSpec", "headGroupSpec", "template", "spec", "container"), []),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams"), {"num-cpus": 0}),
        (("rayClusterSpec", "workerGroupSpecs"), [{"groupName": "gpu"}]),
    ],
)
def test_the_definitions_would_find_a_mistake(
    release: str, path: tuple[str, ...], value: Any
) -> None:
    job = load("kuberay/rayjob.yaml")
    here = job["spec"]
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = value
    assert errors(job, release)


def test_the_rules_that_kuberays_controller_adds(manifest: Any, pinned_ray: str) -> None:
    """Of its validation.go: what holds for token authentication, autoscaling and sidecars."""
    cluster = cluster_of(manifest)
    assert cluster["rayVersion"] == pinned_ray  # required where authOptions.mode is token
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    for group in cluster["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
    assert {pod.get("restartPolicy", "Never") for pod in pods(manifest)} == {"Never"}
    if manifest["kind"] == "RayJob":
        spec = manifest["spec"]
        assert spec["submissionMode"] == "SidecarMode"
        assert not {"submitterPodTemplate", "submitterConfig", "deletionStrategy"} & set(spec)
        assert spec["shutdownAfterJobFinishes"]  # ttlSecondsAfterFinished needs it


def test_no_container_runs_as_root_or_without_limits(manifest: Any) -> None:
    restricted = cluster_of(manifest)["autoscalerOptions"]["securityContext"]
    assert restricted["allowPrivilegeEscalation"] is False
    for pod in pods(manifest):
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"] == restricted
            resources = container["resources"]
            assert resources["requests"] == resources["limits"]
            assert {"cpu", "memory"} <= set(resources["limits"])
    worker = cluster_of(manifest)["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_volumes_that_are_mounted_exist(manifest: Any) -> None:
    for pod in pods(manifest):
        named = {volume["name"] for volume in pod["volumes"]}
        mounted = {m["name"] for c in pod["containers"] for m in c["volumeMounts"]}
        assert mounted == named


def test_the_job_uses_all_that_may_be_started() -> None:
    job = load("kuberay/rayjob.yaml")
    _, _, *arguments = shlex.split(job["spec"]["entrypoint"])
    resources = parse(SweepJob, arguments, prog="sweep").config.resources
    (group,) = cluster_of(job)["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    on_one = int(limits["nvidia.com/gpu"]) / resources.gpus_per_worker
    assert resources.runs_at_once == group["maxReplicas"] * on_one
    assert on_one * resources.cpus_per_worker <= int(limits["cpu"])
    # Without it, a cluster that has no workers yet would look too small for more than one run.
    assert Session(resources).concurrent_runs() == resources.runs_at_once


def test_both_manifests_describe_the_same_cluster() -> None:
    one, other = load("kuberay/raycluster.yaml"), load("kuberay/rayjob.yaml")
    for pod in pods(other):
        pod.pop("restartPolicy")
    assert cluster_of(one) == cluster_of(other)


# ---------------------------------------------------------------------------------------------
# The image


def instructions() -> list[tuple[str, str]]:
    text = (CLUSTER / "Containerfile").read_text()
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.M)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if rest]


def test_the_image_holds_what_it_copies_and_runs_as_no_root(root: Path) -> None:
    ignored = (root / ".dockerignore").read_text().splitlines()
    for word, rest in instructions():
        if word == "COPY":
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            for source in sources:
                assert (root / source).exists()
                assert f"!{source}" in ignored
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users[-1] not in ("root", "0")


def test_the_image_and_the_manifests_agree() -> None:
    found = dict(instructions())
    uid = re.search(
        r"--uid (\d+)", " ".join(rest for word, rest in instructions() if word == "RUN")
    )
    assert uid
    for name in ("raycluster.yaml", "rayjob.yaml"):
        for pod in pods(load(f"kuberay/{name}")):
            assert pod["securityContext"]["runAsUser"] == int(uid[1])
            for container in pod["containers"]:
                assert container["workingDir"] == found["WORKDIR"]
                assert container["image"] == "IMAGE"
    assert {load(name)["docker"]["image"] for name in LAUNCHERS} == {"IMAGE"}


def test_the_image_takes_the_pinned_versions(root: Path) -> None:
    runs = " ".join(rest for word, rest in instructions() if word == "RUN")
    expression = re.search(r"\$\((sed -n '[^']+' constraints.txt)\)", runs)
    assert expression
    torch = subprocess.run(
        shlex.split(expression[1]), cwd=root, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"torch==[\d.]+\n", torch.stdout)
    assert "-c constraints.txt" in runs


# ---------------------------------------------------------------------------------------------
# Slurm and shell scripts


def shell_scripts(root: Path) -> list[Path]:
    """Return the project's shell scripts: by their name, or by their first line."""
    found = []
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if {".venv", ".git", "build", "runs", "__pycache__"} & set(parts) or not path.is_file():
            continue
        if path.suffix == ".sh" or (not path.suffix and path.read_bytes()[:20].startswith(b"#!")):
            found.append(path)
    return [path for path in found if b"sh" in path.read_bytes().splitlines()[0]]


def test_shellcheck_has_nothing_to_say(root: Path) -> None:
    scripts = shell_scripts(root)
    assert {"slurm.sh", "run"} <= {path.name for path in scripts}
    checker = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([checker, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# `ray` notes what it was called with, and the token; then does as the test says.
FAKES = {
    "scontrol": 'echo "$@" >>"$FAKE/scontrol"\n[ "$1" != show ] || printf "node1\\nnode2\\n"',
    "srun": 'while [ "$1" != ray ]; do echo "$1" >>"$FAKE/srun"; shift; done\nexec "$@"',
    "ray": 'printf "%s\\n" "$@" >"$FAKE/ray"\nstat -c %a "$RAY_AUTH_TOKEN_PATH" >"$FAKE/mode"\n'
    'cat "$RAY_AUTH_TOKEN_PATH" >"$FAKE/token"\necho "$RAY_AUTH_MODE" >"$FAKE/auth"\n'
    "trap 'exit 143' TERM\n"
    'echo up >"$FAKE/up"\ni=0; while [ "$i" -lt "$FAKE_TICKS" ]; do sleep 0.05; i=$((i+1)); done\n'
    'exit "$FAKE_STATUS"',
}
JOB = ["jobs/sweep.py", "jobs/recipes/demo.yaml", "--storage", "/scratch/runs"]
JOB += ["--resources.gpus_per_worker", "0.5"]


@pytest.fixture
def slurm(tmp_path: Path, root: Path) -> Iterator[Any]:
    """Return what starts the script in a Slurm of stand-ins; what they noted lies in tmp_path."""
    bins = tmp_path / "bin"
    bins.mkdir()
    for name, body in FAKES.items():
        (bins / name).write_text(f"#!/bin/sh\n{body}\n")
        (bins / name).chmod(0o755)
    # The script puts the folder of PYTHON in front: the stand-in for ray must lie there.
    (bins / "python").symlink_to(sys.executable)
    started: list[subprocess.Popen[str]] = []

    def run(ticks: int = 0, status: int = 0) -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{bins}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "FAKE": str(tmp_path),
            "FAKE_TICKS": str(ticks),
            "FAKE_STATUS": str(status),
            "PYTHON": str(bins / "python"),
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "32",
            "SLURM_GPUS_ON_NODE": "4",
            "SLURM_SUBMIT_DIR": str(root),
        }
        command = ["bash", str(CLUSTER / "slurm.sh"), *JOB]
        started.append(
            subprocess.Popen(
                command,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_the_slurm_script_runs_the_job_on_all_nodes(
    slurm: Any, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    process = slurm(status=3)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output  # the job's own status
    name, *arguments = (tmp_path / "ray").read_text().splitlines()
    assert name == "symmetric-run"
    before, after = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    options = curate_and_validate_ray_start_args(list(before))  # refuses what is not for it
    params = start.make_context("start", list(options)).params
    assert (params["num_cpus"], params["num_gpus"]) == (32, 4)
    assert before[:4] == ["--address", "node1:6379", "--min-nodes", "2"]
    assert after[1] == JOB[0]
    job = parse(SweepJob, after[2:], prog="sweep").config
    assert job == parse(SweepJob, [*JOB[1:], "--resources.address", "auto"], prog="sweep").config
    assert job.resources.gpus_per_worker == 0.5  # as given, not the script's


def test_the_slurm_job_has_a_token_of_its_own(slurm: Any, tmp_path: Path) -> None:
    output, _ = slurm().communicate(timeout=60)
    token = (tmp_path / "token").read_text()
    assert len(token) == 64
    assert token not in output
    assert (tmp_path / "mode").read_text() == "600\n"
    assert (tmp_path / "auth").read_text() == "token\n"
    assert list((tmp_path / ".ray").iterdir()) == []
    slurm().communicate(timeout=60)
    assert (tmp_path / "token").read_text() != token


def test_the_time_limit_puts_the_slurm_job_back_into_the_queue(slurm: Any, tmp_path: Path) -> None:
    process = slurm(ticks=2000)
    deadline = time.monotonic() + 60
    while not (tmp_path / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert "requeue 77" in (tmp_path / "scontrol").read_text()
    assert process.returncode == 143, output
    assert list((tmp_path / ".ray").iterdir()) == []


def test_slurm_may_requeue_a_preempted_job() -> None:
    options = re.findall(r"^#SBATCH (\S+)", (CLUSTER / "slurm.sh").read_text(), re.M)
    assert {"--requeue", "--exclusive", "--open-mode=append"} <= set(options)
    assert any(option.startswith("--signal=B:USR1@") for option in options)


# ---------------------------------------------------------------------------------------------
# Secrets


def test_no_file_holds_a_secret(root: Path) -> None:
    secret = re.compile(
        r"AKIA[0-9A-Z]{16}|-----BEGIN|ghp_\w{20}|hf_\w{20}|sk-\w{20}|"
        r"(?i:password|secret_?key|api_?key|auth_token)\s*[:=]\s*['\"]?[\w+/-]{12,}"
    )
    for path in CLUSTER.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert not secret.search(path.read_text()), path


def test_the_slurm_script_is_executable() -> None:
    assert (CLUSTER / "slurm.sh").stat().st_mode & stat.S_IXUSR


def test_the_launcher_refuses_an_unknown_ray_option() -> None:
    with pytest.raises(click.NoSuchOption):
        start.make_context("start", ["--head", "--dashbord-host=0.0.0.0"])
