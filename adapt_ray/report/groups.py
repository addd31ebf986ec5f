"""Run records grouped for comparison: studies, the arms of a final comparison, the search."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapt_ray.config import LEAD_TO_SELECTION, STREAM_SEEDS
from adapt_ray.records import RunRecord
from adapt_ray.report import statistics, variance
from adapt_ray.report.statistics import Estimate

OWN_STAGES = " (own stages)"  # ends the name of a contender whose seeds share no stage


@dataclass(frozen=True)
class Study:
    """Runs whose scores can be compared: one task in one preparation."""

    label: str
    runs: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Arm:
    """One configuration in the final comparison: its runs in seed order."""

    label: str
    runs: tuple[RunRecord, ...]

    @property
    def own_stages(self) -> bool:
        """Whether every run computed anew what those of another arm share."""
        return self.runs[0].contender.endswith(OWN_STAGES)

    @property
    def scores(self) -> dict[tuple[int, int], float]:
        """Test macro-F1 by (seed, world size): runs that agree in both are pairs."""
        return {
            (run.seed, run.world_size): run.test_macro_f1
            for run in self.runs
            if run.test_macro_f1 is not None
        }

    @property
    def values(self) -> list[float]:
        """Test macro-F1 of the runs that have one, in seed order."""
        return list(self.scores.values())

    @property
    def estimate(self) -> Estimate:
        """Mean test macro-F1 with its t interval."""
        return statistics.mean_estimate(self.values)

    @property
    def train_seconds(self) -> float | None:
        """Mean training time of the runs that came to their end, with what they share."""
        own = mean(run.train_seconds for run in self.runs if run.status == "ok")
        shared = mean(run.trunk_fill_seconds for run in self.runs)
        return own if own is None or shared is None else own + shared / len(self.runs)

    @property
    def flops(self) -> float | None:
        """Mean floating-point operations of a whole training, with what the runs share."""
        return _flops(self.runs)


@dataclass(frozen=True)
class Configuration:
    """One searched configuration, judged on the dev split."""

    contender: str
    settings: Mapping[str, Any]  # the fields that differ among this contender's configurations
    runs: tuple[RunRecord, ...]
    rank: int  # 1 is best, within the contender
    chosen: bool  # whether the final comparison ran it
    dropped: bool  # before the last seed: others of the contender ran more

    @property
    def estimate(self) -> Estimate:
        """Mean dev macro-F1 with its t interval."""
        return _dev_estimate(self.runs)

    @property
    def flops(self) -> float | None:
        """Mean floating-point operations of a whole training, with what the runs share."""
        return _flops(self.runs)


def studies(runs: Iterable[RunRecord]) -> list[Study]:
    """Split runs by task and corpus; a resplit or reduced corpus is a study of its own.

    They come by task, then by their training rows where the records hold them.
    """
    groups: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for run in runs:
        groups[run.task, run.corpus_digest].append(run)
    tasks = [task for task, _ in groups]
    return [
        Study(task if tasks.count(task) == 1 else _corpus_label(members[0]), tuple(members))
        for (task, _), members in sorted(
            groups.items(), key=lambda item: (item[0][0], item[1][0].train_rows or 0, item[0][1])
        )
    ]


def trained(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """Return the runs that trained a model; prompts have no seeds to pair and no such costs."""
    return [run for run in runs if run.phase != "prompt"]


def final_arms(runs: Iterable[RunRecord]) -> list[Arm]:
    """Group the runs outside the search by configuration, best mean test macro-F1 first.

    A contender that ran with several models or configurations gives as many arms, with the model
    the seeds of single streams, or the configuration's hash in the label: runs that differ are
    never averaged. The exception are runs with stages of their own, one arm whatever their seeds
    led to; it comes last, since it is another contender's once more.
    """
    groups: dict[tuple[str, str, str], list[RunRecord]] = defaultdict(list)
    for run in runs:
        if run.phase != "search":
            own = run.contender.endswith(OWN_STAGES)  # each of its seeds is a configuration
            groups[run.contender, run.model, "" if own else run.configuration_id].append(run)
    arms = [
        Arm(_label(key, groups), tuple(sorted(members, key=lambda run: run.seed)))
        for key, members in groups.items()
    ]
    return sorted(arms, key=lambda arm: (arm.own_stages, -_sortable(arm.estimate.mean), arm.label))


def failed(run: RunRecord) -> bool:
    """Whether a run ended early, or learned no more than to name the most frequent class."""
    learned = run.dev_macro_f1 is not None and run.dev_macro_f1 > run.majority_macro_f1
    return run.status != "ok" or not learned


def reference_arm(arms: Sequence[Arm]) -> Arm | None:
    """Return the arm that costs and variances are held against: full finetuning, if it ran."""
    full = [arm for arm in arms if arm.runs[0].method == "full"]
    named = [arm for arm in full if arm.runs[0].contender == "full"]
    return next(iter([*named, *full]), None)


def paired_scores(a: Arm, b: Arm) -> tuple[list[float], list[float]]:
    """Return the test scores of the seeds that both finished with the same number of workers."""
    ours, theirs = a.scores, b.scores
    shared = [key for key in ours if key in theirs]
    return [ours[key] for key in shared], [theirs[key] for key in shared]


def spread_scores(a: Arm, b: Arm) -> tuple[list[float], list[float], bool]:
    """Return the scores whose spreads are compared, and whether they are pairs by seed.

    They are pairs where enough seeds ran in both, and all scores otherwise.
    """
    ours, theirs = paired_scores(a, b)
    if len(ours) >= variance.LEAST_SEEDS:
        return ours, theirs, True
    return a.values, b.values, False


def compare(a: Arm, b: Arm) -> statistics.PairedDifference:
    """Return the paired difference a - b in test macro-F1."""
    return statistics.paired_difference(*paired_scores(a, b))


def relative_cost(arm: Arm, reference: Arm) -> tuple[float | None, float | None]:
    """Return an arm's FLOPs and training seconds of a run as multiples of the reference's."""
    return (
        _ratio(arm.flops, reference.flops),
        _ratio(arm.train_seconds, reference.train_seconds),
    )


def configurations(runs: Iterable[RunRecord]) -> list[Configuration]:
    """Return every searched configuration, ranked within its contender by mean dev macro-F1.

    Configurations that the race dropped before their last seed rank below those that ran them all:
    their means are over fewer, other seeds.
    """
    runs = list(runs)
    groups: dict[str, dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.phase == "search":
            groups[run.contender][run.configuration_id].append(run)
    final = {(run.contender, _essence(run)) for run in runs if run.phase != "search"}
    return [
        Configuration(
            contender,
            settings,
            tuple(sorted(members, key=lambda run: run.seed)),
            rank,
            (contender, _essence(members[0])) in final,
            len(members) < max(map(len, by_id.values())),
        )
        for contender, by_id in sorted(groups.items())
        for rank, (settings, members) in enumerate(_ranked(list(by_id.values())), 1)
    ]


def outcomes(
    found: Iterable[Configuration],
) -> list[tuple[Configuration, tuple[float, float, float]]]:
    """Return mean dev macro-F1, its standard deviation over seeds and the FLOPs of a run.

    Of the configurations of which all three are known, that ran all their seeds and failed on no
    more than half of them: what never learns is steady, too.
    """
    known = []
    for one in found:
        if 2 * sum(map(failed, one.runs)) > len(one.runs):
            continue
        estimate, flops = one.estimate, one.flops
        if not (one.dropped or estimate.mean is None or estimate.sd is None or flops is None):
            known.append((one, (estimate.mean, estimate.sd, flops)))
    return known


def settings(run: RunRecord) -> dict[str, Any]:
    """Return a run's model, method and training fields by dotted name."""
    config = json.loads(run.config_json)
    return {
        f"{section}.{name}": value
        for section in ("model", "method", "training")
        for name, value in config.get(section, {}).items()
    }


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the known values, or None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _flops(runs: Sequence[RunRecord]) -> float | None:
    own = mean(run.train_flops for run in runs if run.status == "ok")
    shared = mean(run.trunk_fill_flops for run in runs)
    return own if own is None or shared is None else own + shared / len(runs)


def _label(
    key: tuple[str, str, str], groups: Mapping[tuple[str, str, str], Sequence[RunRecord]]
) -> str:
    contender, model, configuration = key
    label = contender if len({other[1] for other in groups}) == 1 else f"{contender} ({model})"
    same = {_streams(groups[other][0]) for other in groups if other[:2] == key[:2]}
    alike = [other for other in groups if other[:2] == key[:2]]
    if len(alike) == 1:
        return label
    if len(same) == len(alike):  # the seeds of streams tell them apart
        return f"{label} ({_streams(groups[key][0]) or 'streams of the run seed'})"
    return f"{label} {configuration[:6]}"


def _streams(run: RunRecord) -> str:
    """Return the streams of a run that have a seed of their own."""
    found = settings(run)
    fields = {name: f"training.{name}" for name in STREAM_SEEDS.values()}
    return ", ".join(
        f"{name.replace('_', ' ')} {found[field]}"
        for name, field in fields.items()
        if field in found
    )


def _corpus_label(run: RunRecord) -> str:
    size = "" if run.train_rows is None else f"{run.train_rows:,} training rows, "
    return f"{run.task} ({size}corpus {run.corpus_digest[:6]})"


def _ranked(groups: list[list[RunRecord]]) -> list[tuple[dict[str, Any], list[RunRecord]]]:
    """Return (fields that differ between the groups, runs), best first."""
    found = [settings(members[0]) for members in groups]
    names = dict.fromkeys(name for one in found for name in one)
    varied = [name for name in names if len({str(one.get(name)) for one in found}) > 1]
    rows = [
        ({name: one[name] for name in varied if name in one}, members)
        for one, members in zip(found, groups, strict=True)
    ]
    return sorted(rows, key=lambda row: _merit(row[1]), reverse=True)


def _merit(runs: Sequence[RunRecord]) -> tuple[int, float]:
    return len(runs), _sortable(_dev_estimate(runs).mean)


def _dev_estimate(runs: Sequence[RunRecord]) -> Estimate:
    return statistics.mean_estimate([r.dev_macro_f1 for r in runs if r.dev_macro_f1 is not None])


def _essence(run: RunRecord) -> str:
    """Return what a search run and a final run of one configuration have in common."""
    fields: dict[str, Any] = settings(run)
    if run.selection_json is not None:
        leading = {f"method.{name}" for name in LEAD_TO_SELECTION}
        fields = {name: fields[name] for name in fields if name not in leading}
        fields["selection"] = json.loads(run.selection_json)["modules"]
    return json.dumps([run.model, run.token_set_digest, fields], sort_keys=True)


def _sortable(value: float | None) -> float:
    return float("-inf") if value is None else value


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None
