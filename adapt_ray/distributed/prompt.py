"""Prompting: what is not answered yet is asked, here on Ray Data or at an endpoint, then recorded.

A local model answers in a pool of actors, each of which loads it once; every batch of replies is
written by the actor that made it. An endpoint is asked from the driver, which only waits.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy

from adapt_ray.artifacts import ArtifactStore, check_place
from adapt_ray.config import PromptJob, absolute_storage
from adapt_ray.data.corpus import load_corpus
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.stages import corpus_stage
from adapt_ray.measures import resolve_precision
from adapt_ray.progress import Progress
from adapt_ray.prompting import endpoint
from adapt_ray.prompting.local import LocalModel, check_local_model
from adapt_ray.prompting.outcome import outcome, price, token_counts
from adapt_ray.prompting.plan import EVALUATED, PromptPlan, Setting, check_model
from adapt_ray.prompting.replies import Reply, ReplyStore, Request
from adapt_ray.prompting.template import Message, plain
from adapt_ray.records import CURVES_SCHEMA, RecordStore, RunRecord

_CHARACTERS_PER_TOKEN = 4.0  # of English text, about; only for estimates


class Prompting:
    """One prompting job: its plan, what is left to ask, and its records."""

    def __init__(self, job: PromptJob, session: Session) -> None:
        """Check everything that can be checked before the first prompt is asked."""
        prompt = job.prompt
        check_model(prompt)
        endpoint.read_key(prompt)
        if prompt.endpoint is None:
            prompt = prompt.model_copy(update={"precision": resolve_precision(prompt.precision)})
        self._resources = job.resources
        self._session = session
        self.storage = absolute_storage(job.storage)
        check_place(self.storage)
        self._records = RecordStore(self.storage)
        self._plan = PromptPlan(load_corpus(job.data), job.data, prompt)
        self._plan.check()
        if prompt.endpoint is None:
            check_local_model(self._plan.model_name, self._longest())
        self.replies = ReplyStore(self.storage, self._plan.model)

    def unanswered(self) -> list[Request]:
        """Return what is left to ask for the settings without a record, each prompt once."""
        known = self.replies.load()
        return [r for r in self._distinct(self._unrecorded()) if r.key not in known]

    def status(self) -> dict[str, str]:
        """Say how many requests there are, how many are answered, and what the others may cost."""
        every, left = len(self._distinct(self._plan.settings)), self.unanswered()
        asked = sum(request.characters for request in left) / _CHARACTERS_PER_TOKEN
        replied = len(left) * self._plan.prompt.max_new_tokens
        return {
            "requests": f"{every}, {every - len(left)} of them answered",
            "prompt tokens to come": f"about {asked:,.0f}",
            "reply tokens to come": f"at most {replied:,}",
            "cost to come": _dollars(price(self._plan.prompt, round(asked), replied)),
            "texts that are cut": f"{self._plan.truncated():,}",
        }

    def example(self) -> str:
        """Return one prompt as text, with the fewest examples configured."""
        setting = min(self._plan.settings, key=lambda setting: setting.shots)
        return plain(self._plan.requests(setting, "dev")[0].messages)

    def ask(self) -> None:
        """Ask everything that has no answer yet, and say what that took."""
        left = self.unanswered()
        if not left:
            return
        local = self._plan.prompt.endpoint is None
        if local:
            self._session.start()
        with Progress("prompting", len(left), "prompt", cost=_cost(left)) as progress:
            if local:
                self._ask_here(left, progress)
            else:
                self._ask_endpoint(left, progress)
        known = self.replies.load()
        new = [known[request.key] for request in left]
        asked, answered = token_counts(new)
        cut = sum(reply.finish_reason == "length" for reply in new)
        refused = sum(reply.refused is not None for reply in new)
        print(
            f"asked {len(new)} prompts: {_count(asked)} prompt tokens, {_count(answered)} reply "
            f"tokens, cost {_dollars(price(self._plan.prompt, asked, answered))}; {cut} replies "
            f"ended at prompt.max_new_tokens, {refused} were refused"
        )

    def record(self) -> list[RunRecord]:
        """Record every setting that is not yet, and return the records of all."""
        unrecorded = self._unrecorded()
        known = self.replies.load() if unrecorded else {}
        for setting in unrecorded:
            record, predictions = outcome(self._plan, setting, self._corpus_digest(), known)
            self._records.write(record, predictions, CURVES_SCHEMA.empty_table())
        found = [self._recorded(setting) for setting in self._plan.settings]
        return [record for record in found if record is not None]

    def locations(self) -> dict[str, str]:
        """Return where the replies and the records lie."""
        return {"replies": str(self.replies.folder), "records": f"{self.storage}/records"}

    def _ask_endpoint(self, requests: Sequence[Request], progress: Progress) -> None:
        characters = {request.key: request.characters for request in requests}

        def keep(replies: Sequence[Reply]) -> None:
            self.replies.add(replies)
            for reply in replies:
                progress.update(cost=characters[reply.key])

        endpoint.ask(requests, self._plan.prompt, keep, warn=progress.write)

    def _ask_here(self, requests: Sequence[Request], progress: Progress) -> None:
        prompt, resources = self._plan.prompt, self._resources
        ordered = sorted(requests, key=lambda request: request.characters)  # little padding
        size = prompt.batch_size
        batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        tables: list[Any] = [_as_table(batch) for batch in batches]
        answered = ray.data.from_arrow(tables).map_batches(
            _Asker,
            fn_constructor_kwargs={
                "storage": self.storage,
                "model": self._plan.model,
                "name": self._plan.model_name,
                "precision": prompt.precision,
                "threads": max(1, int(resources.cpus_per_worker)),
            },
            batch_format="pyarrow",
            batch_size=None,
            compute=ActorPoolStrategy(size=min(resources.workers, len(tables))),
            num_cpus=resources.cpus_per_worker,
            num_gpus=resources.gpus_per_worker or None,
        )
        for row in answered.iter_rows():
            progress.update(cost=row["characters"])

    def _unrecorded(self) -> list[Setting]:
        records = {setting: self._recorded(setting) for setting in self._plan.settings}
        return [setting for setting, found in records.items() if not (found and found.finished)]

    def _recorded(self, setting: Setting) -> RunRecord | None:
        return self._records.get(self._plan.run_id(setting), self._plan.corpus.name, setting.method)

    def _distinct(self, settings: Sequence[Setting]) -> list[Request]:
        every = (
            request
            for setting in settings
            for split in EVALUATED
            for request in self._plan.requests(setting, split)
        )
        return list({request.key: request for request in every}.values())

    def _longest(self) -> list[Request]:
        """Return the longest prompt of each setting."""
        return [
            max(self._distinct([setting]), key=lambda request: request.characters)
            for setting in self._plan.settings
        ]

    @functools.cache  # noqa: B019  the one corpus of the job
    def _corpus_digest(self) -> str:
        store = ArtifactStore(self.storage)
        stage, notes = corpus_stage(self._plan.corpus)
        manifest = store.find(stage) or store.publish(stage, self._plan.corpus, notes)
        return manifest.digest


class _Asker:
    """A local model in an actor: answers blocks of requests and keeps the replies."""

    def __init__(
        self,
        storage: str,
        model: Mapping[str, Any],
        name: str,
        precision: str,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        self._store = ReplyStore(storage, model)
        self._model = LocalModel(name, precision)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Answer a block; one row a reply says how many characters its prompt had."""
        requests = [_request(row) for row in block.to_pylist()]
        self._store.add(self._model.answer(requests))
        return pa.table({"characters": [request.characters for request in requests]})


_PLAIN_FIELDS = ("key", "temperature", "seed", "max_new_tokens", "row_id", "shots")


def _as_table(requests: Sequence[Request]) -> pa.Table:
    """Return requests as rows; the examples that many of them share are held once."""
    columns: dict[str, Any] = {
        name: [getattr(request, name) for request in requests] for name in _PLAIN_FIELDS
    }
    examples = pa.array([json.dumps(request.examples) for request in requests])
    columns["examples"] = examples.dictionary_encode()
    columns["question"] = [request.question.content for request in requests]
    return pa.table(columns)


def _request(row: Mapping[str, Any]) -> Request:
    return Request(
        **{name: row[name] for name in _PLAIN_FIELDS},
        examples=tuple(Message(*turn) for turn in json.loads(row["examples"])),
        question=Message("user", row["question"]),
    )


def _cost(requests: Sequence[Request]) -> float:
    return float(sum(request.characters for request in requests))


def _count(tokens: int | None) -> str:
    return "an unknown number of" if tokens is None else f"{tokens:,}"


def _dollars(amount: float | None) -> str:
    return "unknown (no prices given)" if amount is None else f"{amount:,.2f} USD"
