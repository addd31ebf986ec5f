"""Tests and intervals of variances against scipy, closed forms and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from adapt_ray.report import bootstrap, variance

RNG = np.random.default_rng(7)
A = RNG.normal(0.80, 0.010, 10)
B = 0.5 * A + RNG.normal(0.39, 0.015, 10)


def test_pitman_morgan_matches_its_f_and_r_form() -> None:
    n = len(A)
    f, r = A.var(ddof=1) / B.var(ddof=1), np.corrcoef(A, B)[0, 1]
    t = (f - 1) * (n - 2) ** 0.5 / (2 * (f * (1 - r**2)) ** 0.5)
    assert variance.pitman_morgan(A, B) == pytest.approx(2 * stats.t.sf(abs(t), n - 2))


def test_pitman_morgan_uses_the_pairing() -> None:
    """Strongly correlated pairs show a difference in spread that the F test cannot see."""
    base = RNG.normal(0, 1, 10)
    a, b = base, 1.6 * base + RNG.normal(0, 0.05, 10)
    f = variance.variance_ratio(a, b)
    p = variance.pitman_morgan(a, b)
    assert p is not None
    assert p < 1e-6
    assert f.low is not None
    assert f.high is not None
    assert f.low < 1 < f.high


def test_brown_forsythe_is_anova_of_distances_to_the_median() -> None:
    x, y = abs(A - np.median(A)), abs(B - np.median(B))
    assert variance.brown_forsythe(A, B) == pytest.approx(stats.f_oneway(x, y).pvalue)


@pytest.mark.parametrize("a", [[], [1.0], [1.0, 2.0], [0.1, 0.1, 0.1]])
def test_variance_tests_are_undefined_without_data(a: list[float]) -> None:
    assert variance.pitman_morgan(a, a) is None
    assert variance.brown_forsythe(a, [1.0, 2.0, 4.0]) is None


def test_variance_ratio_interval_at_ten_seeds() -> None:
    """Table value: F(0.975; 9, 9) = 4.026, so 0.5 lies in 0.124 to 2.013."""
    x = np.arange(10.0)
    found = variance.variance_ratio(x / 2**0.5, x)
    assert found.ratio == pytest.approx(0.5)
    assert found.low == pytest.approx(0.5 / 4.026, rel=1e-3)
    assert found.high == pytest.approx(0.5 * 4.026, rel=1e-3)


def test_variance_interval_covers_and_power_is_what_it_says() -> None:
    rng = np.random.default_rng(1)
    rounds, n = 2000, 10
    covered = noticed = 0
    for _ in range(rounds):
        found = variance.variance_ratio(rng.normal(0, 0.5**0.5, n), rng.normal(0, 1, n))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.5 <= found.high
        noticed += not found.low <= 1 <= found.high
    error = 4 * (0.25 / rounds) ** 0.5
    assert covered / rounds == pytest.approx(0.95, abs=error)
    assert noticed / rounds == pytest.approx(variance.power(0.5, n, n), abs=error)


def test_seeds_for_halving_agrees_with_the_normal_approximation() -> None:
    """The log variance ratio has a standard deviation of about (4 / (n - 1)) ** 0.5."""
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    approximate = 1 + 4 * z**2 / np.log(2) ** 2
    needed = variance.seeds_needed() or 0
    assert needed == pytest.approx(approximate, abs=2)
    assert variance.power(0.5, needed - 1, needed - 1) < 0.8


@pytest.mark.parametrize(("ratio", "sides"), [(0.5, 2), (0.5, 1), (1.8, 1), (3.0, 2)])
def test_power_is_how_often_the_f_test_notices(ratio: float, sides: int) -> None:
    rng = np.random.default_rng(2)
    f = ratio * rng.normal(size=(20000, 10)).var(1, ddof=1)
    f /= rng.normal(size=(20000, 8)).var(1, ddof=1)
    p = stats.f.cdf(f, 9, 7) if ratio < 1 else stats.f.sf(f, 9, 7)
    noticed = p < 0.05 if sides == 1 else 2 * np.minimum(p, 1 - p) < 0.05
    assert variance.power(ratio, 10, 8, sides=sides) == pytest.approx(noticed.mean(), abs=0.015)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("ratio", [0.2, 0.47, 0.8, 1.5])
def test_seeds_needed_are_the_fewest(ratio: float, sides: int) -> None:
    needed = variance.seeds_needed(ratio, sides=sides)
    assert needed is not None
    assert variance.power(ratio, needed, needed, sides=sides) >= variance.WANTED_POWER
    assert variance.power(ratio, needed - 1, needed - 1, sides=sides) < variance.WANTED_POWER


def test_no_number_of_seeds_tells_equal_variances() -> None:
    assert variance.seeds_needed(1.0) is None
    assert variance.seeds_needed(1.01, sides=1) is None


def test_bartlett_by_hand() -> None:
    logs = np.log([A.var(ddof=1), B.var(ddof=1), (A.var(ddof=1) + B.var(ddof=1)) / 2])
    statistic = (18 * logs[2] - 9 * (logs[0] + logs[1])) / (1 + (2 / 9 - 1 / 18) / 3)
    assert variance.bartlett(A, B) == pytest.approx(stats.chi2.sf(statistic, 1))
    assert variance.bartlett(A, [0.5] * 10) is None


def test_the_ratio_of_the_bootstrap_is_that_of_the_sample() -> None:
    for paired in (True, False):
        found = variance.ratio_interval(A, B, paired=paired)
        assert found.ratio == pytest.approx(A.var(ddof=1) / B.var(ddof=1))
        assert found.ratio is not None
        assert found.low is not None
        assert found.high is not None
        # Symmetric about the logarithm.
        assert found.low * found.high == pytest.approx(found.ratio**2)
        assert found == variance.ratio_interval(A, B, paired=paired)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.3, 0.9), st.floats(0.3, 0.9)), min_size=5, max_size=8),
    st.floats(0.1, 10),
    st.floats(-5, 5),
)
def test_scale_multiplies_the_ratio_and_shift_does_nothing(
    rows: list[tuple[float, float]], factor: float, shift: float
) -> None:
    a, b = np.array(rows).T
    one = variance.ratio_interval(a, b, paired=True)
    if one.low is None or min(np.ptp(a), np.ptp(b)) < 1e-3:
        return
    other = variance.ratio_interval(shift + factor * a, b, paired=True)
    expected = np.array([one.ratio, one.low, one.high], dtype=float) * factor**2
    assert [other.ratio, other.low, other.high] == pytest.approx(expected.tolist(), rel=1e-3)


def test_swapping_the_arms_inverts_the_interval() -> None:
    one, other = (variance.ratio_interval(*pair, paired=True) for pair in ((A, B), (B, A)))
    assert one.low is not None
    assert other.high is not None
    assert one.low == pytest.approx(1 / other.high)
    assert one.p == other.p


def test_the_test_agrees_with_its_interval() -> None:
    rng = np.random.default_rng(5)
    for scale in (1.0, 2.0, 3.0, 5.0):
        found = variance.ratio_interval(scale * rng.normal(size=10), B, paired=False)
        assert found.low is not None
        assert found.high is not None
        assert found.p is not None
        if abs(found.p - 0.05) > 0.002:
            assert (found.p < 0.05) == (not found.low <= 1 <= found.high)


def test_the_bootstrap_covers_skewed_scores_that_the_f_interval_does_not() -> None:
    rng = np.random.default_rng(3)
    hits = np.zeros(2)
    for _ in range(400):
        a, b = -np.exp(rng.normal(size=(2, 10)) / 2)
        estimate = bootstrap.log_variance_ratio([(a, b)], paired=False, resamples=399)
        by_f = variance.variance_ratio(a, b)
        assert estimate is not None
        assert by_f.low is not None
        assert by_f.high is not None
        hits += [estimate.low <= 0 <= estimate.high, by_f.low <= 1 <= by_f.high]
    assert hits[0] / 400 > 0.91
    assert hits[1] / 400 < 0.88


def test_too_few_seeds_have_a_ratio_and_no_interval() -> None:
    found = variance.ratio_interval([1, 2, 4, 8], [1, 3, 9, 27], paired=True)
    assert found.ratio is not None
    assert (found.low, found.high, found.p) == (None, None, None)
    nothing = variance.ratio_interval([1, 2, 4, 8, 9], [0.5] * 5, paired=True)
    assert (nothing.ratio, nothing.low) == (None, None)


def test_pooling_tasks_narrows_the_interval_and_shows_a_halving() -> None:
    rng = np.random.default_rng(12)
    samples = [(rng.normal(0, 0.5**0.5, 10), rng.normal(0, 1, 10)) for _ in range(16)]
    pooled = variance.pooled_ratio(samples, paired=False)
    assert pooled is not None
    logs = [np.log(a.var(ddof=1) / b.var(ddof=1)) for a, b in samples]
    assert pooled.ratio == pytest.approx(np.exp(np.mean(logs)))
    assert (pooled.n_a, pooled.n_b) == (160, 160)
    assert pooled.high is not None
    assert pooled.high < 1
    assert pooled.p is not None
    assert pooled.p < 0.05
    assert variance.pooled_ratio([*samples[:1], ([1, 2], [1, 2])], paired=False) is None


def test_the_variance_sentence_admits_what_ten_seeds_cannot_tell() -> None:
    text = variance.variance_sentence("x", A, "y", A[::-1] * 1.2)
    assert text.startswith("variance ratio x / y 0.69, 95% interval ")
    assert ": ten seeds cannot tell; about 239 would be needed" in text
    assert "probability 0.16 (two-sided F test at 5%, normal scores; 0.25 one-sided)" in text


def test_the_sentence_of_a_ratio_next_to_one_asks_for_no_number_of_seeds() -> None:
    text = variance.variance_sentence("x", A, "y", A[::-1] * 1.01)
    assert "would take more than 1,000 seeds" in text


def test_the_variance_sentence_says_what_it_shows() -> None:
    wide = np.random.default_rng(1).normal(size=10)
    assert "seeds show that x varies less" in variance.variance_sentence("x", A, "y", wide)
    assert "seeds show that x varies more" in variance.variance_sentence("x", wide, "y", A)
    assert "ten and nine seeds" in variance.variance_sentence("x", A, "y", A[1:])
    assert "at least two seeds" in variance.variance_sentence("x", A, "y", A[:1])
    assert "same score on every seed" in variance.variance_sentence("x", A, "y", [0.1] * 3)
    assert "(F, for normal scores)" in variance.variance_sentence("x", A[:3], "y", B[:3])


def test_a_variance_lies_in_its_interval_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    found = [variance.variance_interval(rng.normal(0, 2, size=5)) for _ in range(4000)]
    covered = [interval[0] <= 4 <= interval[1] for interval in found if interval is not None]
    assert len(covered) == 4000
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
    assert variance.variance_interval([0.5]) is None
    assert variance.variance_interval([0.5, 0.5]) is None
