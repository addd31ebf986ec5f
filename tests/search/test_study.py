import math
from collections.abc import Set

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_ray.config import (
    AdaptConfig,
    Contender,
    FullConfig,
    Interval,
    Options,
    SearchConfig,
    TrainingConfig,
)
from adapt_ray.search.fixed import FixedRuns
from adapt_ray.search.racing import BoolArray, FloatArray
from adapt_ray.search.space import own_point
from adapt_ray.search.study import ContenderStudy, Proposal, Score, Study, advance

ADAPT = Contender(
    method=AdaptConfig(alpha=0.5),
    space={
        "method.alpha": Interval(low=1e-3, high=1.0),
        "method.sparsity": (0.05, 0.1, 0.2),
        "training.learning_rate": Interval(low=1e-5, high=1e-3),
    },
)
FULL = Contender(
    method=FullConfig(),
    set={"training.learning_rate": 5e-5},
    space={"training.learning_rate": Interval(low=1e-5, high=1e-3)},
)
Run = tuple[Proposal, int]


def score_of(proposal: Proposal, seed: int) -> Score:
    """Stand in for a run: best at a learning rate of 1e-4, with noise that the seed decides."""
    rate = float(str(proposal.values.get("training.learning_rate", 1e-4)))
    noise = np.random.default_rng([proposal.number, seed]).normal(0, 0.01)
    return Score(0.9 - abs(math.log10(rate) + 4) / 10 + float(noise), train_flops=rate)


def unknown(proposal: Proposal, seed: int) -> Score | None:
    return None


def play(
    study: Study, rng: np.random.Generator, known: Set[tuple[int, int]] = frozenset()
) -> list[Run]:
    """Run a study to its end, the runs in flight ending in a random order; return what was run."""

    def look_up(proposal: Proposal, seed: int) -> Score | None:
        return score_of(proposal, seed) if (proposal.number, seed) in known else None

    done: list[Run] = []
    flying = list(advance(study, look_up).runs)
    while flying:
        proposal, seed = flying.pop(int(rng.integers(len(flying))))
        done.append((proposal, seed))
        study.tell(proposal.number, seed, score_of(proposal, seed))
        flying += advance(study, look_up).runs
    assert study.is_done
    return done


def table(study: Study) -> list[tuple[object, ...]]:
    """Return everything that a search found."""
    return [
        (dict(racer.proposal.values), sorted(racer.scores.items()), racer.fate)
        for racer in study.racers
    ]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "nsga2"])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_what_is_found_does_not_depend_on_which_run_ends_first(
    sampler: str, concurrency: int
) -> None:
    search = SearchConfig.model_validate(
        {"configurations": 8, "seeds": 4, "concurrency": concurrency, "sampler": sampler}
    )
    found = []
    for order in range(3):
        study = ContenderStudy("adapt", ADAPT, search)
        play(study, np.random.default_rng(order))
        found.append(table(study))
    assert found[0] == found[1] == found[2]
    assert len({str(values) for values, _, _ in found[0]}) == 8  # no proposal twice


@settings(max_examples=12, deadline=None)
@given(cut=st.integers(0, 60), concurrency=st.integers(1, 4))
def test_a_killed_search_goes_on_as_the_undisturbed_one(cut: int, concurrency: int) -> None:
    """Whatever was finished when it died, the rest is run once and the end is the same."""
    search = SearchConfig(configurations=6, seeds=5, concurrency=concurrency)
    undisturbed = ContenderStudy("full", FULL, search)
    runs = play(undisturbed, np.random.default_rng(0))
    finished = {(proposal.number, seed) for proposal, seed in runs[:cut]}
    again = ContenderStudy("full", FULL, search)
    rest = play(again, np.random.default_rng(1), finished)
    assert table(again) == table(undisturbed)
    assert {(p.number, s) for p, s in rest} == {(p.number, s) for p, s in runs} - finished
    assert len(rest) == len({(p.number, s) for p, s in rest})


class LastOfEachRound:
    """A rule that drops the worst of those that race, and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[FloatArray, BoolArray]] = []

    def drops(self, scores: FloatArray, racing: BoolArray) -> BoolArray:
        self.shown.append((scores.copy(), racing.copy()))
        dropped = np.zeros(len(racing), bool)
        if racing.sum() > 1:
            means = np.where(racing, np.nanmean(scores, axis=1), np.inf)
            dropped[means.argmin()] = True
        return dropped


def test_a_batch_is_raced_in_rounds_and_the_dropped_run_no_more() -> None:
    rule = LastOfEachRound()
    search = SearchConfig(configurations=8, seeds=5, concurrency=4)
    study = ContenderStudy("full", FULL, search, rule=rule)
    runs = play(study, np.random.default_rng(3))
    for start in (0, 4):
        seeds = sorted(len(racer.scores) for racer in study.racers[start : start + 4])
        assert seeds == [1, 2, 3, 5]
    assert [racer.fate for racer in study.racers].count("finished") == 2
    assert len(runs) == 2 * (1 + 2 + 3 + 5)
    for scores, racing in rule.shown:  # a round is judged when all that race have run it
        ran = (~np.isnan(scores)).sum(axis=1)
        assert len(set(ran[racing])) == 1


@pytest.mark.parametrize(
    "change", [{"racing": False}, {"objectives": ("macro_f1", "macro_f1_sd", "train_flops")}]
)
def test_all_seeds_run_at_once_where_nothing_is_raced(change: dict[str, object]) -> None:
    search = SearchConfig(configurations=5, seeds=3, concurrency=2).model_copy(update=change)
    study = ContenderStudy("full", FULL, search)
    assert len(advance(study, unknown).runs) == 6
    study = ContenderStudy("full", FULL, search)
    assert len(play(study, np.random.default_rng(0))) == 15
    assert {racer.fate for racer in study.racers} == {"finished"}


def test_optuna_sees_one_trial_a_configuration_with_the_mean_or_that_it_was_pruned() -> None:
    storage = optuna.storages.InMemoryStorage()
    search = SearchConfig(configurations=8, seeds=4, concurrency=4)
    study = ContenderStudy("full", FULL, search, rule=LastOfEachRound(), storage=storage)
    play(study, np.random.default_rng(0))
    trials = optuna.load_study(study_name="full", storage=storage).trials
    assert len(trials) == 8
    for trial, racer in zip(trials, study.racers, strict=True):
        assert trial.params == dict(racer.proposal.values)
        steps = {seed: score.macro_f1 for seed, score in racer.scores.items()}
        assert trial.intermediate_values == steps
        if racer.fate == "dropped":
            assert trial.state == optuna.trial.TrialState.PRUNED
        else:
            assert trial.state == optuna.trial.TrialState.COMPLETE
            assert trial.value == pytest.approx(np.mean(list(steps.values())))


def test_several_objectives_are_told_with_their_directions() -> None:
    storage = optuna.storages.InMemoryStorage()
    search = SearchConfig(
        configurations=3, seeds=4, objectives=("macro_f1", "macro_f1_sd", "train_flops")
    )
    study = ContenderStudy("full", FULL, search, storage=storage)
    play(study, np.random.default_rng(0))
    found = optuna.load_study(study_name="full", storage=storage)
    assert [d.name for d in found.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    for trial, racer in zip(found.trials, study.racers, strict=True):
        scores = [score.macro_f1 for score in racer.scores.values()]
        rate = racer.proposal.values["training.learning_rate"]
        assert trial.values == pytest.approx([np.mean(scores), np.std(scores, ddof=1), rate])


def test_the_sampler_learns() -> None:
    search = SearchConfig(configurations=40, seeds=1)
    study = ContenderStudy("full", FULL, search)
    play(study, np.random.default_rng(0))
    found = [racer.scores[0].macro_f1 for racer in study.racers]
    assert np.mean(found[20:]) > np.mean(found[1:10])


def test_given_points_come_first_and_own_settings_are_one() -> None:
    own = own_point(ADAPT, TrainingConfig())
    assert own == {
        "method.alpha": 0.5,
        "method.sparsity": 0.2,
        "training.learning_rate": 2e-4,
    }
    outside = FULL.model_copy(update={"set": {"training.learning_rate": 0.1}})
    assert own_point(outside, TrainingConfig()) == {}
    other = {**own, "method.alpha": 0.01}
    study = ContenderStudy("adapt", ADAPT, SearchConfig(configurations=4), first=[own, own, other])
    play(study, np.random.default_rng(0))
    values = [dict(racer.proposal.values) for racer in study.racers]
    assert values[:2] == [own, other]
    assert own not in values[2:]


CONDITIONAL = Contender(
    method=AdaptConfig(),
    space={
        "method.of": ("model", "encoder"),
        "method.sparsity": Options(choices=(0.05, 0.1), when={"method.of": ("model",)}),
        "training.batch_size": Interval(
            low=2, high=32, whole=True, when={"method.of": ("encoder",)}
        ),
    },
)


def test_conditional_fields_are_proposed_only_where_their_condition_holds() -> None:
    study = ContenderStudy("adapt", CONDITIONAL, SearchConfig(configurations=20, seeds=1))
    play(study, np.random.default_rng(0))
    for racer in study.racers:
        values = racer.proposal.values
        field = "method.sparsity" if values["method.of"] == "model" else "training.batch_size"
        assert set(values) == {"method.of", field}
        if field == "training.batch_size":
            assert isinstance(values[field], int)
            assert values[field] in range(2, 33)


def test_a_grid_takes_every_point_once() -> None:
    space = {
        "method.of": ("model", "encoder"),
        "method.sparsity": Options(choices=(0.05, 0.1, 0.2), when={"method.of": ("model",)}),
    }
    contender = Contender.model_validate({"method": {"type": "adapt"}, "space": space})
    search = SearchConfig(sampler="grid", configurations=2, seeds=1, concurrency=3)
    study = ContenderStudy("adapt", contender, search)
    play(study, np.random.default_rng(0))
    assert [dict(racer.proposal.values) for racer in study.racers] == [
        {"method.of": "model", "method.sparsity": 0.05},
        {"method.of": "model", "method.sparsity": 0.1},
        {"method.of": "model", "method.sparsity": 0.2},
        {"method.of": "encoder"},
    ]


def test_failed_configurations_are_told_and_the_search_goes_on() -> None:
    study = ContenderStudy("full", FULL, SearchConfig(configurations=6, seeds=3, concurrency=2))
    bad = {1, 2, 3}
    flying = list(advance(study, unknown).runs)
    while flying:
        proposal, seed = flying.pop(0)
        if proposal.number in bad:
            study.fail(proposal.number)
        else:
            study.tell(proposal.number, seed, score_of(proposal, seed))
        flying += advance(study, unknown).runs
    assert study.is_done
    assert [racer.fate == "failed" for racer in study.racers] == [n in bad for n in range(6)]
    assert study.racers[1].mean is None


def test_a_contender_without_a_space_is_one_configuration_with_all_its_seeds() -> None:
    study = ContenderStudy("plain", Contender(method=FullConfig()), SearchConfig(seeds=4))
    assert len(advance(study, unknown).runs) == 4
    assert study.wanted == 1


def test_a_score_that_comes_twice_counts_once() -> None:
    study = ContenderStudy("full", FULL, SearchConfig(configurations=2, seeds=3))
    [(proposal, seed)] = advance(study, unknown).runs
    study.tell(proposal.number, seed, Score(0.5))
    study.tell(proposal.number, seed, Score(0.9))
    assert study.racers[0].scores == {0: Score(0.5)}


def test_fixed_runs_all_run_seed_by_seed() -> None:
    study = FixedRuns([("a", [100, 101]), ("b", [100, 101, 102])])
    step = advance(study, lambda p, seed: Score(0.5) if (p.number, seed) == (0, 101) else None)
    order = [(proposal.contender, seed) for proposal, seed in step.runs]
    assert order == [("a", 100), ("b", 100), ("b", 101), ("b", 102)]
    for proposal, seed in step.runs:
        study.tell(proposal.number, seed, Score(0.6))
    assert study.is_done
