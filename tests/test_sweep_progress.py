import io
import re

import pytest
from rich.console import Console

from adapt_ray.sweep_progress import SweepProgress


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


def test_plain_lines_tell_runs_decisions_and_how_far_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with SweepProgress("search", 3, 4, console=plain()) as progress:
        progress.began("adapt #0", [])
        progress.began("adapt #1", [0.5])
        progress.scored("adapt #0", 0, 0.8)
        progress.scored("adapt #1", 1, 0.6)
        progress.ended("adapt #1", "dropped")
        progress.scored("adapt #0", 1, 0.7)
        progress.ended("adapt #0", "finished")
        progress.began("adapt [2]", [])
        progress.ended("adapt [2]", "failed", "out of memory")
    lines = capsys.readouterr().err.splitlines()
    said = [re.sub(r" \[.*", "", line) for line in lines]
    assert said == [
        "search: adapt #0 seed 0: dev macro-F1 0.800, mean so far 0.800",
        "search: adapt #1 seed 1: dev macro-F1 0.600, mean so far 0.550",
        "search: adapt #1 dropped after 2 seeds, mean 0.550",
        "search: adapt #0 seed 1: dev macro-F1 0.700, mean so far 0.750",
        "search: adapt #0 finished after 2 seeds, mean 0.750",
        "search: adapt",
    ]
    assert "adapt [2] failed: out of memory" in lines[-1]
    assert "3 of 3 configurations, best adapt #0 0.750" in lines[-1]


def test_the_time_left_takes_dropped_configurations_for_the_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("adapt_ray.sweep_progress.time.monotonic", lambda: now[0])
    progress = SweepProgress("search", 10, 8, console=plain())
    assert progress.seconds_left() is None
    progress.began("a", [])
    now[0] += 30
    progress.scored("a", 0, 0.5)
    # Nothing is known of drops: 80 runs in all, 79 left, 30 s each.
    assert progress.seconds_left() == pytest.approx(79 * 30)
    now[0] += 30
    progress.scored("a", 1, 0.5)
    progress.ended("a", "dropped")
    # Nine configurations are left, two runs each as the one that is through.
    assert progress.seconds_left() == pytest.approx(9 * 2 * 30)


def test_a_terminal_shows_the_race_and_markup_in_names_is_shown_as_it_is() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=90)
    with SweepProgress("search", 2, 5, console=console) as progress:
        progress.began("[red]adapt #0", [0.5, 0.6])
        progress.scored("[red]adapt #0", 2, 0.7)
        table = progress._table()
    shown = Console(file=io.StringIO(), width=90, record=True)
    shown.print(table)
    text = shown.export_text()
    assert "[red]adapt #0" in text
    assert "●●●○○" in text
    assert "0.600" in text
    assert "[red]adapt #0 seed 2: dev macro-F1 0.700" in screen.getvalue()
