"""One miner in one process: read the encoded documents, mine, write the patterns.

benchmarks/mining.py starts this file once for every measurement. A folder of documents holds them
twice, in each miner's own format: ``documents.parquet`` (ours, Spark) and ``documents.spmf`` (SPMF,
prefixspan). Patterns go to ``patterns.parquet`` or, as SPMF writes them, ``patterns.txt``; what
only the process itself can see goes to ``inside.json``.
"""

import argparse
import contextlib
import json
import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads


def main() -> None:
    """Run the miner that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("miner", choices=["ours", "prefixspan", "spark"])
    parser.add_argument("documents", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--limits", type=json.loads, default={}, help="fields of MiningConfig")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warm", action="store_true", help="load all code before measuring")
    arguments = parser.parse_args()
    if arguments.miner == "ours":
        inside = _ours(arguments)
    else:
        inside = {"prefixspan": _prefixspan, "spark": _spark}[arguments.miner](arguments)
    (arguments.result / "inside.json").write_text(json.dumps(inside))


def _ours(arguments: argparse.Namespace) -> dict[str, float]:
    from adapt_ray.config import MiningConfig
    from adapt_ray.mining.closed import mine_patterns
    from adapt_ray.mining.encoded import EncodedCorpus

    limits = MiningConfig(**arguments.limits)
    before = 0
    if arguments.warm:
        documents = [range(9)] * limits.min_support  # longer than the widest gap of the table
        EncodedCorpus.from_documents(documents).save(arguments.result)
        small = EncodedCorpus.load(arguments.result)
        mine_patterns(small, limits, threads=arguments.threads)
        before = _resident()
    user, wall = _user_seconds(), time.perf_counter()
    corpus = EncodedCorpus.load(arguments.documents)
    patterns = mine_patterns(corpus, limits, threads=arguments.threads)
    inside = {
        "user_seconds": _user_seconds() - user,
        "wall_seconds": time.perf_counter() - wall,
        "growth_bytes": _peak() - before,
        "corpus_bytes": corpus.tokens.nbytes + corpus.offsets.nbytes,
        "pattern_bytes": sum(
            array.nbytes
            for array in (patterns.items, patterns.offsets, patterns.support, patterns.starts)
        ),
        "patterns": len(patterns),
    }
    patterns.save(arguments.result)
    return inside


def _prefixspan(arguments: argparse.Namespace) -> dict[str, float]:
    from prefixspan import PrefixSpan

    user = _user_seconds()
    documents = list(_documents(arguments.documents / "documents.spmf"))
    found = PrefixSpan(documents).frequent(arguments.limits["min_support"], closed=True)
    inside = {"user_seconds": _user_seconds() - user}
    write_patterns(arguments.result, ((items, support) for support, items in found))
    return inside


def _spark(arguments: argparse.Namespace) -> dict[str, float]:
    """Mine frequent patterns, closed or not, up to ``max_length`` with MLlib in one thread."""
    from pyspark.ml.fpm import PrefixSpan
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import expr

    session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    spark = session.config("spark.driver.memory", "8g").getOrCreate()
    gateway: Any = spark.sparkContext._gateway
    documents = spark.read.parquet(str(arguments.documents / "documents.parquet"))
    sequences = documents.select(expr("transform(tokens, token -> array(token))").alias("sequence"))
    # A share: MLlib rounds its product with the number of documents up.
    share = (arguments.limits["min_support"] - 0.5) / documents.count()
    miner = PrefixSpan(minSupport=min(share, 1), maxPatternLength=arguments.limits["max_length"])
    found = miner.findFrequentSequentialPatterns(sequences)
    found.write.parquet(str(arguments.result / "spark"))
    spark.stop()
    gateway.proc.stdin.close()  # ends Java; its costs count once it has been waited for
    gateway.proc.wait()
    return {}


def _documents(path: Path) -> Iterator[list[int]]:
    """Read a database in SPMF's format, items separated by -1, documents ended by -2."""
    with path.open() as lines:
        for line in lines:
            yield [int(item) for item in line.split() if item not in ("-1", "-2")]


def write_patterns(folder: Path, patterns: Iterable[tuple[Iterable[int], int]]) -> None:
    """Write patterns and supports as SPMF does: ``5 -1 9 -1 #SUP: 3``."""
    with (folder / "patterns.txt").open("w") as out:
        for items, support in patterns:
            out.write("".join(f"{item} -1 " for item in items) + f"#SUP: {support}\n")


def read_patterns(folder: Path) -> Iterator[tuple[tuple[int, ...], int]]:
    """Read what a miner wrote as text, as SPMF or prefixspan, or what Spark did."""
    if (folder / "spark").exists():
        for batch in pads.dataset(folder / "spark").to_batches():
            for row in batch.to_pylist():
                yield tuple(item for itemset in row["sequence"] for item in itemset), row["freq"]
        return
    with (folder / "patterns.txt").open() as lines:
        for line in lines:
            items, _, support = line.partition("#SUP:")
            yield tuple(int(item) for item in items.split() if item != "-1"), int(support)


def _user_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def _resident() -> int:
    """Return the resident bytes now, and let the peak start from here where Linux can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _peak() -> int:
    return _memory("VmHWM")


def _memory(field: str) -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) * 1024


if __name__ == "__main__":
    main()
