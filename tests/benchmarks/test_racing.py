"""The races of the benchmark, and the rules that it compares, against scipy and by hand."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import racing
from adapt_ray.search.racing import BoolArray, EmpiricalBayes, FloatArray, Rule

RNG = np.random.default_rng(1)
MEANS, SCORES = racing.simulate(racing.Setting(6, 0.02, 0.5), 20, RNG)


class Never:
    """Drops nothing."""

    def drops(self, scores: FloatArray, racing: BoolArray) -> BoolArray:
        return np.zeros_like(racing)


@pytest.mark.parametrize("batch", [1, 4, 6])
def test_a_race_without_drops_is_the_full_sweep(batch: int) -> None:
    kept, used = racing.race(Never(), SCORES, batch)
    assert kept.all()
    assert (used == 1).all()
    found = racing.judge(MEANS, SCORES, kept, used)
    assert found.loss == (0.0, 0.0)


@pytest.mark.parametrize("rule", racing.RULES.values(), ids=racing.RULES)
@pytest.mark.parametrize("batch", [1, 4, 6])
def test_races_do_not_see_each_other_nor_the_future(rule: Rule, batch: int) -> None:
    kept, used = racing.race(rule, SCORES, batch)
    alone = [racing.race(rule, one[None], batch) for one in SCORES]
    assert (kept == np.concatenate([one for one, _ in alone])).all()
    assert used == pytest.approx(np.concatenate([share for _, share in alone]))
    assert kept.any(axis=1).all()


def test_the_shipped_rule_decides_alike_alone_and_in_a_stack() -> None:
    known = SCORES.copy()
    known[:, :, 3:] = np.nan
    every = np.ones(known.shape[:2], bool)
    stacked = EmpiricalBayes().drops(known, every)
    alone = [EmpiricalBayes().drops(one, np.ones(6, bool)) for one in known]
    assert (stacked == np.array(alone)).all()


@pytest.mark.parametrize("seeds", [2, 5, 9])
def test_paired_rules_are_scipys_tests(seeds: int) -> None:
    known = SCORES[0].copy()
    known[:, seeds:] = np.nan
    leader = int(np.nanmean(known, axis=1).argmax())
    every = np.ones(6, bool)
    for row in range(6):
        if row == leader:
            continue
        lag = (known[leader] - known[row])[:seeds]
        t = stats.ttest_1samp(lag, 0, alternative="greater").pvalue
        signed = stats.wilcoxon(lag, alternative="greater", method="exact").pvalue
        for factor, dropped in ((1.001, True), (0.999, False)):
            assert racing.PairedT(t * factor).drops(known, every)[row] == dropped
            assert racing.Wilcoxon(signed * factor).drops(known, every)[row] == dropped


def test_halving_keeps_the_better_half_with_the_champion() -> None:
    scores = np.full((6, 10), np.nan)
    scores[:2] = [[0.6], [0.8]]  # finished
    scores[2:, 0] = [0.9, 0.7, 0.85, 0.5]
    racers = np.arange(6) > 1
    drops = racing.Halving().drops(scores, racers)  # of 0.9, 0.85, 0.8 (champion), 0.7, 0.5
    assert drops.tolist() == [False, False, False, True, False, True]
    scores[2:, 1:3] = 0.5
    assert not racing.Halving().drops(scores, racers).any(), "three seeds are no rung"


def test_a_recorded_sweep_is_read_as_written(tmp_path: Path) -> None:
    sweep = racing.Recorded("task_adapt", ('{"a": 1}', "{}", "{}"), (0, 1, 5), SCORES[0, :3, :3])
    racing.write(sweep, tmp_path)
    found = racing.read(tmp_path / "task_adapt.csv")
    assert (found.label, found.settings, found.seeds) == (sweep.label, sweep.settings, sweep.seeds)
    assert found.scores == pytest.approx(sweep.scores, abs=1e-6)
    means, scores = sweep.draw(50, np.random.default_rng(2))
    assert np.sort(means, axis=1) == pytest.approx(np.tile(np.sort(sweep.scores.mean(1)), (50, 1)))
    assert scores.mean(axis=-1) == pytest.approx(means)
    assert len({tuple(one.ravel()) for one in scores}) > 20
