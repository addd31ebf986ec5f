from pathlib import Path

import optuna

from adapt_ray.config import Contender, FullConfig, Interval, SearchConfig
from adapt_ray.search.memory import journal, read_points, write_points
from adapt_ray.search.space import Values
from adapt_ray.search.study import ContenderStudy, Score, advance

FULL = Contender(
    method=FullConfig(), space={"training.learning_rate": Interval(low=1e-5, high=1e-3)}
)


def search(path: Path) -> ContenderStudy:
    config = SearchConfig(configurations=3, seeds=2)
    study = ContenderStudy("full", FULL, config, storage=journal(path))
    advance(study, lambda proposal, seed: Score(0.5 + proposal.number / 10 + seed / 100))
    return study


def test_another_process_reads_the_journal_and_a_new_start_begins_it_anew(tmp_path: Path) -> None:
    path = tmp_path / "search" / "name.journal"
    for _ in range(2):
        study = search(path)
        path.with_name(f"{path.name}.lock").touch()  # what a killed sweep leaves behind
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        path.with_name(f"{path.name}.lock").unlink()
        seen = optuna.load_study(study_name="full", storage=optuna.storages.JournalStorage(backend))
        assert [trial.params for trial in seen.trials] == [
            dict(racer.proposal.values) for racer in study.racers
        ]
        path.with_name(f"{path.name}.lock").touch()


def test_the_points_that_a_search_began_with_are_found_again(tmp_path: Path) -> None:
    assert read_points(str(tmp_path), "name") is None
    points: dict[str, list[Values]] = {"full": [{"training.learning_rate": 1e-4}], "plain": []}
    write_points(str(tmp_path), "name", points)
    assert read_points(str(tmp_path), "name") == points
