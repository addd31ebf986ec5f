import errno
from pathlib import Path

import optuna
import pytest

from adapt_ray.config import Contender, FullConfig, Interval, SearchConfig
from adapt_ray.search.memory import journal, read_points, write_points
from adapt_ray.search.space import Values
from adapt_ray.search.study import ContenderStudy, Score, advance

FULL = Contender(
    method=FullConfig(), space={"training.learning_rate": Interval(low=1e-5, high=1e-3)}
)


def search(storage: optuna.storages.BaseStorage) -> ContenderStudy:
    config = SearchConfig(configurations=3, seeds=2)
    study = ContenderStudy("full", FULL, config, storage=storage)
    advance(study, lambda proposal, seed: Score(0.5 + proposal.number / 10 + seed / 100))
    return study


def seen_from_outside(path: Path) -> list[dict[str, object]]:
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    study = optuna.load_study(study_name="full", storage=optuna.storages.JournalStorage(backend))
    return [trial.params for trial in study.trials]


def tried(study: ContenderStudy) -> list[dict[str, object]]:
    return [dict(racer.proposal.values) for racer in study.racers]


def test_another_process_reads_the_journal_and_a_new_start_begins_it_anew(tmp_path: Path) -> None:
    path = tmp_path / "search" / "name.journal"
    for _ in range(2):
        with journal(str(tmp_path), "name") as storage:
            assert tried(search(storage)) == seen_from_outside(path)
        path.with_name(f"{path.name}.lock").touch()  # what a killed sweep leaves behind


def test_the_same_search_twice_at_once_leaves_the_journal_to_the_first(tmp_path: Path) -> None:
    """The lock is of the open file, not of the process: one process shows what two would."""
    with journal(str(tmp_path), "name") as first:
        study = search(first)
        with journal(str(tmp_path), "name") as second:
            assert tried(search(second)) == tried(study)
        assert seen_from_outside(tmp_path / "search" / "name.journal") == tried(study)
    with journal(str(tmp_path), "name") as third:  # and the next one finds it free
        assert tried(search(third)) == seen_from_outside(tmp_path / "search" / "name.journal")


def test_a_file_system_without_locks_keeps_the_journal_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with journal(str(tmp_path), "name") as storage:
        assert tried(search(storage)) == seen_from_outside(tmp_path / "search" / "name.journal")


def test_the_points_that_a_search_began_with_are_found_again(tmp_path: Path) -> None:
    assert read_points(str(tmp_path), "name") is None
    points: dict[str, list[Values]] = {"full": [{"training.learning_rate": 1e-4}], "plain": []}
    write_points(str(tmp_path), "name", points)
    assert read_points(str(tmp_path), "name") == points
