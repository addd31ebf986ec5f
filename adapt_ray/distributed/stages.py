"""The artifact chain that every run stands on: corpus, patterns, task tokens, sensitivity map.

Each stage is looked up by its content key and computed only when it is missing, so a job never
repeats what another one, or its own killed predecessor, has finished.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from adapt_ray.artifacts import (
    ArtifactStore,
    Manifest,
    Stage,
    Writable,
    check_place,
    digest_json,
)
from adapt_ray.config import (
    AdaptConfig,
    LayerSelectionConfig,
    MethodConfig,
    MineJob,
    SensitivityConfig,
    TrainingConfig,
    absolute_storage,
)
from adapt_ray.contenders import caches_trunk
from adapt_ray.data.cleaning import normaliser
from adapt_ray.data.corpus import Corpus, load_corpus
from adapt_ray.data.strings import Strings
from adapt_ray.distributed import mine, sensitivity, trunk
from adapt_ray.distributed.encode import Encoding
from adapt_ray.distributed.partitions import Results
from adapt_ray.distributed.session import Session
from adapt_ray.errors import InputError
from adapt_ray.measures import resolve_precision
from adapt_ray.mining.blocks import EncodedBlocks
from adapt_ray.mining.classes import document_classes
from adapt_ray.mining.description import describe
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.patterns import Patterns
from adapt_ray.mining.scoring import TokenSet, select_tokens
from adapt_ray.modeling import check_model, unloaded
from adapt_ray.pretrained import model_digest
from adapt_ray.records import Phase
from adapt_ray.report import tokens as report
from adapt_ray.selection import Selection, select, top_layers
from adapt_ray.selection.transfer import map_of_another_task
from adapt_ray.sensitivity.measure import MeasurePlan, SensitivityMap
from adapt_ray.tokenization.task_tokenizer import TaskTokenizer, base_tokenizer
from adapt_ray.training.run import RunPlan
from adapt_ray.training.warmup import SEED as WARM_UP_SEED
from adapt_ray.training.warmup import WarmUpPlan


class MissingError(LookupError):
    """A dry run met a stage that is not done yet."""


@dataclass
class Chain:
    """A job's artifacts, found or computed when they are asked for.

    ``timings`` collects seconds by stage, or ``"reused"``, for the report.
    """

    job: MineJob
    session: Session
    find_only: bool = False  # a dry run: what is missing raises MissingError instead
    timings: dict[str, float | Literal["reused"]] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.storage = absolute_storage(self.job.storage)
        self.store = ArtifactStore(self.storage)

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus, read and checked. Raises InputError for every way it can be unusable."""
        corpus = load_corpus(self.job.data)
        if self.job.model.pooling == "markers" and not corpus.markers:
            raise InputError(
                f"model.pooling is 'markers', but {corpus.name} has none; give data.markers, or "
                "choose mean or cls"
            )
        return corpus

    def check(self) -> None:
        """Check corpus, model and tokenizer before anything expensive starts."""
        unlimited = self.job.mining.max_gap is None and self.job.mining.max_span is None
        if unlimited and self.job.tokens.score == "gap_corrected":
            raise InputError(
                "tokens.score is 'gap_corrected', which needs mining.max_gap or mining.max_span; "
                "set one of them, or take 'raw'"
            )
        check_place(self.storage)
        check_model(self.job.model)
        TaskTokenizer.pretrained(self.job.model, None, self.corpus.markers)

    @cached_property
    def corpus_manifest(self) -> Manifest:
        """The corpus as an artifact; its key is the hash of its content."""
        stage, notes = corpus_stage(self.corpus)
        return self._ensure(stage, lambda: (self.corpus, notes))

    @cached_property
    def tokens(self) -> Manifest | None:
        """The task tokens of the corpus, or None when nothing in it is frequent."""
        inputs = {"patterns": self.patterns.digest, "encoded": self.encoded.digest}
        if self.job.tokens.label_weight > 0:
            content = hashlib.sha256(self._classes.astype("<f8").tobytes()).hexdigest()
            inputs["classes"] = digest_json([self._classes.shape, content])
        stage = Stage("tokens", 2, self.job.tokens.key(), inputs)
        manifest = self._ensure(stage, self._select)
        return manifest if manifest.notes["tokens"] else None

    @cached_property
    def token_report(self) -> Manifest | None:
        """What is known of each task token, as Markdown and HTML; None when there are none."""
        tokens = self.tokens
        if tokens is None:
            return None
        config = {
            "tokens": self.job.tokens.key(),
            "corpus": self.corpus.name,
            "classes": list(self.corpus.label_names),
            "markers": list(self.corpus.markers),
        }
        inputs = {
            "tokens": tokens.digest,
            "encoded": self.encoded.digest,
            "train": self.corpus.splits["train"].digest(),
            "model": model_digest(self.job.model.name),
        }
        stage = Stage("token_report", report.VERSION, config, inputs)
        return self._ensure(stage, lambda: (self._describe(tokens), {}))

    def measure_plan(self, method: MethodConfig, measuring: SensitivityConfig) -> MeasurePlan:
        """Return what must be measured for a method."""
        return MeasurePlan(
            self.storage,
            self.corpus_manifest,
            self.tokens if method.task_tokens else None,
            self.job.model,
            method.new_rows_init,
            measuring.head_seed,
        )

    def sensitivity(self, plan: MeasurePlan) -> SensitivityMap:
        """Return the sensitivity map of a plan."""
        manifest = self._ensure(
            plan.stage, lambda: (sensitivity.measure(self.session, plan, self.job.resources), {})
        )
        return self.store.load(SensitivityMap, manifest)

    def map_for(self, method: AdaptConfig, measuring: SensitivityConfig) -> SensitivityMap:
        """Return the map that a method selects by: this task's, or the one it names."""
        if method.map_from is None:
            return self.sensitivity(self.measure_plan(method, measuring))
        return map_of_another_task(method.map_from, unloaded(self.job.model)[0])

    def inserted_share(self, method: MethodConfig) -> float:
        """Return a method's task tokens in the training texts over their other tokens."""
        tokens = self.tokens if method.task_tokens else None
        return float(tokens.notes["inserted_share"]) if tokens else 0.0

    def run_plan(
        self,
        contender: str,
        method: MethodConfig,
        training: TrainingConfig,
        measuring: SensitivityConfig,
        *,
        phase: Phase,
        test: bool,
        warm_up_seed: int = WARM_UP_SEED,
    ) -> RunPlan:
        """Return the plan of a configuration, its selection made and its precision resolved."""
        precision = resolve_precision(training.precision)
        return RunPlan(
            storage=self.storage,
            phase=phase,
            contender=contender,
            corpus=self.corpus_manifest,
            tokens=self.tokens if method.task_tokens else None,
            selection=self._selection(method, training, measuring),
            model=self.job.model,
            method=method,
            training=training.model_copy(update={"precision": precision}),
            test=test,
            new_rows=self.new_rows(method, training, warm_up_seed),
            trunk_cache_gb=self.job.resources.trunk_cache_gb,
        )

    def _selection(
        self, method: MethodConfig, training: TrainingConfig, measuring: SensitivityConfig
    ) -> Selection | None:
        if isinstance(method, LayerSelectionConfig) and method.choose == "top":
            return top_layers(method, *unloaded(self.job.model))
        if not isinstance(method, AdaptConfig):
            return None
        return select(
            self.map_for(method, measuring),
            method,
            inserted_share=self.inserted_share(method),
            trunk_cached=caches_trunk(training),
        )

    def new_rows(
        self, method: MethodConfig, training: TrainingConfig, seed: int = WARM_UP_SEED
    ) -> Manifest | None:
        """Return the warmed-up embeddings of the task tokens, or None where there are none."""
        tokens = self.tokens if method.task_tokens and method.new_rows == "warmup" else None
        if tokens is None:
            return None
        plan = WarmUpPlan(
            self.storage,
            self.corpus_manifest,
            tokens,
            self.job.model,
            method.new_rows_init,
            resolve_precision(training.precision),
            seed,
        )
        resources = self.job.resources
        return self._ensure(plan.stage, lambda: trunk.warm_up(self.session, plan, resources))

    @cached_property
    def encoded(self) -> Manifest:
        """The distinct training texts as base tokens, markers removed."""
        texts, markers = self.corpus.splits["train"].distinct(), self.corpus.markers
        model = model_digest(self.job.model.name)
        inputs = {"texts": texts.digest(), "model": model}
        stage = Stage("encoded", 2, {"markers": list(markers)}, inputs)
        return self._ensure(
            stage, lambda: (Encoding(self.session, texts, markers, self.job.model), {})
        )

    @cached_property
    def patterns(self) -> Manifest:
        """All closed patterns of the training texts."""
        stage = Stage("patterns", 2, self.job.mining.key(), {"encoded": self.encoded.digest})
        blocks = EncodedBlocks(self.storage, self.encoded)

        def produce() -> tuple[Patterns, Mapping[str, Any]]:
            tasks = self.job.resources.mining_tasks
            patterns = mine.mine(self.session, blocks, stage, self.job.mining, tasks)
            return patterns, {"patterns": len(patterns)}

        manifest = self._ensure(stage, produce)
        if not self.find_only:
            Results(self.storage, stage).discard()
        return manifest

    def _select(self) -> tuple[TokenSet, Mapping[str, Any]]:
        tokenizer = TaskTokenizer.pretrained(self.job.model, None, ())
        selected = select_tokens(
            self.store.load(Patterns, self.patterns),
            self.store.load(EncodedCorpus, self.encoded),
            self.job.tokens,
            tokenizer.tokens.base_vocabulary,
            self.job.mining,
            self._classes if self.job.tokens.label_weight > 0 else None,
        )
        rows = [
            {
                "text": tokenizer.token_text(sequence),
                "support": int(support),
                "perplexity": float(p),
            }
            for sequence, support, p in zip(
                selected.tokens.sequences, selected.support, selected.perplexity, strict=True
            )
        ]
        return selected.tokens, {
            "tokens": rows,
            "cut_off": selected.cut_off,
            "inserted_share": selected.inserted_share,
        }

    @cached_property
    def _documents(self) -> Strings:
        """The texts that are encoded, in the order of the encoded documents."""
        texts = map(normaliser(self.corpus.markers), self.corpus.splits["train"].distinct())
        return Strings.of(filter(None, texts))

    @cached_property
    def _classes(self) -> npt.NDArray[np.float64]:
        """The classes [n_documents, n_classes] of the encoded documents, by their training rows."""
        train = self.corpus.splits["train"]
        classes = document_classes(
            train.text_ids, train.row_ids, train.labels, len(self.corpus.label_names)
        )
        normalise = normaliser(self.corpus.markers)
        return classes[[bool(normalise(text)) for text in train.distinct()]]

    def _describe(self, manifest: Manifest) -> report.TokenReport:
        facts, covered = describe(
            self.store.load(TokenSet, manifest),
            [row["perplexity"] for row in manifest.notes["tokens"]],
            self.store.load(EncodedCorpus, self.encoded),
            self._classes,
            self._documents,
            base_tokenizer(self.job.model),
        )
        return report.TokenReport(
            corpus=self.corpus.name,
            classes=self.corpus.label_names,
            totals=tuple(self._classes.sum(0).tolist()),
            inserted_share=manifest.notes["inserted_share"],
            covered=covered,
            tokens=facts,
        )

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure the wall-clock time of a block as a stage of this job."""
        started = time.perf_counter()
        yield
        self.timings[name] = time.perf_counter() - started

    def _ensure(
        self, stage: Stage, produce: Callable[[], tuple[Writable, Mapping[str, Any]]]
    ) -> Manifest:
        """Find an artifact and check its bytes, or produce and publish it."""
        manifest = self.store.find(stage)
        if manifest is not None:
            self.store.verify(manifest)
            self.timings.setdefault(stage.name, "reused")
        elif self.find_only:
            raise MissingError(stage.name)
        else:
            with self.timed(stage.name):
                manifest = self.store.publish(stage, *produce())
        self.manifests[stage.name] = manifest
        return manifest

    def status(self) -> dict[str, str]:
        """Return for each stage up to the task tokens whether it is done; computes nothing."""
        found: dict[str, str] = {}
        stages = {"corpus": "corpus_manifest", "encoded": "encoded", "patterns": "patterns"}
        for stage, attribute in {**stages, "tokens": "tokens"}.items():
            try:
                getattr(self, attribute)
                found[stage] = "done"
            except MissingError:
                found[stage] = "to do"
        return found

    def locations(self) -> dict[str, str]:
        """Return where the artifacts lie, and the storage of records."""
        found = {name: self.store.location(m) for name, m in self.manifests.items()}
        return {**found, "records": f"{self.storage}/records"}


def corpus_stage(corpus: Corpus) -> tuple[Stage, dict[str, Any]]:
    """Return what identifies a corpus as an artifact, and the notes that go with it."""
    notes = {
        "name": corpus.name,
        "markers": list(corpus.markers),
        "rows": {name: len(split.labels) for name, split in corpus.splits.items()},
        "leaks": asdict(corpus.leaks),
    }
    return Stage("corpus", 2, {}, {"content": corpus.digest()}), notes


def tokens_in_short(manifest: Manifest | None) -> str:
    """Say in one line what was selected as task tokens."""
    if manifest is None:
        return "no task tokens: no sequence of tokens is frequent enough; runs go on without them"
    count, share = len(manifest.notes["tokens"]), manifest.notes["inserted_share"]
    return f"{count} task tokens; they add {share:.1%} to the corpus"


def tokens_as_text(manifest: Manifest | None, most: int = 20) -> str:
    """Return what was selected as task tokens, lowest perplexity first, for the terminal."""
    if manifest is None:
        return tokens_in_short(None)
    rows = sorted(manifest.notes["tokens"], key=lambda row: row["perplexity"])
    lines = [f"{'support':>8}  {'PPLu':>9}  text"]
    lines += [f"{r['support']:>8}  {r['perplexity']:>9.3g}  {r['text']}" for r in rows[:most]]
    return "\n".join([f"{tokens_in_short(manifest)}. Lowest perplexity:", *lines])
