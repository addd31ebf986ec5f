"""Where a report's figures go: files beside the Markdown, drawings inside the page."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from adapt_ray.report import drawing


@dataclass(frozen=True)
class Writer:
    """Where one study's figures go and what its headings end in.

    ``drawings`` collects what was drawn: SVG by the name of the PNG that shows the same.
    """

    folder: Path
    drawings: dict[str, bytes]
    heading_end: str = ""
    file_end: str = ""

    def heading(self, text: str) -> str:
        """Return a section's heading in Markdown."""
        return f"## {text}{self.heading_end}"

    def figure(self, figure: Figure, name: str, caption: str) -> str:
        """Save a figure and return the Markdown that shows it; ``caption`` is Markdown too."""
        file = f"{name}{self.file_end}.png"
        drawing.save(figure, self.folder / file)
        self.drawings[file] = drawing.svg(figure)
        return f"![{caption}]({file})"
