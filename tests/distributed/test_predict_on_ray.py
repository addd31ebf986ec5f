"""Prediction in Ray Data's actors: the classifier's own answers, and a job that was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import adapt_ray
from adapt_ray.config import PredictData, PredictJob, ResourcesConfig
from adapt_ray.data.synthetic import demo_rows
from adapt_ray.distributed.predict import Prediction
from adapt_ray.distributed.session import Session
from adapt_ray.errors import JobError
from adapt_ray.training.evaluate import score
from tests.distributed.exported import NAMES, export_tiny

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Path:
    return export_tiny(tmp_path_factory.mktemp("exported") / "model", tiny_model)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    rows = demo_rows()["train"]
    ids = [f"id {number}" for number in range(90)]
    return pa.table({"text": list(rows.texts[:90]), "label": list(rows.labels[:90]), "row_id": ids})


def texts_of(table: pa.Table, column: str = "text") -> list[str]:
    return [str(value) for value in table[column].to_pylist()]


def source(folder: Path, table: pa.Table) -> str:
    path = folder / "texts.parquet"
    pq.write_table(table, path, row_group_size=7)
    return str(path)


def test_they_are_the_classifiers_own_from_a_uri_in_several_actors(
    session: Session,
    model: Path,
    table: pa.Table,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = PredictJob(
        model=model.as_uri(),
        output=(tmp_path / "out").as_uri(),
        data=PredictData(
            source=source(tmp_path, table), label_column="label", columns=("row_id", "text")
        ),
        part_rows=25,
        resources=ResourcesConfig(workers=2),
    )
    prediction = Prediction(job, session)
    assert prediction.status()["parts"] == "4, 0 of them done"
    prediction.run()
    assert "tokens a second (tried 512:" in capsys.readouterr().err

    found = pq.read_table(prediction.output.place.removeprefix("file://"))
    texts = texts_of(table)
    expected = adapt_ray.load(model).predict(texts)
    assert len(set(expected.labels)) > 1
    assert found["predicted"].to_pylist() == list(expected.labels)
    values = np.array(found["probabilities"].to_pylist())
    np.testing.assert_allclose(values, expected.probabilities, rtol=1e-4, atol=1e-6)
    assert found["row"].to_pylist() == list(range(90))
    for name in ("row_id", "text"):
        assert found[name].to_pylist() == table[name].to_pylist()
    numbers = {name: number for number, name in enumerate(NAMES)}
    labels, predicted = (
        np.array([numbers[name] for name in names])
        for names in (texts_of(table, "label"), expected.labels)
    )
    macro_f1 = score(labels, predicted, 3).macro_f1
    assert prediction.result()["macro-F1"] == f"{macro_f1:.4f}"

    again = Prediction(job, session)
    assert again.status()["parts"] == "4, 4 of them done"
    monkeypatch.setattr(session, "start", lambda: pytest.fail("Ray was asked for"))
    again.run()


@pytest.mark.slow
def test_a_killed_job_repeats_only_what_was_not_finished(
    session: Session, model: Path, table: pa.Table, tmp_path: Path
) -> None:
    """Killed in a process of its own with kill -9, and continued in this one."""
    out = tmp_path / "out"
    # Long texts: the job must not be done before it is killed.
    long = table.set_column(0, "text", pa.array([40 * text for text in texts_of(table)]))
    given = source(tmp_path, long)
    flags = [f"--model={model}", f"--data.source={given}", f"--output={out}",
             "--part_rows=3", "--batch_tokens=8192"]  # fmt: skip
    log = tmp_path / "killed.log"
    with log.open("w") as sink:
        command = [sys.executable, str(ROOT / "jobs" / "predict.py"), *flags]
        killed = subprocess.Popen(command, cwd=tmp_path, stdout=sink, stderr=sink)
    deadline = time.monotonic() + 120
    while len(list(out.rglob("*.parquet"))) < 3 and time.monotonic() < deadline:
        assert killed.poll() is None, log.read_text()
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    before = _settled(out)
    assert 3 <= len(before) < 30, "the job was done before it was killed"

    job = PredictJob(
        model=str(model),
        output=str(out),
        data=PredictData(source=given),
        part_rows=3,
        batch_tokens=8192,
    )
    prediction = Prediction(job, session)
    assert len(prediction.output.unfinished()) == 30 - len(before)
    prediction.run()
    after = _settled(out)
    assert len(after) == 30
    assert before.items() <= after.items(), "a finished part was written again"
    found = pq.read_table(prediction.output.place)
    expected = adapt_ray.load(model)
    labels = [expected.predict([text]).labels[0] for text in texts_of(long)]
    assert found["predicted"].to_pylist() == labels
    assert not list(out.rglob(".*"))


def _settled(folder: Path) -> dict[str, int]:
    """Return the parts with their times of change, once no actor writes any more."""
    while True:
        found = {str(path): path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
        time.sleep(2)
        if len(list(folder.rglob("*.parquet"))) == len(found):
            return found


def test_what_fails_in_an_actor_is_told_in_one_line(
    session: Session, tiny_model: str, table: pa.Table, tmp_path: Path
) -> None:
    folder = export_tiny(tmp_path / "model", tiny_model)
    data = PredictData(source=source(tmp_path, table))
    job = PredictJob(model=str(folder), output=str(tmp_path / "out"), data=data)
    prediction = Prediction(job, session)
    (folder / "tokens.json").unlink()  # between the check and the actor's turn
    with pytest.raises(JobError, match=r"tokens\.json is missing") as told:
        prediction.run()
    assert "\n" not in str(told.value)
    assert not list((tmp_path / "out").rglob("*.parquet"))
