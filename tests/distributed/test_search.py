import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adapt_ray.config import (
    AdaptConfig,
    Contender,
    FullConfig,
    Interval,
    SearchConfig,
    TrainingConfig,
)
from adapt_ray.distributed.search import ContenderSearch, Proposal, own_point
from adapt_ray.distributed.train import METRIC

CONTENDERS = {
    "adapt": Contender(
        method=AdaptConfig(alpha=0.5),
        space={
            "method.alpha": Interval(low=1e-3, high=1.0),
            "method.sparsity": (0.05, 0.1, 0.2),
            "training.learning_rate": Interval(low=1e-5, high=1e-3),
        },
    ),
    "full": Contender(
        method=FullConfig(),
        set={"training.learning_rate": 5e-5},
        space={"training.learning_rate": Interval(low=1e-5, high=1e-3)},
    ),
    "plain": Contender(method=FullConfig()),
}


def value_of(proposal: Proposal) -> float:
    """Stand in for the mean F1 of a configuration: best at a learning rate of 1e-4."""
    rate = float(str(proposal.values["training.learning_rate"]))
    return 1.0 - abs(math.log10(rate) + 4) / 4


def make(
    configurations: int = 20, concurrency: int = 1, **contenders: Contender
) -> ContenderSearch:
    config = SearchConfig(configurations=configurations, concurrency=concurrency)
    plan_for: Callable[[Proposal], Any] = lambda proposal: proposal  # noqa: E731
    return ContenderSearch(contenders or CONTENDERS, config, TrainingConfig(), plan_for)


def drive(search: ContenderSearch, at_once: int, rng: np.random.Generator) -> list[Proposal]:
    """Play Tune: keep ``at_once`` trials running and end them in a random order."""
    running: dict[str, Proposal] = {}
    started: list[Proposal] = []
    while True:
        while len(running) < at_once:
            found = search.suggest(str(len(started)))
            if not isinstance(found, dict):
                break
            started.append(found["plan"])
            running[str(len(started) - 1)] = found["plan"]
        if not running:
            assert found == search.FINISHED
            return started
        done = str(rng.choice(list(running)))
        proposal = running.pop(done)
        mean = 0.5 if not proposal.values else value_of(proposal)
        search.on_trial_complete(done, {METRIC: mean})


def by_name(proposals: list[Proposal]) -> dict[tuple[str, int], Any]:
    return {(p.contender, p.number): p.values for p in proposals}


@pytest.mark.parametrize("concurrency", [1, 3])
def test_proposals_do_not_depend_on_which_trial_ends_first(concurrency: int) -> None:
    runs = [
        by_name(drive(make(concurrency=concurrency), 4, np.random.default_rng(seed)))
        for seed in range(3)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert len(runs[0]) == 41  # a contender without a space is one configuration


def test_every_contender_gets_its_configurations_and_no_proposal_repeats() -> None:
    values = by_name(drive(make(), 2, np.random.default_rng(0)))
    for name in ("adapt", "full"):
        rates = [v["training.learning_rate"] for (who, _), v in values.items() if who == name]
        assert len(set(rates)) == 20


@pytest.mark.parametrize("finished", [0, 1, 7, 15, 41])
def test_a_restarted_search_goes_on_as_the_undisturbed_one(finished: int) -> None:
    """Whatever was finished when it died, replaying the results gives the same proposals."""
    undisturbed = drive(make(concurrency=2), 4, np.random.default_rng(0))
    known = {(p.contender, p.number) for p in undisturbed[:finished]}
    restarted = make(concurrency=2)
    restarted.replay(
        lambda p: (value_of(p) if p.values else 0.5) if (p.contender, p.number) in known else None
    )
    assert restarted.remaining >= len(undisturbed) - finished
    drive(restarted, 4, np.random.default_rng(1))
    assert by_name(restarted.proposals) == by_name(undisturbed)


def test_a_contenders_own_settings_are_tried_first() -> None:
    first = make().suggest("0")
    assert isinstance(first, dict)
    assert first["plan"].values == {
        "method.alpha": 0.5,
        "method.sparsity": 0.2,
        "training.learning_rate": 2e-4,
    }
    outside = CONTENDERS["full"].model_copy(update={"set": {"training.learning_rate": 0.1}})
    assert own_point(outside, TrainingConfig()) == {}


def test_the_sampler_learns() -> None:
    proposals = drive(make(configurations=40), 1, np.random.default_rng(0))
    found = [value_of(p) for p in proposals if p.contender == "full"]
    assert np.mean(found[20:]) > np.mean(found[1:10])


def test_failed_configurations_are_told_and_the_search_goes_on() -> None:
    search = make(configurations=3, full=CONTENDERS["full"])
    for number in range(3):
        assert isinstance(search.suggest(str(number)), dict)
        search.on_trial_complete(str(number), None, error=True)
    assert search.suggest("3") == search.FINISHED
    assert search.remaining == 0
