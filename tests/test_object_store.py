"""What jobs keep, in an object store: a real client against a local server that speaks S3."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import torch
from moto.server import ThreadedMotoServer

from adapt_ray.artifacts import ArtifactStore, Stage, check_place
from adapt_ray.beacon import lit
from adapt_ray.errors import InputError
from adapt_ray.export import load
from adapt_ray.export_place import exporting_to
from adapt_ray.prediction.model import local_copy, settings_at
from adapt_ray.records import CURVES_SCHEMA, PREDICTIONS_SCHEMA, RecordStore
from adapt_ray.search.memory import read_points, write_points
from adapt_ray.training.checkpoint import Checkpoints, discard, last_saved
from adapt_ray.training.world import World
from tests.distributed.exported import export_tiny
from tests.test_artifacts import Text
from tests.test_records import record
from tests.training.test_checkpoint import loaded, writing


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Return the URI of a new bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    name = tmp_path.name.replace("_", "-")
    pafs.FileSystem.from_uri(f"s3://{name}?allow_bucket_creation=true")[0].create_dir(name)
    return f"s3://{name}"


def test_artifacts(bucket: str) -> None:
    store = ArtifactStore(f"{bucket}/runs")
    stage = Stage("texts", 1, {}, {})
    assert store.find(stage) is None
    published = store.publish(stage, Text("one"), {"note": 1})
    again = ArtifactStore(f"{bucket}/runs")
    assert again.find(stage) == published
    assert again.load(Text, published) == Text("one")
    assert store.location(published).startswith(f"{bucket}/runs/artifacts/texts/")


def test_records(bucket: str) -> None:
    store = RecordStore(f"{bucket}/runs")
    assert store.get("r1", "demo", "adapt") is None
    assert len(store.all()) == 0
    for run in (record(), record(run_id="r2", seed=101)):
        store.write(run, PREDICTIONS_SCHEMA.empty_table(), CURVES_SCHEMA.empty_table())
    assert store.get("r2", "demo", "adapt") == record(run_id="r2", seed=101)
    assert store.all("demo")["run_id"].to_pylist() == ["r1", "r2"]
    assert len(store.predictions("r1")) == 0


def test_checkpoints(bucket: str) -> None:
    world = World(0, 1, torch.device("cpu"))
    checkpoints = Checkpoints(f"{bucket}/runs", "run", world, {"workers": 1})
    assert loaded(checkpoints) == (None, {})
    for step in (3, 7):
        checkpoints.save(step, writing(str(step)), {"at": step})
    assert last_saved(f"{bucket}/runs", "run") == "step-7"
    assert loaded(checkpoints) == ({"at": 7}, {"weights": "7", "deep/moments": "77"})
    discard(f"{bucket}/runs", "run")
    assert last_saved(f"{bucket}/runs", "run") == ""
    assert loaded(checkpoints) == (None, {})


def test_exported_models(bucket: str, tmp_path: Path, tiny_model: str) -> None:
    here = export_tiny(tmp_path / "here", tiny_model)
    with exporting_to(f"{bucket}/models/demo") as folder:
        export_tiny(folder, tiny_model)
    assert settings_at(f"{bucket}/models/demo").digest == settings_at(str(here)).digest
    text = ["the order never came"]
    there = load(local_copy(f"{bucket}/models/demo"))
    assert there.logits(text).tolist() == load(here).logits(text).tolist()


def test_what_a_search_began_with(bucket: str) -> None:
    assert read_points(f"{bucket}/runs", "name") is None
    write_points(f"{bucket}/runs", "name", {"full": [{"training.learning_rate": 1e-4}]})
    assert read_points(f"{bucket}/runs", "name") == {"full": [{"training.learning_rate": 1e-4}]}


def test_a_beacon_is_seen_by_everybody_and_put_out(bucket: str) -> None:
    with lit(f"{bucket}/runs") as beacon:
        assert beacon.problem() is None
        assert dataclasses.replace(beacon, storage=f"{bucket}/other").problem() is not None
    assert beacon.problem() == "does not see there what the driver has written"


def test_a_bucket_that_is_not_there_is_told_before_anything_starts(bucket: str) -> None:
    check_place(f"{bucket}/runs")
    with pytest.raises(InputError, match=r"output 's3://nowhere-at-all/x': there is no bucket"):
        check_place("s3://nowhere-at-all/x", "output")
