"""The report's section on the search: what was tried, what it gave, what decided."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from adapt_ray.report import figures, importance, search_figures, tables
from adapt_ray.report.groups import Configuration, Study, configurations
from adapt_ray.report.tables import markdown
from adapt_ray.report.wording import escape
from adapt_ray.report.writer import Writer


def search(writer: Writer, study: Study, curves: Mapping[str, pa.Table]) -> list[str]:
    """Return the section, as blocks of Markdown; empty without a search.

    ``curves`` as in :func:`adapt_ray.report.document.write_report`.
    """
    found = configurations(study.runs)
    if not found:
        return []
    blocks = [
        writer.heading("Search"),
        "Judged on the dev split alone. Configurations that the race dropped rank below those "
        "that ran all their seeds.",
        markdown(tables.search(study.runs)),
    ]
    figure = search_figures.search_scores(found)
    if figure is not None:
        blocks.append(writer.figure(figure, "search", "Dev score by searched value"))
    for number, contender in enumerate(dict.fromkeys(one.contender for one in found), 1):
        own = [one for one in found if one.contender == contender]
        blocks += _of_contender(writer, own, number, curves)
    return [*blocks, *_trade_offs(writer, found)]


def _of_contender(
    writer: Writer,
    found: Sequence[Configuration],
    number: int,
    curves: Mapping[str, pa.Table],
) -> list[str]:
    name = escape(found[0].contender)
    blocks = []
    lines = search_figures.parallel_coordinates(found)
    if lines is not None:
        caption = f"What each configuration of {name} was and what it gave"
        blocks.append(writer.figure(lines, f"search-lines-{number}", caption))
    blocks += _importance(writer, found, number)
    raced = search_figures.race(found)
    if raced is not None:
        caption = f"Which seeds each configuration of {name} ran"
        blocks.append(writer.figure(raced, f"race-{number}", caption))
    by_rank = {
        f"rank {one.rank}": [curves[run.run_id] for run in one.runs if run.run_id in curves]
        for one in found
    }
    if any(map(len, by_rank.values())):
        drawn = figures.learning_curves({k: v for k, v in by_rank.items() if v})
        caption = f"Learning curves of the search for {name}"
        blocks.append(writer.figure(drawn, f"search-curves-{number}", caption))
    return blocks


def _importance(writer: Writer, found: Sequence[Configuration], number: int) -> list[str]:
    if not any(one.settings for one in found):
        return []
    name = escape(found[0].contender)
    ranked = importance.importances(found)
    if not ranked:
        return [
            f"Which parameter of {name} matters is not estimated from {len(found)} configurations; "
            f"that takes {importance.FEWEST} with a score, and more to say something."
        ]
    clear = [escape(one.name.rpartition(".")[2]) for one in ranked if one.share > one.by_chance]
    verdict = (
        f"more than shuffled scores do in 95 of 100 cases: {', '.join(clear)}"
        if clear
        else "none more than shuffled scores do in 95 of 100 cases, so that nothing is shown"
    )
    caption = f"How much each parameter of {name} decides"
    return [
        f"How much each parameter decides whether a configuration of {name} is among the best, "
        f"judged by {len(found)} configurations: {verdict}.",
        writer.figure(search_figures.importances(ranked), f"importance-{number}", caption),
    ]


def _trade_offs(writer: Writer, found: Sequence[Configuration]) -> list[str]:
    figure = search_figures.trade_offs(found)
    if figure is None:
        return []
    return [
        writer.heading("Score, spread and operations"),
        "The Pareto front of the configurations that ran all their seeds: no other is at least as "
        "good in mean dev macro-F1, in its standard deviation over seeds and in operations, and "
        "better in one of the three. Standard deviations of few seeds are themselves uncertain, "
        "and what hardly learns is steady too, so that a small spread alone is no merit.",
        markdown(tables.trade_offs(found)),
        writer.figure(figure, "trade-offs", "Dev score against operations and spread"),
    ]
