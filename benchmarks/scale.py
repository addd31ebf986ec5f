"""Mining at scale: a generated corpus, how time and memory grow, and what more workers would give.

    python benchmarks/scale.py generate --documents 1000000 --out FOLDER --real DATA
    python benchmarks/scale.py run --work FOLDER --real DATA --write -- --mining.memory_gb 2
    python benchmarks/scale.py speedup --corpus FOLDER --write

``DATA`` holds corpora as ``NAME/train.parquet`` with a column ``text``, whose sentences are
resampled; without it sentences come from the demo corpus. ``run`` generates what it needs, starts
``jobs/mine.py`` for every size and number of workers, and gives the job what follows ``--``.
``speedup`` measures in this process, one thread.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

from adapt_ray.config import MiningConfig, ModelConfig
from adapt_ray.data.synthetic import demo_rows
from adapt_ray.mining.closed import mine_masked
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.masking import MaskedCorpus, mask
from adapt_ray.mining.partition import Shard
from adapt_ray.report.tables import Table, markdown
from generator import Recipe, real_texts, sentences, whole_words, write_corpus
from schedule import Item, expected, growth, packed
from section import provenance, write

_JOB = Path(__file__).resolve().parents[1] / "jobs" / "mine.py"
_DOCUMENTS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
_WORKERS = (8, 64, 512)
_DEMO_SEEDS = 5
_TEXTS_AT_ONCE = 20_000


# ---------------------------------------------------------------------------------------------
# The corpus


def _generate(options: argparse.Namespace) -> None:
    recipe = _recipe(options.real, options.seed)
    started = time.perf_counter()
    files = write_corpus(recipe, options.documents, options.out)
    size = sum(file.stat().st_size for file in files) / 2**20
    print(
        f"{options.documents:,} documents from {len(recipe.sentences):,} sentences in {options.out}"
        f": {len(files)} files, {size:.0f} MiB, {time.perf_counter() - started:.0f} s"
    )


def _recipe(real: Path | None, seed: int) -> Recipe:
    if real is None:
        texts = [t for s in range(_DEMO_SEEDS) for t in demo_rows(s)["train"].texts]
    else:
        texts = list(real_texts(real))
    vocabulary = _tokenizer().get_vocab()
    return Recipe(
        sentences(texts, seed), whole_words(sorted(vocabulary, key=vocabulary.__getitem__)), seed
    )


def _tokenizer() -> Any:
    from adapt_ray.tokenization.task_tokenizer import base_tokenizer

    return base_tokenizer(ModelConfig()).backend_tokenizer


# ---------------------------------------------------------------------------------------------
# Growth of time and memory


@dataclass(frozen=True)
class JobRun:
    """One mining job: its size, what it found and what it cost."""

    documents: int
    workers: int
    patterns: int
    wall_seconds: float
    encoding_seconds: float  # of the wall-clock: reading, distinct texts, tokenizing
    mining_seconds: float
    cpu_seconds: float  # user and system, all processes
    peak_bytes: int  # of all processes together; memory that they share counts once


def _run(options: argparse.Namespace) -> None:
    options.work.mkdir(parents=True, exist_ok=True)
    kept = options.work / "results.json"
    found: dict[str, JobRun] = {}
    if kept.exists():
        found = {key: JobRun(**values) for key, values in json.loads(kept.read_text()).items()}
    for documents in options.documents:
        corpus = options.work / f"documents-{documents}"
        if not corpus.exists():
            write_corpus(_recipe(options.real, options.seed), documents, corpus)
        for workers in options.workers:
            run = _mine(corpus, documents, workers, options)
            found[f"{documents} x {workers}"] = run
            kept.write_text(json.dumps({key: asdict(value) for key, value in found.items()}))
            print(run)
    runs = sorted(found.values(), key=lambda run: (run.workers, run.documents))
    body = "\n\n".join(
        [
            "## Scale: one job from 10 thousand to a million documents",
            provenance("adapt_ray", "ray", "numba", "numpy"),
            "Generated documents of about 40 tokens: real sentences, resampled, among words by "
            f"Zipf's law. `jobs/mine.py`, min_support {options.min_support}, max_gap "
            f"{options.max_gap}, empty storage, a local Ray with as many CPUs as workers. Memory is"
            " the largest sum over all processes, Ray's own included, of their proportional set "
            f"sizes, sampled every {options.sample_seconds:g} s.",
            markdown(_growth_table(runs)),
            *_statements(runs),
        ]
    )
    print(body)
    if options.write:
        write("scale", body)


def _mine(corpus: Path, documents: int, workers: int, options: argparse.Namespace) -> JobRun:
    storage = options.work / f"storage-{documents}-{workers}"
    shutil.rmtree(storage, ignore_errors=True)
    flags = {
        "data.source": corpus.resolve(),
        "storage": storage.resolve(),
        "mining.min_support": options.min_support,
        "mining.max_gap": options.max_gap,
    }
    given = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
    command = [sys.executable, str(_JOB), *given, *options.job_flags]
    environment = {**os.environ, "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": workers})}
    started, begun = time.perf_counter(), time.time()
    log = options.work / f"log-{documents}-{workers}.txt"
    with log.open("wb") as out:
        process = psutil.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        cpu, peak = _watch(process, options.sample_seconds)
    wall = time.perf_counter() - started
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()[-5:]
        raise SystemExit(f"{log}: status {process.returncode}: " + "\n".join(lines))
    encoded, patterns = (
        max((storage / "artifacts" / stage).glob("*/manifest.json"), key=os.path.getmtime)
        for stage in ("encoded", "patterns")
    )
    return JobRun(
        documents=documents,
        workers=workers,
        patterns=json.loads(patterns.read_text())["notes"]["patterns"],
        wall_seconds=wall,
        encoding_seconds=encoded.stat().st_mtime - begun,
        mining_seconds=patterns.stat().st_mtime - encoded.stat().st_mtime,
        cpu_seconds=cpu,
        peak_bytes=peak,
    )


def _watch(process: psutil.Popen, every: float) -> tuple[float, int]:
    """Wait for a process; return the CPU seconds and the peak bytes of it and all below it."""
    cpu: dict[int, float] = {}
    peak = 0
    while process.poll() is None:
        now = 0
        for member in _tree(process):
            with contextlib.suppress(psutil.Error):
                times = member.cpu_times()
                cpu[member.pid] = times.user + times.system
                now += member.memory_full_info().pss
        peak = max(peak, now)
        time.sleep(every)
    return sum(cpu.values()), peak


def _tree(process: psutil.Popen) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        yield process
        yield from process.children(recursive=True)


def _growth_table(runs: Sequence[JobRun]) -> Table:
    columns = (
        "Documents",
        "Workers",
        "Patterns",
        "Wall s",
        "of it reading and tokenizing",
        "of it mining",
        "CPU s",
        "Peak memory MiB",
    )
    rows = (
        (
            f"{run.documents:,}",
            str(run.workers),
            f"{run.patterns:,}",
            f"{run.wall_seconds:.0f}",
            f"{run.encoding_seconds:.0f}",
            f"{run.mining_seconds:.0f}",
            f"{run.cpu_seconds:.0f}",
            f"{run.peak_bytes / 2**20:,.0f}",
        )
        for run in runs
    )
    return Table(columns, tuple(rows))


def _statements(runs: Sequence[JobRun]) -> list[str]:
    """Say how the runs of each number of workers grow, and what more workers gave."""
    said = []
    for workers in sorted({run.workers for run in runs}):
        mine = [run for run in runs if run.workers == workers]
        if len(mine) > 1:
            first, last = mine[0], mine[-1]
            sizes = [run.documents for run in mine]
            said.append(
                f"{workers} worker{'s' * (workers > 1)}, {first.documents:,} to "
                f"{last.documents:,} documents: patterns grow like documents^"
                f"{growth(sizes, [run.patterns for run in mine]):.2f}, CPU time like "
                f"^{growth(sizes, [run.cpu_seconds for run in mine]):.2f}, the mining stage like "
                f"^{growth(sizes, [run.mining_seconds for run in mine]):.2f}, memory from "
                f"{first.peak_bytes / 2**20:,.0f} to {last.peak_bytes / 2**20:,.0f} MiB."
            )
    by_size = sorted(runs, key=lambda run: (run.documents, run.workers))
    for one, more in pairwise(by_size):
        if one.documents == more.documents:
            said.append(
                f"{one.documents:,} documents: mining is "
                f"{one.mining_seconds / more.mining_seconds:.2f} times as fast on {more.workers} "
                f"workers as on {one.workers}, the whole job "
                f"{one.wall_seconds / more.wall_seconds:.2f} times."
            )
    return said


# ---------------------------------------------------------------------------------------------
# Speed-up from measured costs


def _speedup(options: argparse.Namespace) -> None:
    corpus = _encoded(options.corpus, options.documents)
    limits = MiningConfig(min_support=options.min_support, max_gap=options.max_gap)
    documents, tokens = corpus.offsets.size - 1, corpus.tokens.size
    print(f"{documents:,} documents, {tokens:,} tokens")
    mask(EncodedCorpus.from_documents([[1]]), 1)  # loads the kernels
    started = time.process_time()
    masked = mask(corpus, limits.min_support)
    masking = time.process_time() - started
    fixed, items = _measured(masked, limits, options)
    alone = masking + sum(item.seconds for item in items)
    heaviest = max(items, key=lambda item: item.seconds)
    body = "\n\n".join(
        [
            "## Expected speed-up on more workers",
            provenance("adapt_ray", "numba", "numpy"),
            f"{documents:,} generated documents, {tokens:,} tokens, {len(items):,} frequent first "
            f"items, min_support {options.min_support}, max_gap {options.max_gap}. CPU seconds of "
            f"mining measured in one process: {alone:.2f} in all, {masking:.2f} of them to mask "
            f"infrequent tokens once; a task pays {fixed:.4f} before it searches. The heaviest "
            f"first item takes {heaviest.seconds:.2f} ({heaviest.seconds / alone:.1%}), and each "
            f"part of its two-item split {heaviest.root:.3f} on top of its share. The "
            f"{options.single} most frequent items were measured one by one, whole and split into "
            f"{options.pieces} parts, the others in {options.groups} groups, whose costs are shared"
            " out by occurrences.",
            "Computed, not run: tasks are packed by occurrences (longest first) and start heaviest "
            "first on the first free worker, 1 to 8 tasks a worker, whichever is best; masking "
            "comes before, on one worker; workers are as fast as this one; sending the corpus, "
            "collecting the patterns and what comes before and after mining take no time.",
            markdown(_speedup_table(items, fixed, masking, alone)),
        ]
    )
    print(body)
    if options.write:
        write("speedup", body)


def _encoded(folder: Path, most: int | None) -> EncodedCorpus:
    """Encode a generated corpus's training documents, or the first of them."""
    tokenizer = _tokenizer()
    documents: list[Any] = []
    for file in sorted(folder.glob("train-*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(_TEXTS_AT_ONCE, columns=["text"]):
            if most is not None and len(documents) >= most:
                break
            texts = batch.column(0).to_pylist()
            encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
            documents += [np.array(encoding.ids, np.int32) for encoding in encoded]
    return EncodedCorpus.from_documents(documents[:most])


def _measured(
    corpus: MaskedCorpus, limits: MiningConfig, options: argparse.Namespace
) -> tuple[float, list[Item]]:
    """Return what every task pays, and each frequent first item with its measured cost."""
    ordered = np.argsort(-corpus.occurrences, kind="stable").tolist()

    def seconds(numbers: list[int], part: tuple[int, int] = (0, 1)) -> float:
        shard = Shard(corpus.vocabulary[np.sort(np.array(numbers, np.int64))], part)
        started = time.process_time()
        mine_masked(corpus, limits, shard)
        return time.process_time() - started

    seconds(ordered[-1:])  # loads the kernels
    fixed = min(seconds(ordered[-1:]) for _ in range(5))
    items = []
    for number in ordered[: options.single]:
        whole = max(seconds([number]) - fixed, 0)
        parts = [(k, options.pieces) for k in range(options.pieces)]
        pieces = [max(seconds([number], part) - fixed, 0) for part in parts]
        root = max(sum(pieces) - whole, 0) / (options.pieces - 1)
        net = tuple(max(piece - root, 0) for piece in pieces)
        items.append(Item(int(corpus.occurrences[number]), whole, net, root))
        print(f"item {corpus.vocabulary[number]}: {whole:.3f} s, a part of it {root:.3f} s more")
    rest = ordered[options.single :]
    for members in packed(corpus.occurrences[rest].tolist(), options.groups):
        group = [rest[i] for i in members]
        spent = max(seconds(group) - fixed, 0)
        share = spent / int(corpus.occurrences[group].sum())
        items += [Item(n, n * share) for n in corpus.occurrences[group].tolist()]
        print(f"group of {len(group)} items: {spent:.3f} s")
    return fixed, items


def _speedup_table(items: Sequence[Item], fixed: float, masking: float, alone: float) -> Table:
    columns = ("Workers", "Split", "Tasks", "Seconds", "Speed-up", "Efficiency")
    rows = []
    for workers in _WORKERS:
        for split in (False, True):
            best = expected(items, fixed, workers, split=split)
            wall = masking + best.seconds
            rows.append(
                (
                    str(workers),
                    "two-item" if split else "none",
                    str(best.tasks),
                    f"{wall:.2f}",
                    f"{alone / wall:.1f}",
                    f"{alone / wall / workers:.0%}",
                )
            )
    return Table(columns, tuple(rows))


# ---------------------------------------------------------------------------------------------
# Command line


def main() -> None:
    """Do what the command line asks for."""
    arguments = sys.argv[1:]
    job_flags: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, job_flags = arguments[:cut], arguments[cut + 1 :]
    options = _parser().parse_args(arguments)
    options.job_flags = job_flags
    options.function(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)

    generate = commands.add_parser("generate", help="write a corpus as train, dev and test files")
    generate.add_argument("--documents", type=int, required=True, help="rows of train")
    generate.add_argument("--out", type=Path, required=True, help="folder for the files")
    _add_recipe(generate)
    generate.set_defaults(function=_generate)

    run = commands.add_parser("run", help="mine corpora of growing size with jobs/mine.py")
    run.add_argument("--work", type=Path, required=True, help="folder for corpora, logs, results")
    run.add_argument("--documents", type=int, nargs="+", default=_DOCUMENTS, metavar="N")
    run.add_argument("--workers", type=int, nargs="+", default=(1, 2), metavar="N")
    run.add_argument("--sample-seconds", type=float, default=0.5, metavar="S")
    _add_recipe(run)
    _add_limits(run)
    run.set_defaults(function=_run)

    speedup = commands.add_parser("speedup", help="compute the speed-up from measured costs")
    speedup.add_argument("--corpus", type=Path, required=True, help="a generated folder")
    speedup.add_argument("--documents", type=int, help="only the first of its documents")
    speedup.add_argument(
        "--single", type=int, default=48, help="items to measure one by one [48]", metavar="N"
    )
    speedup.add_argument(
        "--groups", type=int, default=16, help="groups of the other items [16]", metavar="N"
    )
    speedup.add_argument(
        "--pieces", type=int, default=16, help="parts to split a heavy item in [16]", metavar="N"
    )
    _add_limits(speedup)
    speedup.set_defaults(function=_speedup)
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--real", type=Path, metavar="DATA", help="corpora to take sentences from")
    parser.add_argument("--seed", type=int, default=0)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--min-support", type=int, default=20)
    parser.add_argument("--max-gap", type=int, default=1)
    parser.add_argument(
        "--write", action="store_true", help="write the section of docs/BENCHMARKS.md"
    )


if __name__ == "__main__":
    main()
