"""Closed-sequence mining side by side with other miners, each in a process of its own.

    python benchmarks/mining.py --quick
    python benchmarks/mining.py --data FOLDER --spmf-jar spmf.jar --write

``--quick`` mines the generated demo corpus and needs nothing else. ``FOLDER`` holds corpora as
``NAME/train.parquet`` with a column ``text``. The peers are SPMF's BIDE+ (Java 17 on the PATH and
the jar of SPMF's authors, https://www.philippe-fournier-viger.com/spmf), prefixspan in closed mode
and PySpark's MLlib PrefixSpan (``pip install -e '.[bench]'``; Spark needs Java 17 as well). A peer
that is not there is left out, and the table says so.
"""

import argparse
import importlib.util
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from adapt_ray.config import ModelConfig
from adapt_ray.data.cleaning import first_rows, normaliser, text_ids
from adapt_ray.data.synthetic import demo_rows
from adapt_ray.data.tasks import TASKS
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.patterns import Patterns
from adapt_ray.report.tables import Table, markdown
from measure import Usage, measure
from miners import read_patterns
from section import provenance, write

Items = tuple[int, ...]

_MINERS = Path(__file__).with_name("miners.py")
_PEERS = ("spmf", "prefixspan", "spark")
_PARTS = ("peers", "gaps", "threads", "start")
_NO_LIMIT = {"min_length": 1, "max_length": 1_000_000, "max_gap": None}
_NO_CAPS = {"max_patterns": 100_000_000, "max_seconds": None, "memory_gb": 64}
_NOTHING = "nothing_frequent"  # the database that start-up is measured on
_RT_SENTENCES = 10_662  # as many as rt-polarity has
_GAP_SUPPORT = 5


@dataclass(frozen=True)
class Case:
    """One comparison: a corpus, a least support, and what Spark must be spared."""

    corpus: str
    min_support: int
    spark_length: int = 10  # longest pattern; MLlib's default, less where all frequent are too many

    @property
    def name(self) -> str:
        """The case as ``--cases`` and the table name it."""
        return f"{self.corpus}@{self.min_support}"


_CASES = (
    Case("rt_polarity", 100),
    Case("rt_polarity", 20),
    Case("rt_polarity", 5),
    Case("rt_reviews", 20),
    Case("rt_reviews", 5),
    Case("scierc", 50, spark_length=4),
)
_QUICK = (Case("demo", 20),)


@dataclass(frozen=True)
class Run:
    """One process: its cost, and what it saw inside itself."""

    usage: Usage
    inside: dict[str, float]

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.usage.status == 0


@dataclass(frozen=True)
class Difference:
    """How a peer's patterns differ from ours."""

    missing: int
    extra: int
    wrong_support: int

    def __str__(self) -> str:
        if self == Difference(0, 0, 0):
            return "identical"
        return (
            f"{self.missing:,} missing, {self.extra:,} extra, "
            f"{self.wrong_support:,} with wrong support"
        )


def difference(ours: dict[Items, int], theirs: Iterable[tuple[Items, int]]) -> Difference:
    """Compare patterns with supports; one that a peer gives twice is extra the second time."""
    left = dict(ours)
    extra = wrong = 0
    for items, support in theirs:
        expected = left.pop(items, None)
        extra += expected is None
        wrong += expected is not None and expected != support
    return Difference(len(left), extra, wrong)


@dataclass
class Bench:
    """A folder of encoded corpora and the ways to run a miner on them."""

    folder: Path
    options: argparse.Namespace
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # documents, tokens

    def encode(self, name: str, texts: Sequence[str]) -> None:
        """Write a corpus as every miner reads it, and a database in which nothing is frequent."""
        from adapt_ray.tokenization.task_tokenizer import base_tokenizer

        tokenizer = base_tokenizer(ModelConfig()).backend_tokenizer
        encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        documents = [encoding.ids for encoding in encodings]
        for corpus, content in ((name, documents), (_NOTHING, [[1], [2]])):
            self.sizes[corpus] = (len(content), sum(map(len, content)))
            self._save(self.folder / corpus, content)

    def ours(
        self, corpus: str, limits: dict[str, Any], *, threads: int = 1, warm: bool = False
    ) -> Run:
        """Mine with ours once; ``warm``: all code is loaded before anything is measured."""
        command = self._python("ours", corpus, limits)
        command += ["--threads", str(threads)] + ["--warm"] * warm
        run = self._run(command, f"{corpus} ours")
        if not run.finished:
            raise SystemExit(f"adapt_ray gave no result on {corpus} with {limits}")
        return run

    def repeated(
        self, corpus: str, limits: dict[str, Any], *, threads: int = 1, warm: bool = False
    ) -> list[Run]:
        """Mine with ours a number of times, after one run that fills the cache of kernels."""
        return [
            self.ours(corpus, limits, threads=threads, warm=warm)
            for _ in range(self.options.repeats + 1)
        ][1:]

    def peer(self, name: str, case: Case, corpus: str) -> Run:
        """Mine a corpus under a case's limits with a peer, once."""
        if name == "spmf":
            share = (case.min_support - 0.5) / self.sizes[corpus][0]  # SPMF rounds up
            jar = str(self.options.spmf_jar.resolve())
            source = str(self.folder / corpus / "documents.spmf")
            target = str(self.result / "patterns.txt")
            command = ["java", "-jar", jar, "run", "BIDE+", source, target, f"{share:.12f}"]
        else:
            limits = {"min_support": case.min_support, "max_length": case.spark_length}
            command = self._python(name, corpus, limits)
        return self._run(command, f"{corpus}@{case.min_support} {name}")

    @property
    def result(self) -> Path:
        """The folder that the next process writes into."""
        return self.folder / "result"

    def _python(self, miner: str, corpus: str, limits: dict[str, Any]) -> list[str]:
        places = [str(self.folder / corpus), str(self.result)]
        return [sys.executable, str(_MINERS), miner, *places, "--limits", json.dumps(limits)]

    def _run(self, command: list[str], label: str) -> Run:
        shutil.rmtree(self.result, ignore_errors=True)
        self.result.mkdir()
        usage = measure(command, self.folder, self.options.limit)
        print(f"{label}: {usage.user_seconds:.2f} s user, {usage.peak_bytes / 2**20:.0f} MiB")
        if usage.status and not usage.stopped:
            last = (self.folder / "log.txt").read_text(errors="replace").strip().splitlines()[-1:]
            print(f"{label}: ended with status {usage.status}: {' '.join(last)}")
        inside = self.result / "inside.json"
        return Run(usage, json.loads(inside.read_text()) if inside.exists() else {})

    @staticmethod
    def _save(folder: Path, documents: list[list[int]]) -> None:
        folder.mkdir(exist_ok=True)
        EncodedCorpus.from_documents(documents).save(folder)
        with (folder / "documents.spmf").open("w") as out:
            for document in documents:
                out.write("".join(f"{item} -1 " for item in document) + "-2\n")


# ---------------------------------------------------------------------------------------------
# Corpora


def _texts(name: str, options: argparse.Namespace) -> list[str]:
    """Return the rows that DESIGN's figures were measured on: as they are, repeats included."""
    if name == "demo":
        return list(demo_rows()["train"].texts)
    if name == "rt_polarity":  # the file of its authors is no valid UTF-8: read byte by byte
        files = [options.rt_polarity / f"rt-polarity.{part}" for part in ("pos", "neg")]
        lines = b"".join(file.read_bytes() for file in files).split(b"\n")
        return [line.decode("latin-1") for line in lines if line]
    return _rows(name, options)[: _RT_SENTENCES if name == "rt_reviews" else None]


def _rows(name: str, options: argparse.Namespace) -> list[str]:
    return [
        str(text)
        for text in pq.read_table(options.data / name / "train.parquet")["text"].to_pylist()
    ]


def _distinct(name: str, options: argparse.Namespace) -> list[str]:
    """Return the distinct training texts without markers, as the mining job reads them."""
    texts = _texts(name, options) if name == "demo" else _rows(name, options)
    markers = TASKS[name].markers if name in TASKS else ()
    first = first_rows(text_ids(texts, markers)).tolist()
    return list(filter(None, map(normaliser(markers), (texts[row] for row in first))))


# ---------------------------------------------------------------------------------------------
# Tables


def _peers_table(bench: Bench, cases: Sequence[Case], peers: Sequence[str]) -> Table:
    columns = (
        "Corpus@support",
        "Miner",
        "Patterns",
        "Against ours",
        "User s, process",
        "User s, load + mine",
        "Wall s, process",
        "Ratio, process",
        "Ratio, load + mine",
        "Peak RSS MiB",
    )
    rows: list[tuple[str, ...]] = []
    for case in cases:
        limits = {"min_support": case.min_support, **_NO_LIMIT, **_NO_CAPS}
        runs = bench.repeated(case.corpus, limits)
        patterns = Patterns.load(bench.result).as_mapping()
        best = min(runs, key=lambda run: run.usage.user_seconds)
        mined = min(run.inside["user_seconds"] for run in runs)
        rows.append(
            (
                f"{case.name} ({bench.sizes[case.corpus][0]:,} documents, "
                f"{bench.sizes[case.corpus][1]:,} tokens)",
                "adapt_ray",
                f"{len(patterns):,}",
                "",
                _spread([run.usage.user_seconds for run in runs]),
                _spread([run.inside["user_seconds"] for run in runs]),
                f"{min(run.usage.wall_seconds for run in runs):.2f}",
                "1",
                "1",
                _mebibytes(best.usage.peak_bytes),
            )
        )
        for peer in peers:
            rows.append(_peer_row(bench, case, peer, patterns, best.usage.user_seconds, mined))
    return Table(columns, tuple(rows))


def _peer_row(
    bench: Bench, case: Case, peer: str, patterns: dict[Items, int], total: float, mined: float
) -> tuple[str, ...]:
    start = bench.peer(peer, case, _NOTHING).usage.user_seconds
    run = bench.peer(peer, case, case.corpus)
    used = run.usage.user_seconds
    if not run.finished:
        reason = f"no result in {bench.options.limit:.0f} s" if run.usage.stopped else "failed"
        at_least = "> " if run.usage.stopped else ""
        ratios = (f"{at_least}{used / total:.1f}", f"{at_least}{(used - start) / mined:.1f}")
        costs = (f"{at_least}{used:.2f}", f"{at_least}{used - start:.2f}")
        if not run.usage.stopped:
            ratios = costs = ("", "")
        return (case.name, _LABELS[peer], "", reason, *costs, "", *ratios, "")
    expected = patterns
    if peer == "spark":
        expected = {i: s for i, s in patterns.items() if len(i) <= case.spark_length}
    found = 0

    def counted() -> Iterator[tuple[Items, int]]:
        nonlocal found
        for pattern in read_patterns(bench.result):
            found += 1
            yield pattern

    against = difference(expected, counted())
    said = str(against)
    if peer == "spark":  # it has no closed mode: what is not closed is extra, not wrong
        said = (
            f"not closed, at most {case.spark_length} items; of our {len(expected):,} closed ones "
            f"of that length {against.missing:,} missing, {against.wrong_support:,} with wrong "
            "support"
        )
    return (
        case.name,
        _LABELS[peer],
        f"{found:,}",
        said,
        f"{used:.2f}",
        f"{used - start:.2f}",
        f"{run.usage.wall_seconds:.2f}",
        f"{used / total:.1f}",
        f"{(used - start) / mined:.1f}",
        _mebibytes(run.usage.peak_bytes),
    )


_LABELS = {
    "spmf": "SPMF BIDE+",
    "prefixspan": "prefixspan, closed",
    "spark": "Spark MLlib PrefixSpan, local[1]",
}


def _gaps_table(bench: Bench, corpora: Sequence[str]) -> Table:
    columns = (
        "Corpus",
        "Documents",
        "Tokens",
        "Gap",
        "Patterns",
        "User s, load + mine",
        "s a million tokens",
        "Growth MiB",
        "Growth / (corpus + patterns)",
        "(Growth - patterns) / corpus",
    )
    rows = []
    for corpus in corpora:
        documents, tokens = bench.sizes[corpus]
        for gap in range(4):
            limits = {"min_support": _GAP_SUPPORT, "max_gap": gap, **_NO_CAPS}
            runs = bench.repeated(corpus, limits, warm=True)
            times = [run.inside["user_seconds"] for run in runs]
            inside = max((run.inside for run in runs), key=lambda seen: seen["growth_bytes"])
            growth, held = inside["growth_bytes"], inside["corpus_bytes"]
            rows.append(
                (
                    corpus,
                    f"{documents:,}",
                    f"{tokens:,}",
                    str(gap),
                    f"{inside['patterns']:,.0f}",
                    _spread(times),
                    f"{min(times) / tokens * 1e6:.2f}",
                    _mebibytes(growth),
                    f"{growth / (held + inside['pattern_bytes']):.2f}",
                    f"{(growth - inside['pattern_bytes']) / held:.2f}",
                )
            )
    return Table(columns, tuple(rows))


def _threads_table(bench: Bench, work: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    columns = ("Corpus", "Limits", "Threads", "Wall s, load + mine", "User s", "Efficiency")
    rows = []
    for corpus, limits in work:
        gap = "no gap limit" if limits["max_gap"] is None else f"gap {limits['max_gap']}"
        alone = 0.0
        for threads in (1, 2):
            runs = bench.repeated(corpus, {**limits, **_NO_CAPS}, threads=threads, warm=True)
            wall = min(run.inside["wall_seconds"] for run in runs)
            alone = alone or wall
            rows.append(
                (
                    corpus,
                    f"support {limits['min_support']}, {gap}",
                    str(threads),
                    _spread([run.inside["wall_seconds"] for run in runs]),
                    f"{min(run.inside['user_seconds'] for run in runs):.2f}",
                    f"{alone / wall / threads:.0%}",
                )
            )
    return Table(columns, tuple(rows))


_START = """
import json, sys, time
started = time.perf_counter()
import adapt_ray
from adapt_ray import mine_closed
imported = time.perf_counter()
documents = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7]] * 3
mine_closed(documents, max_gap={gap})
first = time.perf_counter()
mine_closed(documents, max_gap={gap})
heavy = [name for name in ("torch", "ray", "transformers") if name in sys.modules]
print(json.dumps([imported - started, first - imported, time.perf_counter() - first, heavy]))
"""


def _start_table(bench: Bench) -> Table:
    """Measure what a new process pays: imports, the first call with a warm cache, the second."""
    columns = (
        "First call with",
        "Import s",
        "First call s",
        "Second call s",
        "Process, user s",
        "torch, ray, transformers loaded",
    )
    rows = []
    for gap in (1, None):
        found = []
        for _ in range(bench.options.repeats + 1):
            command = [sys.executable, "-c", _START.format(gap=gap)]
            usage = measure(command, bench.folder, bench.options.limit)
            found.append((usage, json.loads((bench.folder / "log.txt").read_text())))
        found = found[1:]
        seconds = [f"{min(values[i] for _, values in found):.3f}" for i in range(3)]
        rows.append(
            (
                f"max_gap = {gap}",
                *seconds,
                _spread([usage.user_seconds for usage, _ in found]),
                ", ".join(found[0][1][3]) or "none",
            )
        )
    return Table(columns, tuple(rows))


def _spread(values: Sequence[float]) -> str:
    """Return the least value, and the greatest where there are several."""
    least, most = min(values), max(values)
    return f"{least:.2f}" if len(values) == 1 else f"{least:.2f} (to {most:.2f})"


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.0f}"


# ---------------------------------------------------------------------------------------------
# Command line


def main() -> None:
    """Run the parts that the command line asks for, and show or write the section."""
    options = _options()
    available, absent = _available(options)
    with _workplace(options.work) as folder:
        bench = Bench(folder, options)
        blocks = [
            "## Mining",
            provenance("adapt_ray", "numba", "numpy", *_installed(available)),
            *(f"Not measured: {reason}." for reason in absent),
        ]
        for part in options.parts:
            blocks += _BLOCKS[part](bench, available)
    body = "\n\n".join(blocks)
    print(body)
    if options.write:
        write("mining", body)


def _peers_block(bench: Bench, peers: Sequence[str]) -> list[str]:
    options = bench.options
    table = _peers_table(bench, _cases(bench), peers)
    return [
        "### Side by side, no limit on gaps",
        "Every run is a process of its own on one thread; adapt_ray finds its kernels in the cache "
        f"and runs {options.repeats} times (least, greatest), a peer runs once. *Process* is all "
        "user CPU, from start to the written patterns. *Load + mine* is, for adapt_ray, measured "
        "inside, from the encoded file to the patterns; for a peer it is its process less the same "
        "process on a database in which nothing is frequent. A ratio is the peer's user CPU by "
        "ours. Rows of the corpora as they are, repeats included; patterns of every length.",
        markdown(table),
    ]


def _gaps_block(bench: Bench, _: Sequence[str]) -> list[str]:
    corpora = _corpora(bench)
    return [
        f"### Limited gaps, support {_GAP_SUPPORT}",
        "adapt_ray alone, on the distinct training texts without markers, patterns of 2 to 20 "
        "tokens, one thread, one process a run, its kernels loaded before (see the table of a new "
        "process for what that costs). Growth is the peak of the process over what it held "
        "then, the largest of the runs; corpus and patterns are their bytes as arrays.",
        markdown(_gaps_table(bench, corpora)),
    ]


def _threads_block(bench: Bench, _: Sequence[str]) -> list[str]:
    work: list[tuple[str, dict[str, Any]]] = []
    for corpus in _corpora(bench):
        work.append((corpus, {"min_support": _GAP_SUPPORT, "max_gap": 1}))
    for case in _cases(bench):
        work.append((case.corpus, {"min_support": case.min_support, **_NO_LIMIT}))
    return [
        "### Threads",
        "Efficiency is the speed-up over one thread divided by the threads; load + mine with the "
        "kernels loaded, one process a run.",
        markdown(_threads_table(bench, work)),
    ]


def _start_block(bench: Bench, _: Sequence[str]) -> list[str]:
    return [
        "### A new process",
        "`import adapt_ray; from adapt_ray import mine_closed` and a call on six documents of six "
        "tokens, kernels in the cache; wall-clock, least of the repeats.",
        markdown(_start_table(bench)),
    ]


_BLOCKS: dict[str, Callable[[Bench, Sequence[str]], list[str]]] = {
    "peers": _peers_block,
    "gaps": _gaps_block,
    "threads": _threads_block,
    "start": _start_block,
}


def _cases(bench: Bench) -> list[Case]:
    """Return the cases whose corpora are there, and encode each of these once."""
    cases = [case for case in bench.options.cases if _has_corpus(case.corpus, bench.options)]
    for case in cases:
        if case.corpus not in bench.sizes:
            bench.encode(case.corpus, _texts(case.corpus, bench.options))
    return cases


def _corpora(bench: Bench) -> list[str]:
    """Encode the corpora of the gap table once; return their names."""
    if bench.options.quick:
        names = ["demo"]
    else:
        names = sorted(file.parent.name for file in bench.options.data.glob("*/train.parquet"))
    for name in names:
        if f"{name}, distinct" not in bench.sizes:
            bench.encode(f"{name}, distinct", _distinct(name, bench.options))
    return [f"{name}, distinct" for name in names]


def _has_corpus(name: str, options: argparse.Namespace) -> bool:
    if name == "rt_polarity":
        return options.rt_polarity is not None
    return name == "demo" or (options.data / name / "train.parquet").exists()


def _available(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Return the peers that can run, and why the others that were asked for cannot."""
    missing = {
        "spmf": "SPMF (no --spmf-jar)" if options.spmf_jar is None else _without_java("SPMF"),
        "prefixspan": _without_package("prefixspan"),
        "spark": _without_package("pyspark") or _without_java("Spark"),
    }
    absent = [missing[peer] for peer in options.peers if missing[peer]]
    absent += [
        f"{case.name} (no {case.corpus})"
        for case in options.cases
        if "peers" in options.parts and not _has_corpus(case.corpus, options)
    ]
    return [peer for peer in options.peers if not missing[peer]], absent


def _without_java(who: str) -> str:
    return "" if shutil.which("java") else f"{who} (no java on the PATH)"


def _without_package(name: str) -> str:
    return "" if importlib.util.find_spec(name) else f"{name} (not installed)"


def _installed(peers: Sequence[str]) -> list[str]:
    packages = {"prefixspan": "prefixspan", "spark": "pyspark"}
    return [packages[peer] for peer in peers if peer in packages]


@contextmanager
def _workplace(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="mining-benchmark-") as name:
        yield Path(name)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = {case.name: case for case in (*_CASES, *_QUICK)}
    parser.add_argument("--quick", action="store_true", help="the generated demo corpus only")
    parser.add_argument("--data", type=Path, help="folder of corpora, NAME/train.parquet")
    parser.add_argument(
        "--rt-polarity",
        type=Path,
        metavar="FOLDER",
        help="folder of rt-polarity.pos and rt-polarity.neg (sentence polarity dataset v1.0)",
    )
    parser.add_argument("--spmf-jar", type=Path, metavar="JAR", help="SPMF's jar")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=_PARTS,
        default=_PARTS,
        metavar="PART",
        help=f"tables to make, of {', '.join(_PARTS)}; all when not given",
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=cases,
        metavar="CASE",
        help=f"CORPUS@SUPPORT, of {', '.join(cases)}; all but the demo when not given",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=_PEERS,
        default=_PEERS,
        metavar="PEER",
        help=f"other miners, of {', '.join(_PEERS)}; all when not given",
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs of ours a case [5]")
    parser.add_argument(
        "--limit", type=float, default=900, help="seconds after which a run is ended [900]"
    )
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep the working files here")
    parser.add_argument(
        "--write", action="store_true", help="write the section of docs/BENCHMARKS.md"
    )
    options = parser.parse_args()
    if platform.system() != "Linux":
        parser.error("peak memory is read from /proc, which needs Linux")
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: at least 1")
    if options.quick:
        options.cases = _QUICK
    elif options.data is None:
        parser.error("give --data FOLDER, or --quick")
    elif not options.data.is_dir():
        parser.error(f"--data {options.data} is no folder")
    else:
        options.cases = [cases[name] for name in options.cases] if options.cases else _CASES
    return options


if __name__ == "__main__":
    main()
