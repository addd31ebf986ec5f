"""The doctor's judgement; its round over a real cluster is in tests/cluster."""

from dataclasses import replace
from pathlib import Path

import pytest

from adapt_ray.beacon import Beacon, lit
from adapt_ray.config import ModelConfig, ResourcesConfig
from adapt_ray.doctor import Host, Request, as_text, bug_report, clocks, examine, fits, judge
from adapt_ray.errors import InputError
from adapt_ray.prediction.model import settings_at
from tests.distributed.exported import export_tiny


@pytest.fixture(scope="module")
def here(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Host:
    with lit(str(tmp_path_factory.mktemp("storage"))) as beacon:
        return examine(Request(beacon, ModelConfig(name=tiny_model), deepspeed=False))


def problems(here: Host, **node: object) -> list[str]:
    found = judge(here, {"10.0.0.1": replace(here, **node)}, {})  # type: ignore[arg-type]
    return [f"{finding.topic}: {finding.text}" for finding in found if finding.level == "problem"]


def test_a_machine_like_this_one_is_well(here: Host) -> None:
    assert problems(here) == []


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"packages": {"torch": "1.0"}}, "torch 1.0"),
        ({"python": "3.9.1"}, "Python 3.9.1"),
        ({"code": "0" * 12}, "other sources"),
        ({"storage": "does not see there"}, "does not see there"),
        ({"model": "cannot use it: gone"}, "cannot use it"),
        ({"model_digest": "other"}, "differ between machines"),
        ({"free_gib": 0.1}, "0.1 GiB"),
        ({"deepspeed": "cannot import it: no"}, "cannot import it"),
    ],
)
def test_what_differs_on_a_node_is_told(here: Host, node: dict[str, object], told: str) -> None:
    if "packages" in node:
        node = {"packages": {**here.packages, "torch": "1.0"}}
    [problem] = problems(here, **node)
    assert told in problem
    assert "10.0.0.1" in problem


def test_a_silent_node_is_a_problem(here: Host) -> None:
    found = judge(here, {}, {"10.0.0.9": "did not answer within 5 s"})
    [problem] = [finding for finding in found if finding.level == "problem"]
    assert "10.0.0.9 did not answer" in problem.text
    assert "PROBLEM  node" in as_text(found)


def test_clocks_are_compared_between_two_moments() -> None:
    assert clocks(100.0, {"a": 99.0, "b": 106.0}, 102.0)[0].level == "ok"
    [found] = clocks(100.0, {"a": 101.0, "b": 3700.0}, 102.0)
    assert "node b is 3598 s apart" in found.text


def test_an_exported_model_is_looked_at_too(tmp_path: Path, tiny_model: str) -> None:
    model = export_tiny(tmp_path / "model", tiny_model)
    asked = Request(None, str(model), deepspeed=False)
    assert examine(asked).model is None
    assert examine(asked).model_digest == settings_at(str(model)).digest
    (model / "model.safetensors").write_bytes(b"half")
    told = examine(asked)
    assert "model.safetensors" in str(told.model)
    assert told.model_digest is None


@pytest.mark.parametrize(
    ("workers", "scales", "level"), [(2, False, "ok"), (3, False, "problem"), (3, True, "note")]
)
def test_resources(workers: int, scales: bool, level: str) -> None:
    found = fits(ResourcesConfig(workers=workers), cpus=2, gpus=0, scales=scales)
    assert found.level == level
    assert f"{workers} of 2 CPUs" in found.text


def test_the_bug_report_names_no_place(here: Host) -> None:
    told = bug_report(here, {"10.0.0.1": here})
    assert here.packages["torch"] in told
    assert "10.0.0.1" not in told
    assert here.name not in told
    assert "/" not in told.replace("x86_64", "")


def test_a_beacon_is_seen_in_its_storage_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    one, other = (str(tmp_path_factory.mktemp(name)) for name in ("one", "other"))
    with lit(one) as beacon:
        assert beacon.problem() is None
        elsewhere = Beacon(other, beacon.name)
        assert "does not see there" in str(elsewhere.problem())
        with pytest.raises(InputError, match=r"not shared by all nodes: node here .*--storage"):
            elsewhere.require("here")
    assert "does not see there" in str(beacon.problem())
