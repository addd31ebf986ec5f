import json
from typing import Any

from adapt_ray.config import AdaptConfig, Contender, FullConfig, Interval
from adapt_ray.records import RunRecord
from adapt_ray.search.earlier import best_points

CONTENDER = Contender(
    method=AdaptConfig(),
    space={
        "method.sparsity": (0.05, 0.1, 0.2),
        "training.learning_rate": Interval(low=1e-5, high=1e-3),
    },
)


def run(rate: float, f1: float, seed: int = 0, **changes: Any) -> RunRecord:
    method = {"type": "adapt", "sparsity": changes.pop("sparsity", 0.1), "alpha": 0.3}
    values: dict[str, Any] = {
        "run_id": f"{rate}-{seed}",
        "configuration_id": f"{rate}-{method['sparsity']}",
        "phase": "search",
        "task": "demo",
        "model": "minilm",
        "contender": "mine",
        "method": "adapt",
        "config_json": json.dumps({"method": method, "training": {"learning_rate": rate}}),
        "seed": seed,
        "status": "ok",
        "dev_macro_f1": f1,
        "majority_macro_f1": 0.1,
        "epochs": 1,
        "steps": 1,
        "new_tokens": 0,
        "inserted_token_share": 0.0,
        "truncated_texts": 0,
        "precision": "fp32",
        "engine": "plain",
        "world_size": 1,
        "corpus_digest": "x",
        "versions_json": "{}",
        "machine": "here",
        "git_revision": "x",
        "started_at": "2024-05-01T12:00:00+00:00",
    }
    return RunRecord(**(values | changes))


def rates(runs: list[RunRecord], contender: Contender = CONTENDER) -> list[Any]:
    return [point["training.learning_rate"] for point in best_points(runs, contender)]


def test_the_three_best_of_each_corpus_come_best_first() -> None:
    here = [run(rate, f1) for rate, f1 in [(1e-4, 0.5), (2e-4, 0.9), (3e-4, 0.7), (4e-4, 0.6)]]
    there = [run(5e-4, 0.1, corpus_digest="y"), run(2e-4, 0.05, corpus_digest="y")]
    assert rates(here + there) == [2e-4, 3e-4, 4e-4, 5e-4]
    assert best_points(here, CONTENDER)[0] == {
        "method.sparsity": 0.1,
        "training.learning_rate": 2e-4,
    }


def test_means_over_seeds_count_and_dropped_configurations_do_not() -> None:
    runs = [run(1e-4, 0.6, 0), run(1e-4, 0.8, 1), run(2e-4, 0.9, 0), run(2e-4, 0.4, 1)]
    dropped = run(3e-4, 0.95, 0)
    assert rates([*runs, dropped]) == [1e-4, 2e-4]


def test_what_lies_outside_the_space_or_is_another_method_is_left_out() -> None:
    runs = [
        run(1e-2, 0.9),
        run(1e-4, 0.8, sparsity=0.15),
        run(2e-4, 0.7, method="full"),
        run(3e-4, 0.6, phase="final"),
        run(4e-4, 0.5),
    ]
    assert rates(runs) == [4e-4]
    assert best_points(runs, Contender(method=FullConfig())) == []
