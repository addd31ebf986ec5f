"""Starting a search from earlier ones: the configurations that did best there."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from adapt_ray.config import Contender
from adapt_ray.records import RunRecord
from adapt_ray.report.groups import settings
from adapt_ray.search.space import Values, within

_BEST_OF_EACH = 3  # configurations of one corpus


def best_points(runs: Iterable[RunRecord], contender: Contender) -> list[Values]:
    """Return the best points of a contender's space that earlier searches tried, corpus by corpus.

    Of every corpus the three configurations of the same method with the highest mean dev macro-F1
    count, those that a race dropped left out. Their scores are not taken over: those of another
    corpus say nothing of this one's level.
    """
    corpora: dict[tuple[str, str], dict[str, list[RunRecord]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in runs:
        if run.phase == "search" and run.method == contender.method.type:
            corpora[run.task, run.corpus_digest][run.configuration_id].append(run)
    points: list[Values] = []
    for _, configurations in sorted(corpora.items()):
        for members in _ranked(configurations)[:_BEST_OF_EACH]:
            point = within(settings(members[0]), contender.space)
            if point and point not in points:
                points.append(point)
    return points


def _ranked(configurations: Mapping[str, list[RunRecord]]) -> list[list[RunRecord]]:
    most = max(len(members) for members in configurations.values())
    whole = [members for members in configurations.values() if len(members) == most]
    return sorted(whole, key=_mean, reverse=True)


def _mean(runs: list[RunRecord]) -> float:
    return sum(run.judged() for run in runs) / len(runs)
