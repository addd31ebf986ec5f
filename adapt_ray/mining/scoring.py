"""Which patterns become tokens (paper section 3.1): score them, order them, keep within budgets."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from adapt_ray.config import MiningConfig, TokensConfig
from adapt_ray.errors import InputError
from adapt_ray.mining.classes import classes_with, mutual_information
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.kernel_occurrences import choose, occurrences
from adapt_ray.mining.patterns import Patterns

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_CHANCE = 1 - 1e-9  # perplexity of what independent tokens would make, up to rounding


@dataclass(frozen=True)
class TokenSet:
    """The task tokens: new token i has id ``base_vocabulary + i`` and stands for sequences[i].

    They are in order of precedence: of several that start at one position, the first is inserted.
    Occurrences of a sequence obey ``max_gap`` and ``max_span`` (None: no limit), as in mining.
    """

    sequences: tuple[tuple[int, ...], ...]
    base_vocabulary: int
    max_gap: int | None
    max_span: int | None

    def __len__(self) -> int:
        return len(self.sequences)

    def save(self, folder: Path) -> None:
        """Write ``tokens.json``: the same bytes for the same token set."""
        content = {
            "base_vocabulary": self.base_vocabulary,
            "max_gap": self.max_gap,
            "max_span": self.max_span,
            "sequences": self.sequences,
        }
        (folder / "tokens.json").write_text(json.dumps(content) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote; raises InputError for anything else."""
        path = folder / "tokens.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"token set {str(path)!r} cannot be read: {error}") from None
        problem = _problem(content)
        if problem:
            raise InputError(f"token set {str(path)!r}: {problem}")
        sequences = tuple(tuple(sequence) for sequence in content.pop("sequences"))
        return cls(sequences=sequences, **content)


_FIELDS = ("base_vocabulary", "max_gap", "max_span", "sequences")


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _problem(content: Any) -> str | None:
    """Return what is wrong with the content of a token file, or None."""
    if not isinstance(content, dict) or sorted(content) != sorted(_FIELDS):
        return f"must hold exactly the fields {', '.join(_FIELDS)}"
    vocabulary, gap, span, sequences = (content[field] for field in _FIELDS)
    if not _is_count(vocabulary):
        return f"base_vocabulary is {vocabulary!r}; it must be a whole number >= 0"
    if gap is not None and not _is_count(gap):
        return f"max_gap is {gap!r}; it must be a whole number >= 0, or null"
    if span is not None and not _is_count(span, 1):
        return f"max_span is {span!r}; it must be a whole number >= 1, or null"
    if not isinstance(sequences, list):
        return f"sequences is a {type(sequences).__name__}; it must be a list"
    for number, sequence in enumerate(sequences):
        if not isinstance(sequence, list) or not sequence:
            return f"sequence {number} is {sequence!r}; it must be a list of token ids"
        for token in sequence:
            if not _is_count(token) or token >= vocabulary:
                return f"sequence {number} holds {token!r}; ids are 0 to {vocabulary - 1}"
    if len(set(map(tuple, sequences))) < len(sequences):
        return "a sequence stands there twice"
    return None


@dataclass(frozen=True, eq=False)
class Selected:
    """A token set with the figures that led to it."""

    tokens: TokenSet
    support: Int64  # [n_tokens]
    perplexity: Float64  # [n_tokens]
    cut_off: float | None  # largest perplexity that was taken, None when no token was
    inserted_share: float  # inserted tokens per token of the corpus


def perplexity(
    patterns: Patterns,
    corpus: EncodedCorpus,
    score: Literal["raw", "gap_corrected"],
    max_gap: int | None,
    max_span: int | None = None,
) -> Float64:
    """Return the unigram-normalized perplexity of each pattern; low: its items belong together.

    PPLu(t1..tk) = (P / prod P(ti))^(-1/k) (Roh et al. 2020), with P the start positions of the
    pattern and P(ti) the occurrences of ti, both per token of the corpus. Gaps raise P by chance,
    up to as many times as there are ways to place the items after the first: (max_gap + 1)^(k-1)
    without a span limit. ``gap_corrected`` divides P by that number. Raises InputError for it when
    neither limit is set, since the number is then not defined.
    """
    lengths = np.diff(patterns.offsets)
    ids, counts = np.unique(corpus.tokens, return_counts=True)
    log_frequency = np.log(counts / max(corpus.tokens.size, 1))
    of_items = log_frequency[np.searchsorted(ids, patterns.items)]
    independent = np.add.reduceat(np.append(of_items, 0.0), patterns.offsets[:-1])
    log_p = np.log(patterns.starts / max(corpus.tokens.size, 1))
    if score == "gap_corrected":
        log_p -= _log_placements(int(lengths.max(initial=1)), max_gap, max_span)[lengths]
    return np.exp((independent - log_p) / lengths)


def _log_placements(longest: int, max_gap: int | None, max_span: int | None) -> Float64:
    """Return, for lengths 0 to ``longest``, the log of the ways to place a pattern from its start.

    That is the number of position rows that obey both limits.
    """
    if max_gap is None and max_span is None:
        raise InputError(
            "score 'gap_corrected' needs max_gap or max_span (both are unlimited): set one of "
            "them, or take score 'raw'"
        )
    if max_span is None:
        placed = np.maximum(np.arange(longest + 1) - 1, 0)
        return np.asarray(placed * np.log((max_gap or 0) + 1), np.float64)
    reach = max_span - 1 if max_gap is None else min(max_gap + 1, max_span - 1)
    distance = np.arange(max_span)
    ways = (distance == 0).astype(np.float64)  # by distance from the first item to the last so far
    logs = [0.0, 0.0]
    for _ in range(longest - 1):
        summed = np.concatenate([np.zeros(1), np.cumsum(ways)])
        ways = summed[distance] - summed[np.maximum(distance - reach, 0)]
        total = max(float(ways.sum()), 1e-300)  # 0 for lengths beyond the span, which never occur
        ways /= total
        logs.append(logs[-1] + float(np.log(total)))
    return np.array(logs)


def select_tokens(
    patterns: Patterns,
    corpus: EncodedCorpus,
    config: TokensConfig,
    base_vocabulary: int,
    limits: MiningConfig,
    classes: Float64 | None = None,
) -> Selected:
    """Choose the best patterns, as many as both budgets allow.

    The budgets: ``vocabulary_share`` of the base vocabulary, and ``insertion_budget`` inserted
    tokens per token of the corpus. Best is lowest perplexity; ties: higher support, then longer,
    then lower ids. Only patterns that are more frequent than independent tokens would make them
    (perplexity below 1) are candidates: the others do not belong together, however much room is
    left. Near-copies of a better pattern are passed over unless ``allow_overlap``: a pattern counts
    by the documents that hold it apart from the occurrences of those chosen before.

    ``classes`` [n_documents, n_classes], the classes of the documents, are looked at when
    ``label_weight`` is above 0 only, and needed then.
    """
    scores = perplexity(patterns, corpus, config.score, limits.max_gap, limits.max_span)
    candidates = np.flatnonzero((patterns.support >= config.min_support) & (scores < _CHANCE))
    ranking = scores[candidates]
    if config.label_weight > 0:
        if classes is None:
            raise ValueError("label_weight is above 0, and no classes are given")
        present = classes_with(patterns, corpus, classes, limits.max_gap, limits.max_span)
        information = mutual_information(present[candidates], classes.sum(0))
        weight = config.label_weight
        ranking = (1 - weight) * _ranks(ranking) + weight * _ranks(-information)
    order = _ordered(patterns, candidates, ranking)
    least_apart = 0 if config.allow_overlap else config.min_support
    most = int(config.vocabulary_share * base_vocabulary)
    room = int(config.insertion_budget * corpus.tokens.size)
    find = occurrences(
        corpus.tokens,
        corpus.offsets,
        patterns.items,
        patterns.offsets,
        limits.max_gap,
        limits.max_span,
    )
    chosen, inserted = choose(find, order, least_apart, most, room)
    # Longest match first, then the more frequent one. Patterns are in order of their ids already.
    lengths = np.diff(patterns.offsets)
    taken = chosen[np.lexsort((chosen, -patterns.support[chosen], -lengths[chosen]))]
    sequences = tuple(
        tuple(patterns.items[patterns.offsets[i] : patterns.offsets[i + 1]].tolist()) for i in taken
    )
    return Selected(
        tokens=TokenSet(sequences, base_vocabulary, limits.max_gap, limits.max_span),
        support=patterns.support[taken],
        perplexity=scores[taken],
        cut_off=float(scores[taken].max()) if taken.size else None,
        inserted_share=inserted / corpus.tokens.size if taken.size else 0.0,
    )


def _ordered(patterns: Patterns, candidates: Int64, ranking: Float64) -> Int64:
    """Return the candidates, best first. Patterns are in order of their ids already."""
    lengths = np.diff(patterns.offsets)[candidates]
    return candidates[np.lexsort((-lengths, -patterns.support[candidates], ranking))]


def _ranks(values: Float64) -> Float64:
    """Return how many of the values are lower than each one."""
    return np.searchsorted(np.sort(values), values).astype(np.float64)
