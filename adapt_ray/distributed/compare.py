"""Comparing contenders over fresh seeds on the test split, and the report on it."""

import dataclasses
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from adapt_ray import contenders
from adapt_ray.artifacts import check_place, folder_name, open_root, write_whole
from adapt_ray.cli import table
from adapt_ray.config import (
    AdaptConfig,
    Contender,
    MethodConfig,
    ModelConfig,
    Scalar,
    StabilityJob,
    SweepJob,
    TrainingConfig,
)
from adapt_ray.data.synthetic import planted_phrases
from adapt_ray.data.tasks import DEMO
from adapt_ray.distributed import selections, sweep
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.stages import Chain, tokens_as_text
from adapt_ray.distributed.sweep import Runs
from adapt_ray.distributed.train import unfinished
from adapt_ray.distributed.watch import check_watch
from adapt_ray.errors import JobError
from adapt_ray.mining.patterns import Patterns
from adapt_ray.modeling import unloaded
from adapt_ray.records import RUN_SCHEMA, Phase, RecordStore, RunRecord, run_records
from adapt_ray.report import tables
from adapt_ray.report.beside import Beside
from adapt_ray.report.document import FILE, PAGE, Context, PlantedRow, TokenRow, write_report
from adapt_ray.report.groups import OWN_STAGES, final_arms, trained
from adapt_ray.report.rows import Answers, answers
from adapt_ray.report.selections import OverlapRow, SelectionMap
from adapt_ray.report.tables import markdown
from adapt_ray.report.tokens import TokenReport
from adapt_ray.selection import Selection
from adapt_ray.tokenization.task_tokenizer import base_tokenizer
from adapt_ray.training.run import RunPlan

Settings = tuple[MethodConfig, TrainingConfig]


class Comparison:
    """Contenders over one corpus: their plans, final runs and report."""

    def __init__(self, job: SweepJob | StabilityJob, session: Session, *, find_only: bool) -> None:
        self.job = job
        self.session = session
        self.chain = Chain(job, session, find_only=find_only)

    def stage(self) -> sweep.Stage:
        """Return where the runs are done, for a ``with`` statement."""
        return sweep.Stage(self.session, self.job.resources, self.chain.storage, self.job.watch)

    def check(self) -> None:
        """Check corpus, model and every corner of every contender before anything starts."""
        check_watch(self.job.watch)
        if self.job.report is not None:
            check_place(self.job.report, "report")
        check_contenders(self.job, self.job.model)
        self.chain.check()

    def prepare(self) -> None:
        """Compute what the contenders' plans stand on: task tokens, warm-ups, sensitivity maps."""
        if self.chain.corpus.leaks.pairs:
            print(self.chain.corpus.leaks.in_words())
        if any(contender.method.task_tokens for contender in self.job.contenders.values()):
            print(tokens_as_text(self.chain.tokens))
        for name, contender in self.job.contenders.items():
            self.chain.new_rows(*contenders.settings(contender, self.job.training, {}, name))
            if isinstance(contender.method, AdaptConfig):
                self.chain.map_for(contender.method, self.job.sensitivity)

    def plan(self, name: str, values: Mapping[str, Scalar], phase: Phase, *, test: bool) -> RunPlan:
        """Return the plan of a contender with proposed values."""
        contender: Contender = self.job.contenders[name]
        method, training = contenders.settings(
            contender, self.job.training, values, f"contender {name!r}"
        )
        return self.chain.run_plan(
            name, method, training, self.job.sensitivity, phase=phase, test=test
        )

    def run(self, runs: Sequence[Runs], stage: sweep.Stage) -> None:
        """Run plans over their seeds, as many beside each other as fit.

        Raises JobError when one of them did not finish.
        """
        with self.chain.timed("final comparison"):
            sweep.run_all(stage, runs)
        check_finished(self.chain.storage, runs)

    def repeat_shared(self, plans: Sequence[RunPlan], seeds: Sequence[int]) -> list[Runs]:
        """Run the best of some plans once more, what its runs share computed anew for every seed.

        The best is that of the highest mean dev score among those whose runs share a sensitivity
        map or warmed-up embeddings; where there are none, that is said.
        """
        sharing = [plan for plan in plans if _shares_stages(plan)]
        if not sharing:
            print("no contender's seeds share a sensitivity map or a warm-up: nothing to repeat")
            return []
        best = max(sharing, key=lambda plan: _judged(self.chain.storage, Runs(plan, seeds)))
        own = [Runs(self._own_stages(best, seed), [seed]) for seed in seeds]
        with self.stage() as stage:
            self.run(own, stage)
        return own

    def _own_stages(self, plan: RunPlan, seed: int) -> RunPlan:
        """Return a plan whose sensitivity map and warmed-up embeddings are of one seed alone."""
        return self.chain.run_plan(
            f"{plan.contender}{OWN_STAGES}",
            plan.method,
            plan.training,
            self.job.sensitivity.model_copy(update={"head_seed": seed}),
            phase=plan.phase,
            test=plan.test,
            warm_up_seed=seed,
        )

    def estimate(self, runs: int) -> str:
        """Say how long some more runs will take, judging by the recorded ones of this corpus."""
        records = run_records(RecordStore(self.chain.storage).all(self.chain.corpus.name))
        seconds = [
            run.train_seconds + run.evaluate_seconds
            for run in records
            if run.train_seconds is not None and run.evaluate_seconds is not None
        ]
        if not seconds:
            return f"{runs} runs; no run of this corpus is recorded yet that would tell how long"
        each = sum(seconds) / len(seconds)
        return (
            f"{runs} runs, about {runs * each / 60:.0f} min one by one ({each:.0f} s a run so far)"
        )

    def report(self, runs: Sequence[Runs], published: Beside | None = None) -> None:
        """Write the report on some runs, and print its main table and where everything lies.

        ``published``: a published table to write beside it.
        """
        found = records_of(self.chain.storage, runs)
        context = dataclasses.replace(self._context(runs), published=published)
        write_records_report(self.target, self.chain.storage, found, context)
        self._print(found, self.target)

    @property
    def target(self) -> str:
        """The folder or URI of the report."""
        return self.job.report or f"{self.chain.storage}/reports/{self._name()}"

    def _name(self) -> str:
        return folder_name(self.chain.corpus.name)

    def _print(self, records: Sequence[RunRecord], target: str) -> None:
        planted = self._planted()
        if planted:
            found = [row.text for row in planted if row.found]
            tokens = sum(row.token for row in planted)
            print(
                f"\nplanted phrases found: {len(found)} of {len(planted)} ({tokens} became task "
                f"tokens): {', '.join(found)}"
            )
        print(f"\n{comparison_table(records)}\n")
        reports = {"report": f"{target}/{FILE}", "page": f"{target}/{PAGE}"}
        print(table(self.chain.locations() | reports))

    def _tokens(self) -> list[dict[str, Any]]:
        tokens = self.chain.manifests.get("tokens")
        rows = tokens.notes["tokens"] if tokens else []
        return sorted(rows, key=lambda row: float(row["perplexity"]))

    def _token_report(self) -> TokenReport | None:
        manifest = self.chain.token_report if self._tokens() else None
        return self.chain.store.load(TokenReport, manifest) if manifest else None

    def _planted(self) -> list[PlantedRow]:
        """Say of each phrase planted in the demo corpus whether it was mined and selected."""
        mined = self.chain.manifests.get("patterns")
        if self.chain.corpus.name != DEMO or mined is None:
            return []
        support = self.chain.store.load(Patterns, mined).as_mapping()
        tokenizer = base_tokenizer(self.job.model)
        chosen = {row["text"] for row in self._tokens()}
        rows = []
        for phrase in planted_phrases():
            text = " ".join(phrase.words)
            ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
            rows.append(PlantedRow(text, ids in support, support.get(ids), text in chosen))
        return rows

    def _context(self, runs: Sequence[Runs]) -> Context:
        rows = self._tokens()
        return Context(
            command=shlex.join(["python", *sys.argv]),
            task=self.chain.corpus.name,
            timings=self.chain.timings,
            tokens=[TokenRow(**row) for row in rows],
            token_report=self._token_report(),
            planted=self._planted(),
            leaks=self.chain.corpus.leaks,
            selections=self._selections(runs),
            overlaps=self._overlaps(runs),
            artifacts={name: m.key for name, m in self.chain.manifests.items()},
        )

    def _selected(self, runs: Sequence[Runs]) -> dict[str, tuple[AdaptConfig, Selection]]:
        """Return each contender's last selection: that of the final comparison."""
        return {
            plan.contender: (plan.method, plan.selection)
            for plan in (item.plan for item in runs)
            if plan.selection is not None and isinstance(plan.method, AdaptConfig)
        }

    def _selections(self, runs: Sequence[Runs]) -> list[SelectionMap]:
        return [
            selections.selection_map(
                label,
                self.chain.map_for(method, self.job.sensitivity),
                method,
                selection,
                self.chain.inserted_share(method),
            )
            for label, (method, selection) in self._selected(runs).items()
        ]

    def _overlaps(self, runs: Sequence[Runs]) -> list[OverlapRow]:
        """Compare the selections with each other and with those of other tasks on record."""
        ours = {label: found.modules for label, (_, found) in self._selected(runs).items()}
        if not ours:
            return []
        modules, _ = unloaded(self.job.model)
        records = run_records(RecordStore(self.chain.storage).all())
        task, model = self.chain.corpus.name, self.job.model.name
        others = selections.of_other_tasks(records, task, model, modules)
        return selections.overlaps(modules, ours, others)


def check_finished(storage: str, runs: Sequence[Runs]) -> None:
    """Raise JobError when a run did not finish."""
    records = RecordStore(storage)
    for each in runs:
        lost = unfinished(records, each.plan, each.seeds)
        if lost:
            raise JobError(
                f"{each.plan.contender}: {len(lost)} of {len(each.seeds)} runs did not finish "
                f"(seeds {', '.join(map(str, lost))}); the same command tries them again"
            )


def check_contenders(job: SweepJob | StabilityJob, model: ModelConfig) -> None:
    """Check every corner of every contender of a job against a model.

    Raises InputError for the first that is impossible.
    """
    for name, contender in job.contenders.items():
        if not isinstance(job, SweepJob):  # what a search would vary stays as it is
            contender = contender.model_copy(update={"space": {}})
        contenders.check_contender(name, contender, job.training)
        for method, training in contenders.corners(contender, job.training):
            contenders.check_method(
                f"contender {name!r}", method, model, training, job.resources.workers
            )


def write_records_report(
    target: str,
    storage: str,
    records: Sequence[RunRecord],
    context: Context,
    curves: Literal["final", "all"] = "final",
) -> None:
    """Write the report on some records, with their curves or only those outside a search."""
    store = RecordStore(storage)
    context = dataclasses.replace(context, answers=_test_answers(store, records))
    rows = pa.Table.from_pylist([dataclasses.asdict(r) for r in records], schema=RUN_SCHEMA)
    drawn = {
        record.run_id: store.curves(record.run_id)
        for record in records
        if curves == "all" or record.phase != "search"
    }
    publish_report(target, lambda folder: write_report(folder, rows, drawn, context))


def _test_answers(store: RecordStore, records: Iterable[RunRecord]) -> dict[str, Answers]:
    """Read what the trained runs of a comparison said of the test rows."""
    found = {
        run.run_id: answers(store.predictions(run.run_id))
        for run in trained(records)
        if run.test_macro_f1 is not None
    }
    return {run_id: said for run_id, said in found.items() if said is not None}


def comparison_table(records: Iterable[RunRecord]) -> str:
    """Return the final comparison as a table for the terminal."""
    return markdown(tables.comparison(final_arms(trained(records))))


def records_of(storage: str, runs: Iterable[Runs]) -> list[RunRecord]:
    """Read the records of some runs, under the names that this job gives them.

    A run is kept once under what defines it; the job that ran it first named it.
    """
    records = RecordStore(storage)
    found: dict[tuple[str, str, int], RunRecord] = {}
    for item in runs:
        plan = item.plan
        for seed in item.seeds:
            record = records.get(plan.run_id(seed), plan.task, plan.method.type)
            if record is not None:
                renamed = dataclasses.replace(
                    record,
                    contender=plan.contender,
                    phase=plan.phase,
                    config_json=plan.config_json,
                )
                found.setdefault((plan.contender, plan.configuration_id, seed), renamed)
    return list(found.values())


def _shares_stages(plan: RunPlan) -> bool:
    measured = isinstance(plan.method, AdaptConfig) and plan.method.map_from is None
    return measured or plan.new_rows is not None


def _judged(storage: str, runs: Runs) -> float:
    """Return the mean dev score of recorded runs."""
    found = [record.judged() for record in records_of(storage, [runs])]
    return sum(found) / len(found)


def publish_report(target: str, write: Callable[[Path], object]) -> None:
    """Write a report aside and copy it to a folder or URI, its text last."""
    filesystem, path = open_root(target)
    filesystem.create_dir(path, recursive=True)
    with tempfile.TemporaryDirectory(prefix="adapt_ray-") as scratch:
        write(Path(scratch))
        for file in sorted(Path(scratch).iterdir(), key=lambda file: file.name == FILE):
            write_whole(filesystem, f"{path}/{file.name}", file.read_bytes())
