"""Classifying a corpus on Ray Data: actors with the model take parts of it and write the result.

Every part is written whole by the actor that computed it, so a killed job repeats only those that
were not finished. Each actor finds the fastest batches on its first texts.
"""

import os
import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy

from adapt_ray.artifacts import check_place
from adapt_ray.config import PredictJob, absolute_storage
from adapt_ray.data.sources import read_texts
from adapt_ray.data.strings import Strings
from adapt_ray.distributed.session import Session
from adapt_ray.errors import InputError, JobError, nearest
from adapt_ray.export import Classifier, load
from adapt_ray.prediction.budget import fastest_budget
from adapt_ray.prediction.model import local_copy, settings_at
from adapt_ray.prediction.parts import Output, Part, output_of
from adapt_ray.progress import Progress
from adapt_ray.training.evaluate import Scores, score


class Prediction:
    """One prediction job: what is to classify, what is left of it, and the result."""

    def __init__(self, job: PredictJob, session: Session) -> None:
        """Check everything that can be checked before Ray starts."""
        if job.model is None:
            raise InputError("model is not given; --model takes an exported model, folder or URI")
        if job.data.source is None:
            raise InputError("data.source is not given; it says which texts are classified")
        self._job = job
        self._session = session
        self._model = absolute_storage(job.model, "model")
        settings = settings_at(self._model)
        self._model_digest = settings.digest
        self._read = read_texts(job.data.source, job.data)
        self._label_names = settings.label_names
        self._check_labels()
        check_place(absolute_storage(job.output, "output"), "output")
        self.output = output_of(
            absolute_storage(job.output, "output"),
            settings.digest,
            settings.label_names,
            self._read.texts,
            self._read.carried,
            job.part_rows,
        )

    def status(self) -> dict[str, str]:
        """Say what there is to do, and what is done."""
        parts = len(self.output.parts)
        return {
            "model": f"{self._model}, classes {', '.join(self._label_names)}",
            "texts": f"{self.output.rows:,}",
            "parts": f"{parts}, {parts - len(self.output.unfinished())} of them done",
            "output": self.output.place,
        }

    def run(self) -> None:
        """Classify what is left. Raises JobError when an actor cannot."""
        left = self.output.unfinished()
        if left:
            self._session.start()
            started = time.perf_counter()
            done = len(self.output.parts) - len(left)
            cost = float(sum(part.stop - part.start for part in left))
            total = len(self.output.parts)
            with Progress("predicting", total, "part", done=done, cost=cost) as progress:
                self._classify(left, progress)
            seconds = time.perf_counter() - started
            print(f"classified {cost:,.0f} texts in {seconds:.1f} s, start-up included")
        self.output.seal({"model": self._model_digest, "data": self._job.data.key()})

    def result(self) -> dict[str, str]:
        """Return where the predictions lie, and their scores where there are labels."""
        found = {"predictions": self.output.place, "texts": f"{self.output.rows:,}"}
        scores = self._scores()
        if scores is not None:
            found |= {
                "macro-F1": f"{scores.macro_f1:.4f}",
                "accuracy": f"{scores.accuracy:.4f}",
            }
        return found

    def _check_labels(self) -> None:
        for label in sorted(set(self._read.labels or ())):
            if label not in self._label_names:
                raise InputError(
                    f"data.label_column {self._job.data.label_column!r} holds the label {label!r}, "
                    f"which the model does not know{nearest(label, self._label_names)}; its "
                    f"classes are {', '.join(self._label_names)}"
                )

    def _scores(self) -> Scores | None:
        if self._read.labels is None:
            return None
        numbers = {name: number for number, name in enumerate(self._label_names)}
        labels, predicted = (
            np.array([numbers[name] for name in names], np.int64)
            for names in (self._read.labels, self.output.predicted())
        )
        return score(labels, predicted, len(numbers))

    def _classify(self, left: list[Part], progress: Progress) -> None:
        resources = self._job.resources
        tables: list[Any] = [self._block(part) for part in left]
        classified = ray.data.from_arrow(tables).map_batches(
            _Predictor,
            fn_constructor_kwargs={
                "model": self._model,
                "output": self.output,
                "batch_tokens": self._job.batch_tokens,
                "threads": max(1, int(resources.cpus_per_worker)),
            },
            batch_format="pyarrow",
            batch_size=None,
            # The blocks are there already: a pool as large as the machine has nothing to wait for.
            compute=ActorPoolStrategy(size=min(resources.workers, len(tables))),
            num_cpus=resources.cpus_per_worker,
            num_gpus=resources.gpus_per_worker or None,
        )
        for row in classified.iter_rows():
            if row["error"]:
                raise JobError(row["error"])
            if row["choice"]:
                progress.write(row["choice"])
            progress.update(cost=row["rows"])

    def _block(self, part: Part) -> pa.Table:
        size = part.stop - part.start
        columns: dict[str, Any] = {
            "row": np.arange(part.start, part.stop),
            "text": self._read.texts[part.start : part.stop].column,
        }
        if self._read.carried.column_names:  # in a column of their own: any name may be among them
            carried = self._read.carried.slice(part.start, size)
            columns["carried"] = carried.to_struct_array()
        return pa.table(columns)


class _Predictor:
    """A model in an actor: classifies a part at a time and writes what it finds."""

    def __init__(self, model: str, output: Output, batch_tokens: int | None, threads: int) -> None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # of the tokenizer
        torch.set_num_threads(threads)
        self._location = model
        self._output = output
        self._batch_tokens = batch_tokens
        self._classifier: Classifier | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        """Classify one part; a row says how many texts it had, and how batches were chosen.

        A model that cannot be used here is told in the row: Ray would try again, and bury it.
        """
        try:
            choice, error = self._classify(block), ""
        except InputError as found:
            choice, error = "", str(found)
        return pa.table({"rows": [len(block)], "choice": [choice], "error": [error]})

    def _classify(self, block: pa.Table) -> str:
        texts = Strings(block["text"])
        classifier = self._loaded()
        choice = "" if self._batch_tokens else self._choose(classifier, texts)
        found = classifier.predict(texts, self._batch_tokens or 0)
        rows = pa.table({"row": block["row"]})
        if "carried" in block.column_names:
            carried = pa.Table.from_struct_array(block["carried"])
            for name in carried.column_names:
                rows = rows.append_column(carried.schema.field(name), carried[name])
        self._output.write(rows, found.probabilities)
        return choice

    def _loaded(self) -> Classifier:
        """Return the model, loaded with the first part."""
        if self._classifier is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._classifier = load(local_copy(self._location), device)
        return self._classifier

    def _choose(self, classifier: Classifier, texts: Strings) -> str:
        choice = fastest_budget(classifier, texts)
        self._batch_tokens = choice.budget
        tried = ", ".join(f"{budget:,}: {speed:,.0f}" for budget, speed in choice.trials)
        return (
            f"worker {_worker()}: batches of {choice.budget:,} "
            f"tokens, {choice.tokens_per_second:,.0f} tokens a second (tried {tried})"
        )


def _worker() -> str:
    return str(ray.get_runtime_context().get_actor_id())[:8]
