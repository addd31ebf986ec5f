"""The report's first paragraph: who won, by how much, how surely, at what cost.

Every sentence holds what the records show and says where they show nothing.
"""

from collections.abc import Sequence

from adapt_ray.report import statistics, variance
from adapt_ray.report.groups import (
    OWN_STAGES,
    Arm,
    Configuration,
    Study,
    compare,
    configurations,
    failed,
    final_arms,
    reference_arm,
    relative_cost,
    spread_scores,
)
from adapt_ray.report.wording import (
    escape,
    interval,
    multiple,
    operations,
    p_value,
    score,
    seconds,
    settings_text,
    signed,
    spread,
)

_SIGNIFICANT = 1 - statistics.CONFIDENCE


def answer(study: Study) -> list[str]:
    """Return the sentences that answer the study's question, as Markdown."""
    arms = final_arms(study.runs)
    scored = [arm for arm in arms if arm.values and not arm.own_stages]
    if not scored:
        return [*_without_scores(arms), *_search_only(configurations(study.runs))]
    winner, others = scored[0], scored[1:]
    reference = reference_arm(scored)
    sentences = [_lead(winner, others) + _searched(winner, configurations(study.runs))]
    sentences += [_margin(winner, other, others) for other in _rivals(others, reference)]
    sentences += _stability(winner, others, reference)
    sentences += _own_stages(arms)
    sentences.append(_cost(winner, others, reference))
    lost = [run for arm in arms for run in arm.runs if failed(run)]
    if lost:
        total = sum(len(arm.runs) for arm in arms)
        sentences.append(f"Failed runs of the comparison: {len(lost)} of {total}.")
    return sentences


def limits(study: Study) -> list[str]:
    """Return what the study's records cannot show, one sentence or two each."""
    arms = [arm for arm in final_arms(study.runs) if arm.values]
    runs = [run for arm in arms for run in arm.runs]
    missing = sum(run.test_macro_f1 is None for run in runs)
    statements = {
        "Intervals and p values speak of other seeds on these same splits, not of other texts.": (
            bool(runs)
        ),
        _too_few_seeds(arms): True,
        "Runs share one token set, one sensitivity map and one warm-up where their method uses "
        "them, so the spread over seeds leaves out how much those would vary.": (
            any(run.token_set_digest or run.selection_json for run in runs)
            and not any(arm.own_stages for arm in arms)
        ),
        "All runs share one token set, so no spread holds how much that would vary with other "
        "training texts.": (
            any(run.token_set_digest for run in runs) and any(arm.own_stages for arm in arms)
        ),
        f"Means leave out {_count(missing, 'run')} without a test score; the column of failed "
        "runs counts what ended early.": missing > 0,
        "Runs used different numbers of workers; only seeds with the same number are paired.": (
            len({run.world_size for run in runs}) > 1
        ),
        "Runs came from different machines: compare their operations, not their seconds.": (
            len({run.machine for run in runs}) > 1
        ),
        "Peak memory of a process includes Python, its libraries and what earlier work of the "
        "same process left behind.": any(run.memory_kind == "rss" for run in runs),
        "Scores on the dev split are optimistic: it chose the configurations.": (
            any(run.phase == "search" for run in study.runs)
        ),
    }
    return [statement for statement, holds in statements.items() if statement and holds]


def _too_few_seeds(arms: Sequence[Arm]) -> str:
    """Return what the arm with the fewest seeds cannot say of variances; empty with enough."""
    fewest = min((len(arm.values) for arm in arms), default=0)
    needed = variance.seeds_needed()
    if needed is None or not 0 < fewest < needed:
        return ""
    return (
        f"{_count(fewest, 'seed')} of a method cannot tell one variance from half of it: that "
        f"takes about {needed} (two-sided F test at 5%, power {variance.WANTED_POWER}). A ratio "
        "whose interval includes 1 shows neither a difference nor its absence."
    )


def _without_scores(arms: Sequence[Arm]) -> list[str]:
    runs = [run for arm in arms for run in arm.runs]
    if not runs:
        return ["The records hold no final comparison."]
    lost = sum(run.status != "ok" for run in runs)
    return [
        f"No contender can be compared: none of the {len(runs)} runs outside the search has a test "
        f"score ({lost} ended early)."
    ]


def _search_only(found: Sequence[Configuration]) -> list[str]:
    best = [one for one in found if one.rank == 1 and one.estimate.mean is not None]
    return [
        f"Best of the search for {_name(one.contender)} on the dev split: {spread(one.estimate)} "
        f"over {_count(one.estimate.n, 'seed')}{_with_settings(one)}."
        for one in best
    ]


def _lead(winner: Arm, others: Sequence[Arm]) -> str:
    estimate = winner.estimate
    between = "" if estimate.low is None else f" (95% interval {_interval(estimate)})"
    mean = f"macro-F1 on the test split, {spread(estimate)} over {_count(estimate.n, 'seed')}"
    if not others:
        return (
            f"{_name(winner.label)} reaches a mean {mean}{between}. It is the only contender with "
            "test scores, so nothing is compared."
        )
    return f"{_name(winner.label)} has the best mean {mean}{between}."


def _searched(winner: Arm, found: Sequence[Configuration]) -> str:
    """Say which of the searched configurations the winner is; nothing where none was searched."""
    own = [one for one in found if one.contender == winner.runs[0].contender]
    chosen = [one for one in own if one.chosen]
    if len(chosen) != 1 or not chosen[0].settings:
        return ""
    values = escape(settings_text(chosen[0].settings))
    return f" It is the one of {len(own)} searched configurations with {values}."


def _rivals(others: Sequence[Arm], reference: Arm | None) -> list[Arm]:
    """Return the runner-up, and full finetuning where that is another arm."""
    return [arm for number, arm in enumerate(others) if number == 0 or arm is reference]


def _margin(winner: Arm, other: Arm, others: Sequence[Arm]) -> str:
    found = compare(winner, other)
    start = f"Against {_name(other.label)}"
    if found.mean is None:
        lead = (winner.estimate.mean or 0.0) - (other.estimate.mean or 0.0)
        return (
            f"{start} the means differ by {signed(lead)}; no seed is paired, so nothing says how "
            "sure it is."
        )
    pairs = _count(found.n, "paired seed")
    if found.low is None:
        return (
            f"{start} the difference is {signed(found.mean)} over {pairs}; that gives no interval, "
            "so nothing says how sure it is."
        )
    p = statistics.holm([compare(winner, one).t_p for one in others])[others.index(other)]
    corrected = f" after Holm's correction for {len(others)} comparisons" if others[1:] else ""
    between = interval(found.low, found.high, signs=True)
    evidence = (
        f"{start} the difference is {signed(found.mean)} (95% interval {between} over {pairs}; "
        f"p {p_value(p)} by the paired t test{corrected})"
    )
    if p is not None and p < _SIGNIFICANT and found.shown:
        return f"{evidence}: more than the noise between seeds explains."
    return f"{evidence}: these seeds do not show which of the two is better."


def _stability(winner: Arm, others: Sequence[Arm], reference: Arm | None) -> list[str]:
    """Return the sentence on variance, of the winner against full finetuning or the runner-up."""
    if not others:
        return []
    base = reference if reference is not None and reference is not winner else others[0]
    ours, theirs, paired = spread_scores(winner, base)
    text = variance.variance_sentence(winner.label, ours, base.label, theirs, paired=paired)
    p = variance.pitman_morgan(ours, theirs) if paired else None
    test = "" if p is None else f" Paired by seed (Pitman-Morgan): p {p_value(p)}."
    return [f"Stability: {escape(text)}.{test}"]


def _own_stages(arms: Sequence[Arm]) -> list[str]:
    """Return how the spread changes where every seed has a map and a warm-up of its own."""
    found = []
    for own in (arm for arm in arms if arm.own_stages and arm.values):
        name = own.runs[0].contender.removesuffix(OWN_STAGES)
        shared = next((arm for arm in arms if arm.runs[0].contender == name and arm.values), None)
        if shared is not None:
            ours, theirs, paired = spread_scores(own, shared)
            ratio = variance.variance_sentence(own.label, ours, shared.label, theirs, paired=paired)
            found.append(
                f"With sensitivity map and warm-up computed anew for every seed, {_name(name)} "
                f"scores {spread(own.estimate)}; with shared ones {spread(shared.estimate)}: "
                f"{escape(ratio)}."
            )
    return found


def _cost(winner: Arm, others: Sequence[Arm], reference: Arm | None) -> str:
    total = f"{operations(winner.flops)} and {seconds(winner.train_seconds)} of training"
    text = f"Cost of a run of {_name(winner.label)}: {total}"
    if reference is None:
        return f"{text}; full finetuning did not run, so there is nothing to hold it against."
    if reference is not winner:
        flops, time = map(multiple, relative_cost(winner, reference))
        return (
            f"{text}, {flops} times the operations and {time} times the seconds of "
            f"{_name(reference.label)}."
        )
    if not others:
        return f"{text}."
    flops, time = map(multiple, relative_cost(others[0], winner))
    return (
        f"{text}; the runner-up {_name(others[0].label)} takes {flops} times the operations and "
        f"{time} times the seconds and scores {score(others[0].estimate.mean)}."
    )


def _name(label: str) -> str:
    return f"**{escape(label)}**"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _interval(estimate: statistics.Estimate) -> str:
    return interval(estimate.low, estimate.high)


def _with_settings(found: Configuration) -> str:
    values = settings_text(found.settings)
    return f", with {escape(values)}" if values else ""
