from types import SimpleNamespace
from typing import Any

import pytest

from adapt_ray.config import SearchConfig
from adapt_ray.distributed.sweep import Trial, winners
from adapt_ray.errors import JobError
from adapt_ray.search.study import Fate, Proposal, Racer, Score


def trial(
    name: str, number: int, scores: list[float], fate: Fate = "finished", flops: float = 1.0
) -> Trial:
    told = {seed: Score(score, flops) for seed, score in enumerate(scores)}
    plan: Any = None
    return Trial(Racer(Proposal(name, number, {}), told, fate), plan)


def plan(*objectives: str) -> Any:
    config = SearchConfig.model_validate({"objectives": objectives or ("macro_f1",)})
    return SimpleNamespace(contenders={"a": None, "b": None}, config=config)


def numbers(found: list[Trial]) -> list[tuple[str, int]]:
    return [(each.proposal.contender, each.proposal.number) for each in found]


def test_the_best_mean_of_what_ran_all_its_seeds_wins_and_ties_go_to_the_earlier() -> None:
    trials = [
        trial("a", 0, [0.5, 0.6]),
        trial("a", 1, [0.9], "dropped"),
        trial("a", 2, [0.7, 0.7]),
        trial("a", 3, [0.6, 0.8]),
        trial("b", 0, [0.1, 0.1]),
    ]
    assert numbers(winners(trials, plan())) == [("a", 2), ("b", 0)]


def test_several_objectives_send_the_whole_front_into_the_comparison() -> None:
    trials = [
        trial("a", 0, [0.6, 0.8], flops=5.0),  # best mean
        trial("a", 1, [0.6, 0.6], flops=5.0),  # steadiest
        trial("a", 2, [0.5, 0.7], flops=5.0),  # beaten by the first in the mean, by none elsewhere
        trial("a", 3, [0.4, 0.8], flops=1.0),  # cheapest
        trial("b", 0, [0.1, 0.2]),
    ]
    front = winners(trials, plan("macro_f1", "macro_f1_sd", "train_flops"))
    assert numbers(front) == [("a", 0), ("a", 1), ("a", 3), ("b", 0)]


def test_a_contender_without_a_finished_configuration_is_told() -> None:
    with pytest.raises(JobError, match="b: no configuration finished"):
        winners([trial("a", 0, [0.5]), trial("b", 0, [], "failed")], plan())
