"""The conductor without Ray: a pool that is a list, and a Tune that is a loop."""

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from adapt_ray.config import Contender, FullConfig, Interval, SearchConfig
from adapt_ray.distributed import conductor as module
from adapt_ray.distributed.conductor import Conductor
from adapt_ray.errors import InputError
from adapt_ray.search.fixed import FixedRuns
from adapt_ray.search.study import ContenderStudy, Proposal, Score, Study, advance
from adapt_ray.sweep_progress import SweepProgress

FULL = Contender(
    method=FullConfig(), space={"training.learning_rate": Interval(low=1e-5, high=1e-3)}
)


@dataclass
class FakePool:
    """Takes orders; ``Scene`` answers them."""

    groups: int = 2
    orders: list[tuple[str, Any]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    posted: list[tuple[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.desk = SimpleNamespace(
            finish=SimpleNamespace(remote=self.finished.append),
            post=SimpleNamespace(remote=lambda *post: self.posted.append(post)),
        )

    def order(self, channel: str, work: Any) -> None:
        self.orders.append((channel, work))


@dataclass
class Scene:
    """A study played by a conductor, with what Tune would do to it."""

    study: Study
    deadline: float | None = None
    trunk: object = None
    scores: dict[tuple[int, int], Score] = field(default_factory=dict)  # on record

    def __post_init__(self) -> None:
        self.pool = FakePool()
        pool: Any = self.pool
        self.played = Conductor(
            "search",
            pool,
            lambda proposal: SimpleNamespace(number=proposal.number, trunk=self.trunk),  # type: ignore[arg-type,return-value]
            self.known,
            SweepProgress("search", self.study.wanted, self.study.seeds),
            self.deadline,
        )
        self.played.take(self.study, advance(self.study, self.known))
        self.trials: dict[str, str] = {}  # by channel
        self.heard: dict[str, int] = {}

    def known(self, proposal: Proposal, seed: int) -> Score | None:
        return self.scores.get((proposal.number, seed))

    def start_trials(self) -> None:
        while isinstance(found := self.played.suggest(f"t{len(self.trials)}"), dict):
            self.trials[found["channel"]] = f"t{len(self.trials)}"

    def answer(self, error: str | None = None) -> None:
        """Do the oldest order and let its trial tell."""
        channel, work = self.pool.orders.pop(0)
        index = self.heard.get(channel, 0)
        self.heard[channel] = index + 1
        if error is None:
            self.scores[work.plan.number, work.seed] = Score(0.5 + work.seed / 100)
            result: dict[str, Any] = {"seed": work.seed, "index": index}
        else:
            result = {"error": error, "index": index}
        self.played.on_trial_result(self.trials[channel], result)
        self.played.on_trial_result(self.trials[channel], result)  # a trial that was killed


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda value: value)


def search(**changes: Any) -> ContenderStudy:
    values = {"configurations": 3, "seeds": 3, "racing": False} | changes
    return ContenderStudy("full", FULL, SearchConfig(**values))


def test_a_search_is_ordered_told_and_ended() -> None:
    scene = Scene(search())
    while scene.pool.orders:
        scene.start_trials()
        scene.answer()
    assert scene.study.is_done
    assert scene.played.suggest("last") == Conductor.FINISHED
    assert scene.pool.finished == [f"search: full #{number}" for number in range(3)]
    assert len(scene.scores) == 9


def test_what_is_recorded_is_not_ordered_and_needs_no_trial() -> None:
    known = {(0, 1): Score(0.5), (0, 2): Score(0.5), (1, 1): Score(0.7)}
    scene = Scene(FixedRuns([("a", [1, 2]), ("b", [1, 2])]), scores=known)
    assert [(channel, work.seed) for channel, work in scene.pool.orders] == [("search: b #1", 2)]
    scene.start_trials()
    assert list(scene.trials) == ["search: b #1"]
    found = scene.played._trials["t0"]
    assert found.known == [0.7]


def test_a_run_that_cannot_be_done_fails_its_configuration_alone() -> None:
    scene = Scene(search(concurrency=2))
    scene.start_trials()
    scene.answer(error="out of memory")
    while scene.pool.orders:
        scene.start_trials()
        scene.answer()
    assert [racer.fate for racer in scene.study.racers] == ["failed", "finished", "finished"]
    assert sorted(scene.pool.finished) == [f"search: full #{n}" for n in range(3)]


def test_after_the_deadline_nothing_begins_and_what_runs_is_heard() -> None:
    scene = Scene(search(racing=True, configurations=5), deadline=time.monotonic() + 1000)
    scene.start_trials()
    scene.answer()
    scene.played._deadline = time.monotonic() - 1
    assert len(scene.pool.orders) == 1
    scene.answer()
    assert scene.pool.orders == []
    assert scene.pool.finished == ["search: full #0"]
    assert scene.played.suggest("next") == Conductor.FINISHED
    assert len(scene.study.racers[0].scores) == 2


def test_states_that_do_not_fit_are_told_through_the_configurations_channel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hold(plan: object, pool: object) -> None:
        raise InputError("resources.trunk_cache_gb is 1, but 2 are needed")

    monkeypatch.setattr(module, "hold", hold)
    scene = Scene(search(configurations=1, racing=True), trunk="some")
    scene.played._fillers.shutdown()
    assert scene.pool.orders == []
    assert (
        scene.pool.posted
        == [("search: full #0", {"error": "resources.trunk_cache_gb is 1, but 2 are needed"})] * 3
    )  # a configuration alone races nobody: its three seeds are ordered at once
