"""A configuration's voice in Ray Tune: the trial that tells Tune each score as it comes.

The runs themselves are done by worker groups, so a trial takes neither a CPU nor the imports of
training, and Tune can keep many of them.
"""

from typing import Any

import ray
from ray import tune

METRIC = "mean_dev_macro_f1"  # of a configuration, over the seeds that are finished


def speak(config: dict[str, Any], desk: Any) -> None:
    """Report every result of the configuration's channel, until nothing more will come.

    ``config["known"]`` holds the scores that were recorded before. A trial that was killed tells
    everything again: ``index`` says which result it is. Raises RuntimeError, in the
    end, when one of its runs could not be done.
    """
    scores: list[float] = list(config["known"])
    errors: list[str] = []
    index = 0
    while (result := ray.get(desk.result.remote(config["channel"], index))) is not None:
        if "error" in result:
            errors.append(result["error"])
        else:
            scores.append(result["judged"])
        mean = sum(scores) / len(scores) if scores else 0.0
        tune.report({**result, METRIC: mean, "seeds": len(scores), "index": index})
        index += 1
    if errors:
        raise RuntimeError(errors[0])
