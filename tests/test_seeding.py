import subprocess
import sys

import numpy as np
import pytest

from adapt_ray import seeding


def test_seeds_repeat_in_another_process() -> None:
    code = "from adapt_ray import seeding; print(seeding.derive(7, 'dropout', 3))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == seeding.derive(7, "dropout", 3)


def test_streams_seeds_and_contexts_differ() -> None:
    seeds = {
        seeding.derive(seed, stream, context)
        for seed in range(20)
        for stream in ("initialisation", "data_order", "dropout")
        for context in range(5)
    }
    assert len(seeds) == 20 * 3 * 5


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_generators_are_independent_and_repeat(seed: int) -> None:
    first = seeding.generator(seed, "data_order").normal(size=2000)
    again = seeding.generator(seed, "data_order").normal(size=2000)
    other = seeding.generator(seed, "dropout").normal(size=2000)
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.1
