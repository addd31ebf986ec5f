"""The tokens stage: what reaches the choice of tokens, and the report on them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapt_ray.artifacts import Manifest
from adapt_ray.config import DataConfig, MineJob, ModelConfig, TokensConfig
from adapt_ray.data.corpus import Corpus, load_corpus
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.stages import Chain
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.report.tokens import HTML, MARKDOWN, TokenReport

pytestmark = pytest.mark.ray

Chains = Callable[..., Chain]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    whole = load_corpus(DataConfig())
    rows = np.arange(250)
    return replace(whole, splits={name: split.take(rows) for name, split in whole.splits.items()})


@pytest.fixture
def chain(
    session: Session, corpus: Corpus, tiny_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Chains:
    """Return a maker of chains over one storage, for a corpus whose labels may be relabelled."""
    storage = tmp_path_factory.mktemp("tokens")

    def make(weight: float, relabelled: tuple[str, ...] = (), **settings: Any) -> Chain:
        tokens = TokensConfig(label_weight=weight, insertion_budget=0.02, **settings)
        model = ModelConfig(name=tiny_model, max_tokens=64)
        job = MineJob(storage=str(storage), model=model, tokens=tokens)
        chain = Chain(job, session)
        splits = {
            name: replace(split, labels=np.roll(split.labels, 1)) if name in relabelled else split
            for name, split in corpus.splits.items()
        }
        chain.__dict__["corpus"] = replace(corpus, splits=splits)  # what the property would read
        return chain

    return make


def tokens_of(chain: Chain) -> tuple[Manifest, TokenSet]:
    assert chain.tokens is not None
    return chain.tokens, chain.store.load(TokenSet, chain.tokens)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_dev_and_test_labels_cannot_reach_the_tokens(chain: Chains, weight: float) -> None:
    first, again = chain(weight), chain(weight, ("dev", "test"))
    assert first.corpus_manifest.key != again.corpus_manifest.key
    assert tokens_of(first) == tokens_of(again)
    assert again.timings["tokens"] == "reused"
    assert first.token_report == again.token_report


def test_training_labels_reach_them_when_asked_for_only(chain: Chains) -> None:
    assert tokens_of(chain(0.0)) == tokens_of(chain(0.0, ("train",)))
    (manifest, tokens), (other, others) = tokens_of(chain(0.5)), tokens_of(chain(0.5, ("train",)))
    assert manifest.key != other.key
    assert set(tokens.sequences) != set(others.sequences)
    assert set(tokens.sequences) != set(tokens_of(chain(0.0))[1].sequences)


def test_the_report_shows_the_training_texts(chain: Chains, corpus: Corpus) -> None:
    made = chain(0.0)
    manifest, _ = tokens_of(made)
    assert made.token_report is not None
    report = made.store.load(TokenReport, made.token_report)
    train = corpus.splits["train"]
    assert report.texts == len(set(train.text_ids.tolist()))
    wanted = np.bincount(train.labels, minlength=3)  # the demo repeats no text
    np.testing.assert_allclose(report.totals, wanted)
    rows = [(row["text"], row["support"], row["perplexity"]) for row in manifest.notes["tokens"]]
    assert [(one.text, one.support, one.perplexity) for one in report.tokens] == rows
    assert all(sum(one.present) == pytest.approx(one.support) for one in report.tokens)
    assert all(0 < one.inserted <= one.support for one in report.tokens)
    folder = Path(made.store.path(made.token_report))
    assert report.tokens[0].text in (folder / MARKDOWN).read_text()
    assert report.tokens[0].text in (folder / HTML).read_text()
    relabelled = chain(0.0, ("train",)).token_report
    assert relabelled is not None
    assert relabelled.key != made.token_report.key


def test_no_tokens_no_report(chain: Chains) -> None:
    made = chain(0.0, min_support=1000)
    assert made.tokens is None
    assert made.token_report is None
