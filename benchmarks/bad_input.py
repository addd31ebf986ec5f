"""What every job says to malformed input: docs/BAD_INPUT.md, from the cases that are tested.

python benchmarks/bad_input.py --write
"""

import contextlib
import hashlib
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "BAD_INPUT.md"
_HEAD = """# Bad input

{count} malformed inputs and the one line that the job prints for each, before it starts Ray and
with nothing written into the storage. The exit status is 2. `WORK` stands for the folder that the
inputs lie in, `PACKAGE` for the folder of installed packages.

Written by `python benchmarks/bad_input.py --write`; `tests/jobs/test_bad_input.py` runs the same
list, and fuzzes recipes, flags and corpora beside it.
"""


@dataclass(frozen=True)
class Outcome:
    """What a job did with its input."""

    status: int
    out: str
    error: str  # machine paths replaced
    changed: tuple[str, ...]  # files of the storage that are new, gone or different


def run(
    job: str,
    flags: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
) -> Outcome:
    """Run a job's ``main`` in this process, below ``folder``; a start of Ray is an error."""
    from adapt_ray import cli, config

    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    module = importlib.import_module(f"jobs.{job}")
    model = getattr(config, f"{job.capitalize()}Job")
    before = _files(folder / "runs")
    out, error = io.StringIO(), io.StringIO()
    with (
        no_ray(),
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", [f"jobs/{job}.py", *flags]),
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        status = cli.main(model, getattr(module, job))
    after = _files(folder / "runs")
    changed = (name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return Outcome(status, out.getvalue(), placeless(error.getvalue(), folder), tuple(changed))


@contextlib.contextmanager
def no_ray() -> Iterator[None]:
    """Make a start of Ray fail: bad input must be found before."""
    import ray

    started = AssertionError("Ray was started before the input was checked")
    with mock.patch.object(ray, "init", side_effect=started):
        yield


def placeless(text: str, folder: Path) -> str:
    """Return the text without the paths of this machine."""
    packages = Path(os.__file__).parent / "site-packages"
    for place, name in ((folder, "WORK"), (packages, "PACKAGE")):
        for form in (str(place.resolve()), str(place)):
            text = text.replace(form, name)
    return text


def _files(folder: Path) -> dict[str, str]:
    """Return a digest of every file and a mark for every folder below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


def document() -> str:
    """Run every case, and return the table of what was printed."""
    from adapt_ray.report.tables import Table, markdown
    from bad_input_cases import GROUPS, Workshop

    blocks = []
    for group, cases in GROUPS.items():
        rows = []
        for case in cases:
            with tempfile.TemporaryDirectory(prefix="adapt_ray-") as folder:
                workshop = Workshop(Path(folder))
                found = run(case.job, case.flags(workshop), Path(folder), case.environment)
            if found.status != case.status:
                raise SystemExit(f"{case.name}: exit status {found.status}: {found.error}")
            rows.append((case.name, case.job, found.error.strip()))
            print(f"{case.job}: {found.error.strip()}")
        table = markdown(Table(("Input", "Job", "What it prints"), tuple(rows)))
        blocks += [f"## {group}", table.replace("| --: |", "| :-- |").replace("--:", ":--")]
    count = sum(len(cases) for cases in GROUPS.values())
    return "\n\n".join([_HEAD.format(count=count).strip(), *blocks]) + "\n"


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    text = document()
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(text, encoding="utf-8")
        print(f"written to {DOCUMENT}")
