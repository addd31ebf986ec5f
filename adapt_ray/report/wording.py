"""Numbers and names as a reader wants to see them, safe inside Markdown."""

import html
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from adapt_ray.report.statistics import Estimate

MISSING = "-"


def escape(text: str) -> str:
    """Return text that Markdown and HTML show as it is, on one line."""
    line = " ".join(text.split())
    visible = "".join("\ufffd" if unicodedata.category(c) == "Cc" else c for c in line)
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", html.escape(visible, quote=False))


def score(value: float | None) -> str:
    """Return a score or a difference with three decimals."""
    return MISSING if value is None else f"{value:.3f}"


def spread(estimate: Estimate) -> str:
    """Return mean and standard deviation."""
    deviation = "" if estimate.sd is None else f" ± {estimate.sd:.3f}"
    return score(estimate.mean) + deviation


def interval(low: float | None, high: float | None, *, signs: bool = False) -> str:
    """Return an interval; the differences' ends carry their signs."""
    if low is None or high is None:
        return MISSING
    return f"{signed(low)} to {signed(high)}" if signs else f"{low:.3f} to {high:.3f}"


def p_value(value: float | None) -> str:
    """Return a p value to two digits, none below one in a thousand."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def share(value: float | None) -> str:
    """Return a fraction as a percentage."""
    return MISSING if value is None else f"{100 * value:.3g}%"


def seconds(value: float | None) -> str:
    """Return a duration in the unit that a reader would choose."""
    if value is None:
        return MISSING
    if value < 100:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def size(value: float | None) -> str:
    """Return bytes as MB or GB (powers of ten)."""
    if value is None:
        return MISSING
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def operations(value: float | None) -> str:
    """Return floating-point operations with a decimal prefix."""
    if value is None:
        return MISSING
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}FLOP"
    return f"{value / 1e6:.3g} MFLOP"


def multiple(value: float | None) -> str:
    """Return a cost ratio with two decimals."""
    if value is None:
        return MISSING
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def setting(value: Any) -> str:
    """Return a searched value."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return searched values by the last part of their names."""
    return ", ".join(
        f"{name.rpartition('.')[2]} {setting(value)}" for name, value in settings.items()
    )


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    return MISSING if value is None else f"{value:+.3f}"
