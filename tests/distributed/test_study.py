"""What a study does around its runs; no Ray is started here."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapt_ray.config import StabilityJob, decode
from adapt_ray.distributed import study as compared
from adapt_ray.distributed import sweep
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.study import Part, Ready, Study
from adapt_ray.errors import InputError, JobError
from adapt_ray.measures import machine
from adapt_ray.records import CURVES_SCHEMA, PREDICTIONS_SCHEMA, RecordStore, RunRecord

Make = Any


def job(folder: Path, **changes: Any) -> StabilityJob:
    values: dict[str, Any] = {
        "storage": str(folder),
        "contenders": {"full": {"method": {"type": "full"}}},
        "seeds": [1, 2, 3, 4],
        "across": {"model.max_tokens": [32, 64]},
    }
    return decode(StabilityJob, values | changes, "test")


@pytest.fixture
def study(tmp_path: Path) -> Make:
    def make(dry_run: bool = True, **changes: Any) -> Study:
        found = job(tmp_path, **changes)
        return Study(found, Session(found.resources), dry_run=dry_run)

    return make


def record(model: str, seed: int, **changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "run_id": f"{model}-{seed}",
        "configuration_id": model,
        "phase": "stability",
        "task": "demo",
        "model": model,
        "contender": "full",
        "method": "full",
        "config_json": "{}",
        "seed": seed,
        "status": "ok",
        "majority_macro_f1": 0.1,
        "epochs": 1,
        "steps": 1,
        "train_seconds": 1000.0,
        "evaluate_seconds": 800.0,
        "new_tokens": 0,
        "inserted_token_share": 0.0,
        "truncated_texts": 0,
        "precision": "fp32",
        "engine": "plain",
        "world_size": 2,
        "corpus_digest": "x",
        "versions_json": "{}",
        "machine": machine(),
        "git_revision": "x",
        "started_at": "2024-05-01T12:00:00+00:00",
    }
    return RunRecord(**(values | changes))


def test_what_fails_is_told_and_the_others_run(
    study: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    played: list[object] = []
    reported: list[RunRecord] = []

    def prepare(self: Study, part: Part) -> Ready:
        ran.append(f"prepare {part.label}")
        if part.label == "32":
            raise InputError("data.source does not exist")
        comparison: Any = SimpleNamespace(stage=lambda: nullcontext("here"))
        return Ready(part, comparison, [part.label])  # type: ignore[list-item]

    def finish(self: Study, one: Ready) -> None:
        ran.append(f"finish {one.part.label}")
        if one.part.label == "64":
            raise JobError("full: 1 of 4 runs did not finish")

    monkeypatch.setattr(Study, "_prepare", prepare)
    monkeypatch.setattr(Study, "_finish", finish)
    monkeypatch.setattr(Study, "_report", lambda self, runs: reported.extend(runs))
    monkeypatch.setattr(sweep, "run_all", lambda stage, runs: played.append((stage, runs)))
    monkeypatch.setattr(compared, "records_of", lambda storage, runs: [record(r, 1) for r in runs])
    with pytest.raises(JobError, match=r"2 of 3 combinations did not finish.* The first: 32: data"):
        study(dry_run=False, across={"model.max_tokens": [32, 64, 96]}).run()
    assert ran == ["prepare 32", "prepare 64", "prepare 96", "finish 64", "finish 96"]
    assert played == [("here", ["64", "96"])]
    # What is finished of a combination that failed is reported too.
    assert [run.model for run in reported] == ["64", "96"]
    told = capsys.readouterr().err
    assert "failed: 32: data.source" in told
    assert "failed: 64: full: 1 of 4 runs" in told


def test_recorded_runs_of_this_machine_tell_the_hours(
    study: Make, tmp_path: Path, tiny_model: str
) -> None:
    store = RecordStore(str(tmp_path))
    elsewhere = {"machine": "another", "train_seconds": 9e9}
    for one in (record(tiny_model, 1), record("other", 1, train_seconds=9e9),
                record(tiny_model, 2, **elsewhere)):  # fmt: skip
        store.write(one, PREDICTIONS_SCHEMA.empty_table(), CURVES_SCHEMA.empty_table())
    made = study(model={"name": tiny_model})
    made.check()
    # 1,800 s on two workers are an hour; eight runs of them are to do.
    assert "0 of 8 runs done; the others take about 8 GPU-hours" in made.status()


def test_a_combination_left_without_contenders_is_an_error(study: Make) -> None:
    contenders = {"adapt": {"method": {"type": "adapt", "sparsity": 0.9}}}
    with pytest.raises(InputError, match=r"32: contender 'adapt': .*hold only 0.47"):
        study(contenders=contenders, skip_impossible=True).check()


def test_contenders_that_a_model_cannot_hold_are_left_out_and_told(study: Make) -> None:
    contenders = {
        "full": {"method": {"type": "full"}},
        "adapt": {"method": {"type": "adapt", "sparsity": 0.9}},
    }
    made = study(contenders=contenders, skip_impossible=True, across={"model.max_tokens": [32]})
    made.check()
    assert "32: left out adapt, contender 'adapt': method.sparsity is 0.9" in made.status()
    with pytest.raises(InputError, match="hold only 0.47"):
        study(contenders=contenders).check()


def test_reports_of_combinations_lie_below_that_of_the_study(study: Make, tmp_path: Path) -> None:
    made = study(table="macro_f1")
    assert [part.job.report for part in made.parts] == [
        f"{tmp_path}/reports/macro_f1/{label}" for label in ("32", "64")
    ]
