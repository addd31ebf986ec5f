"""The notebooks: without output in the repository, and each runs on recorded runs."""

import base64
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from adapt_ray.artifacts import ArtifactStore, Manifest, Stage
from adapt_ray.config import DataConfig, MiningConfig, ModelConfig, TokensConfig
from adapt_ray.data.corpus import Corpus, load_corpus
from adapt_ray.mining.classes import document_classes
from adapt_ray.mining.closed import mine_patterns
from adapt_ray.mining.description import describe
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.scoring import select_tokens
from adapt_ray.records import CURVES_SCHEMA, PREDICTIONS_SCHEMA, RecordStore
from adapt_ray.report import groups, tables
from adapt_ray.report.tokens import TokenReport
from adapt_ray.sensitivity.measure import Cut, MeasurePlan, measure_partial, merge
from adapt_ray.tokenization.task_tokenizer import base_tokenizer

if TYPE_CHECKING:
    from adapt_ray.records import RunRecord
    from tests.report.conftest import Made

FOLDER = Path(__file__).resolve().parents[2] / "analysis"
NAMES = ("cost", "sensitivity", "stability", "sweep", "tokens")
ROWS = 150  # of the demo corpus


def opened(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]


def recorded(made: "type[Made]") -> "list[RunRecord]":
    search = made.search_runs(12)
    best = groups.configurations(search)[0]
    runs = search + made.final_runs({"adapt": 0.81}, settings=dict(best.settings))
    runs += made.final_runs({"full": 0.80, "lora": 0.79})
    sizes: dict[str, Any] = {"test_rows": 400, "test_digest": "t"}
    runs = [dataclasses.replace(run, train_rows=1200, **sizes) for run in runs]
    larger = made.final_runs({"full": 0.85}, seeds=3, corpus_digest="f" * 16)
    return runs + [
        dataclasses.replace(run, run_id=f"larger-{run.seed}", train_rows=4800, **sizes)
        for run in larger
    ]


def publish_tokens(store: ArtifactStore, corpus: Corpus) -> Manifest:
    """Mine and select task tokens of a corpus as the jobs do, and describe them."""
    train, limits = corpus.splits["train"], MiningConfig()
    tokenizer = base_tokenizer(ModelConfig())
    texts = list(train.distinct())
    encoded = EncodedCorpus.from_documents(tokenizer(texts, add_special_tokens=False)["input_ids"])
    found = mine_patterns(encoded, limits)
    selected = select_tokens(found, encoded, TokensConfig(), len(tokenizer), limits)
    perplexity = selected.perplexity.tolist()
    rows = [{"text": str(s), "support": 1, "perplexity": 0.1} for s in selected.tokens.sequences]
    manifest = store.publish(
        Stage("tokens", 2, {}, {}),
        selected.tokens,
        {"tokens": rows, "inserted_share": selected.inserted_share},
    )
    classes = document_classes(train.text_ids, train.row_ids, train.labels, len(corpus.label_names))
    facts, covered = describe(selected.tokens, perplexity, encoded, classes, texts, tokenizer)
    totals = tuple(classes.sum(0).tolist())
    share = selected.inserted_share
    report = TokenReport(corpus.name, corpus.label_names, totals, share, covered, facts)
    store.publish(Stage("token_report", 1, {}, {}), report, {})
    return manifest


def publish_maps(store: ArtifactStore, corpus: Manifest, tokens: Manifest, model: str) -> None:
    """Measure a tiny model with and without task tokens."""
    config = ModelConfig(name=model, max_tokens=64)
    for used in (tokens, None):
        plan = MeasurePlan(store.root, corpus, used, config, "mean", head_seed=0)
        loaded = plan.load()
        shards = Cut().shards(loaded.texts)
        cpu = torch.device("cpu")
        parts = [measure_partial(loaded.model, loaded.batches(shard, cpu)) for shard in shards]
        store.publish(plan.stage, merge(loaded, parts), {})


@pytest.fixture(scope="module")
def storage(made: "type[Made]", tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> str:
    """Return a storage with records, curves, task tokens and sensitivity maps."""
    root = str(tmp_path_factory.mktemp("storage"))
    records = RecordStore(root)
    for run in recorded(made):
        records.write(run, PREDICTIONS_SCHEMA.empty_table(), CURVES_SCHEMA.empty_table())
    store = ArtifactStore(root)
    whole = load_corpus(DataConfig())
    train = whole.splits["train"].take(np.arange(ROWS))
    corpus = dataclasses.replace(whole, splits={**whole.splits, "train": train})
    notes = {"name": corpus.name, "markers": []}
    manifest = store.publish(Stage("corpus", 2, {}, {"content": corpus.digest()}), corpus, notes)
    publish_maps(store, manifest, publish_tokens(store, corpus), tiny_model)
    return root


@pytest.fixture(scope="module")
def executed(storage: str) -> Iterator[dict[str, Any]]:
    """Return the notebooks with their outputs, each run by a kernel of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPT_RAY_STORAGE", storage)
        patch.setenv("OMP_NUM_THREADS", "1")
        found = {}
        for name in NAMES:
            notebook = opened(name)
            place = {"metadata": {"path": str(FOLDER)}}
            NotebookClient(notebook, timeout=300, resources=place).execute()
            found[name] = notebook
        yield found


def outputs(notebook: Any, kind: str) -> list[str]:
    return [
        output["data"][kind]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if kind in output.get("data", {})
    ]


def test_all_notebooks_are_tested() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_carry_no_output_and_open_any_storage(name: str) -> None:
    notebook = opened(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert 'storage = os.environ.get("ADAPT_RAY_STORAGE", "../runs/demo")' in code[0].source
    assert notebook.cells[0].source.startswith("# ")
    # Public names only, and prose before each figure.
    assert not re.search(r"import _|\._[a-z]", "\n".join(cell.source for cell in code))
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds.count("markdown") >= len(code) - 1
    assert len(notebook.cells) <= 16


@pytest.mark.slow
def test_notebooks_run_without_an_error_or_a_warning(executed: dict[str, Any]) -> None:
    for name, notebook in executed.items():
        streams = [
            output.get("text", output.get("evalue"))
            for cell in notebook.cells
            for output in cell.get("outputs", ())
            if output.output_type in ("stream", "error")
        ]
        # Without ipywidgets, which draws progress bars, tqdm says so.
        assert [text for text in streams if "IProgress not found" not in text] == [], name


@pytest.mark.slow
def test_notebooks_show_their_figures(executed: dict[str, Any]) -> None:
    images = {name: outputs(notebook, "image/png") for name, notebook in executed.items()}
    # sweep: panels, lines of adapt, two importances, front, two races.
    expected = {"cost": 2, "sensitivity": 1, "stability": 1, "sweep": 7, "tokens": 1}
    assert {name: len(found) for name, found in images.items()} == expected
    for found in images.values():
        assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in found)


@pytest.mark.slow
def test_notebooks_show_the_tables_of_the_report(
    executed: dict[str, Any], made: "type[Made]"
) -> None:
    study, larger = groups.studies(recorded(made))
    assert len(study.runs) > len(larger.runs)
    arms = groups.final_arms(study.runs)
    shown = {name: outputs(notebook, "text/html") for name, notebook in executed.items()}
    assert tables.costs(arms)._repr_html_() in shown["cost"]
    assert tables.spent(study.runs)._repr_html_() in shown["cost"]
    assert tables.comparison(arms)._repr_html_() in shown["stability"]
    assert tables.differences(arms[0], arms[1:])._repr_html_() in shown["stability"]
    assert tables.search(study.runs)._repr_html_() in shown["sweep"]
    searched = groups.configurations(study.runs)
    assert tables.trade_offs(searched)._repr_html_() in shown["sweep"]


@pytest.mark.slow
def test_tokens_and_maps_are_those_of_the_storage(executed: dict[str, Any], storage: str) -> None:
    store = ArtifactStore(storage)
    (manifest,) = store.manifests("token_report")
    report = store.load(TokenReport, manifest)
    assert report.tokens
    text = "\n".join(outputs(executed["tokens"], "text/markdown"))
    assert all(f"| {token.support} |" in text for token in report.tokens)
    maps = outputs(executed["sensitivity"], "text/html")[0]
    assert maps.count("<td>demo</td>") == 2
    assert [one.key for one in store.manifests("sensitivity") if one.key not in maps] == []
