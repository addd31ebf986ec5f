"""Every command that the project documents can be given as it stands.

Jobs' commands are decoded by the jobs' own decoder, Ray's by Ray's own command line, benchmarks' by
the flags that they define.
"""

import ast
import contextlib
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from adapt_ray import config
from adapt_ray.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMAND = re.compile(
    r"(sudo )?((python3? (jobs|benchmarks|cluster|tests)/\w)|(python3? -m adapt_ray)|"
    r"(ray (job|up|down|dashboard|exec|attach|start|symmetric-run|get-auth-token|status)\b)|"
    r"(sbatch )|(make \w)|(serve run ))"
)
# What stands in a command for what the reader has.
PLACEHOLDERS = re.compile(r"(^|/)[A-Z_]+\.ya?ml$")


def fenced(text: str) -> Iterator[str]:
    """Yield the lines of code blocks, those that end with a backslash joined with the next."""
    for block in re.findall(r"^ *```(?:sh|bash|console)?\n(.*?)^ *```", text, re.M | re.S):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()


def inline(text: str) -> Iterator[str]:
    """Yield code spans; one may run over the end of a line."""
    outside = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", outside):
        yield re.sub(r"\s*\n\s*", " ", span)


def in_comments(text: str, sign: str = "#") -> Iterator[str]:
    """Yield the lines of comments (or docstrings) that begin with a command, continued or not."""
    for line in re.sub(rf"\\\n{sign}?\s*", "", text).splitlines():
        yield line.removeprefix(sign).strip()


def strings(value: Any) -> Iterator[str]:
    """Yield every string within a decoded YAML file."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


def commands_of(path: Path) -> list[str]:
    """Return the commands that a file documents or runs."""
    text = path.read_text(encoding="utf-8")
    found: list[str] = []
    if path.suffix == ".md":
        found += [*fenced(text), *inline(text)]
    else:
        found += in_comments(text)
    if path.suffix == ".yaml":
        found += [s for document in yaml.safe_load_all(text) for s in strings(document)]
    found = [line.strip().removeprefix("$ ").strip() for line in found]
    return [re.sub(r"^sudo ", "", line) for line in found if COMMAND.match(line)]


FILES = [
    *PAGES,
    *sorted((ROOT / "cluster").rglob("*.yaml")),
    *sorted((ROOT / "cluster").glob("*.sh")),
    *sorted((ROOT / "jobs").rglob("*.yaml")),
    *sorted((ROOT / "jobs").glob("*.py")),
]
COMMANDS = sorted({(path, command) for path in FILES for command in commands_of(path)})


def job_model(path: Path) -> type[config.Config]:
    """Return what a job's command line is decoded into, read from its source."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "cli.main":
            model: type[config.Config] = getattr(config, ast.unparse(node.args[0]))
            return model
    raise AssertionError(f"{path} runs no job")


def without_placeholders(arguments: list[str]) -> list[str]:
    given = [each for each in arguments if not PLACEHOLDERS.search(each)]
    return [each for each in given if each not in ("...", "--help")]


def check_module(arguments: list[str]) -> None:
    package, command, *rest = arguments
    assert package == "adapt_ray"
    assert command in ("doctor", "onnx")
    if command == "doctor":
        job, rest = (rest[0], rest[1:]) if rest and rest[0].isalpha() else ("sweep", rest)
        model = job_model(ROOT / "jobs" / f"{job}.py")
        config.parse(model, without_placeholders(rest), prog="doctor")


def check_python(arguments: list[str]) -> None:
    script, *rest = arguments
    if script == "-m":
        check_module(rest)
        return
    path = ROOT / script
    assert path.is_file(), f"{script} does not exist"
    if script.startswith("jobs/"):
        config.parse(job_model(path), without_placeholders(rest), prog=script)
        return
    if "--" in rest:
        check(rest[rest.index("--") + 1 :])
        rest = rest[: rest.index("--")]
    source = "".join(each.read_text(encoding="utf-8") for each in path.parent.glob("*.py"))
    flags = [each.partition("=")[0] for each in rest if each.startswith("--")]
    for flag in (each for each in flags if each != "--help"):
        passed_on = "." in flag  # to the jobs that the benchmark runs
        assert passed_on or f'"{flag}"' in source, f"{script} has no {flag}"


def check_ray(arguments: list[str]) -> None:
    from ray.scripts.scripts import cli

    command: click.Command = cli
    rest = list(arguments)
    while isinstance(command, click.Group):
        command = command.commands[rest.pop(0)]
    options = rest[: rest.index("--")] if "--" in rest else rest
    # What is only mentioned (`ray job submit`) need not be complete.
    given = [*options, *(["x"] if "--" in rest else [])]
    with contextlib.suppress(click.MissingParameter):
        command.parse_args(click.Context(command), given)
    if "--" in rest:
        check(rest[rest.index("--") + 1 :])


def check_make(arguments: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for each in arguments:
        assert each in targets or "=" in each, f"make has no target {each}"


def check_sbatch(arguments: list[str]) -> None:
    at = next(i for i, each in enumerate(arguments) if each.endswith(".sh"))
    assert (ROOT / arguments[at]).is_file()
    check_python(arguments[at + 1 :])


def check_serve(arguments: list[str]) -> None:
    target, *given = (each for each in arguments[1:] if not each.startswith("--"))
    module, _, name = target.partition(":")
    assert hasattr(importlib.import_module(module), name)
    values = dict(each.split("=", 1) for each in given)
    config.decode(config.ServeConfig, {k: yaml.safe_load(v) for k, v in values.items()}, "argument")


def check(arguments: list[str]) -> None:
    """Raise where a command names what does not exist."""
    program, *rest = arguments
    checks = {
        "ray": check_ray,
        "make": check_make,
        "sbatch": check_sbatch,
        "serve": check_serve,
    }
    checks.get(program, lambda given: check_python(given) if "python" in program else None)(rest)


def split(command: str) -> list[str]:
    """Return a command's words, without what follows it in the shell."""
    words = shlex.split(re.sub(r"<[^<>]*>", "X", command), comments=True)
    for stop in ("|", "&", "&&", ";", ">", "<", ">/dev/null"):
        if stop in words:
            words = words[: words.index(stop)]
    return words


@pytest.mark.parametrize(
    ("path", "command"),
    [pytest.param(p, c, id=f"{p.relative_to(ROOT)}: {c[:60]}") for p, c in COMMANDS],
)
def test_a_documented_command_can_be_given(
    path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    check(split(command))


@pytest.mark.parametrize(
    "command",
    [
        "python jobs/sweeps.py",
        "python jobs/sweep.py --search.concurency 2",
        "python jobs/sweep.py jobs/recipes/nothing.yaml",
        "python jobs/finetune.py --seed minus",
        "python benchmarks/quality.py --no-such-flag",
        "ray job submit --working-dir . -- python jobs/sweep.py --storge x",
        "ray job submit --work-dir . -- python jobs/sweep.py",
        "ray job submitt -- python jobs/sweep.py",
        "ray up --yess cluster/aws.yaml",
        "make everything",
        "python -m adapt_ray doctors",
        "python -m adapt_ray doctor sweep --storge x",
        "serve run adapt_ray.distributed.serve:app modl=x",
        "serve run adapt_ray.distributed.serve:application model=x",
        "sbatch --nodes 2 cluster/slurm.sh jobs/sweep.py --search.seed 3",
    ],
)
def test_a_wrong_command_would_be_found(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises((AssertionError, InputError, click.ClickException, KeyError)):
        check(split(command))


CODE = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}, block {number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    )
]


@pytest.mark.parametrize("block", CODE)
def test_documented_python_compiles_and_finds_what_it_imports(block: str) -> None:
    tree = ast.parse(block)
    compile(tree, "block", "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_pages_and_cluster_files_hold_commands() -> None:
    """What collects commands finds them: else nothing above would be checked."""
    found = {path.name for path, _ in COMMANDS}
    assert {"README.md", "CLUSTER.md", "rayjob.yaml", "slurm.sh", "demo.yaml", "sweep.py"} <= found
    assert len(COMMANDS) > 60
