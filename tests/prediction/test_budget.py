"""The search for the fastest batches."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt_ray.config import ModelConfig
from adapt_ray.export import Classifier
from adapt_ray.modeling import build_classifier
from adapt_ray.prediction.budget import LEAST, fastest_budget, search
from adapt_ray.tokenization.task_tokenizer import TaskTokenizer


def speeds(*values: float | None) -> Callable[[int], float | None]:
    """Return a measurement that gives these speeds, budget by budget."""
    given = iter(values)
    return lambda budget: next(given)


@pytest.mark.parametrize(
    ("values", "budget", "tried"),
    [
        ((100, 200, 400, 404, 390), 4 * LEAST, 5),  # two doublings without a gain end it
        ((100, 98, 200, 150, 160), 4 * LEAST, 5),  # one bad measurement does not
        ((100, 104, 104), LEAST, 3),  # nearly as fast with less memory
        ((100, 200, None), 2 * LEAST, 2),
        ((None,), LEAST, 0),
    ],
)
def test_the_smallest_of_the_fastest(
    values: tuple[float | None, ...], budget: int, tried: int
) -> None:
    found = search(speeds(*values))
    assert (found.budget, len(found.trials)) == (budget, tried)


@given(st.lists(st.floats(1, 1e6), min_size=30, max_size=30), st.integers(1, 2**21))
def test_it_ends_and_is_among_the_fastest_that_it_tried(values: list[float], most: int) -> None:
    found = search(speeds(*values), most)
    budgets = [budget for budget, _ in found.trials]
    assert budgets == [LEAST * 2**i for i in range(len(budgets))]
    assert all(budget <= most for budget in budgets[1:])
    assert 1.05 * found.tokens_per_second >= max(speed for _, speed in found.trials)


def test_a_real_classifier_on_few_texts(tiny_model: str) -> None:
    config = ModelConfig(name=tiny_model, max_tokens=64)
    tokenizer = TaskTokenizer.pretrained(config, None, ())
    model = build_classifier(config, 2, 0, [], new_rows_init="mean", seed=0)
    classifier = Classifier(model, tokenizer, ("a", "b"))
    for texts in (["one text"], ["some more words in each of these"] * 300):
        found = fastest_budget(classifier, texts)
        assert found.tokens_per_second > 0
        assert len(found.trials) == (1 if len(texts) == 1 else 3)  # 2,700 tokens: up to 2,048
