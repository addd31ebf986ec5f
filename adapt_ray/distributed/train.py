"""Training on Ray Train: groups of workers that take runs, whichever configuration they are of.

Starting workers costs seconds and loading a corpus some more, so a group is started once and takes
run after run from the desk. Every finished run is recorded at once; a group that is lost is
started again, and its run goes on from its last checkpoint.
"""

import gc
import itertools
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

import ray
import torch
from ray import cloudpickle
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from adapt_ray.artifacts import remove_folder
from adapt_ray.config import ResourcesConfig
from adapt_ray.distributed.desk import Desk, Result
from adapt_ray.distributed.session import Session
from adapt_ray.errors import JobError, last_line
from adapt_ray.export import export
from adapt_ray.export_place import exporting_to
from adapt_ray.modeling import TaskClassifier
from adapt_ray.records import RecordStore, RunRecord, run_records
from adapt_ray.training.checkpoint import discard, last_saved
from adapt_ray.training.run import Inputs, RunPlan, execute, failed
from adapt_ray.training.world import World

_KEPT_INPUTS = 2  # of plans that a group has loaded: those of two contenders often take turns
_LISTENERS = 10_000  # calls that wait at the desk at the same time
_CLOSING_SECONDS = 60.0
_UNNEEDED = ("DatasetsCallback", "PlacementGroupCleanerCallback")  # of Ray Train, see _Trainer
_SECONDS_BETWEEN_LOOKS = 5.0


class Work(Protocol):
    """What a group of workers is asked to do."""

    @property
    def key(self) -> str:
        """What tells equal work."""
        ...

    @property
    def place(self) -> str:
        """From where it goes on, when a group was lost with it; empty: from its beginning."""
        ...

    def run(self, bench: "Bench") -> Result:
        """Do it, on every worker of the group."""
        ...


class Bench:
    """What a worker keeps from one piece of work to the next."""

    def __init__(self) -> None:
        self.world = World.current()
        self._inputs: OrderedDict[str, tuple[RunPlan, Inputs]] = OrderedDict()

    def inputs(self, plan: RunPlan) -> Inputs:
        """Return the inputs of a plan, loaded now if they are not those of a recent one."""
        name = plan.inputs_id
        if name not in self._inputs:
            # Cached states are held from eviction while inputs that read them exist.
            for other, (earlier, _) in list(self._inputs.items()):
                if earlier.trunk is not None or len(self._inputs) >= _KEPT_INPUTS:
                    del self._inputs[other]
            gc.collect()
            self._inputs[name] = plan, Inputs.of(plan)
        self._inputs.move_to_end(name)
        return self._inputs[name][1]


@dataclass(frozen=True)
class SeedRun:
    """One run of a plan, recorded, and exported where asked."""

    plan: RunPlan
    seed: int
    export_to: str | None = None

    @property
    def key(self) -> str:
        """The run's id; an export is work of its own."""
        return f"{self.plan.run_id(self.seed)} {self.export_to or ''}"

    @property
    def place(self) -> str:
        """The name of its last checkpoint."""
        return last_saved(self.plan.storage, self.plan.run_id(self.seed))

    def run(self, bench: Bench) -> Result:
        """Run it unless it is finished; its record is what counts, this only says the score."""
        plan, seed, world = self.plan, self.seed, bench.world
        records = RecordStore(plan.storage)
        if self.export_to is not None or not is_finished(records, plan, seed):
            self._record(bench.inputs(plan), records, world)
        if world.rank > 0:
            return {}
        discard(plan.storage, plan.run_id(seed))  # also of a run that was killed just here
        record = records.get(plan.run_id(seed), plan.task, plan.method.type)
        assert record is not None
        return {"seed": seed, "judged": record.judged()}

    def _record(self, inputs: Inputs, records: RecordStore, world: World) -> None:
        done = is_finished(records, self.plan, self.seed)  # it is only exported then
        # Read before the run: a damaged record must not show when hours of training are done.
        recorded = run_records(records.all(self.plan.task)) if self.export_to else []

        def write_export(
            place: str, model: TaskClassifier, weights: dict[str, Tensor], record: RunRecord
        ) -> None:
            # Cards take SciPy's statistics, a second that workers without an export save.
            from adapt_ray.model_card import card_facts
            from adapt_ray.report.card import model_card

            names = inputs.corpus.label_names
            card = model_card(card_facts(self.plan, inputs, record, recorded))
            with exporting_to(place) as folder:
                export(
                    folder,
                    model,
                    weights,
                    inputs.tokenizer,
                    self.plan.model,
                    names,
                    record.summary(),
                    card,
                )

        try:
            to_place = partial(write_export, self.export_to) if self.export_to else None
            outcome = execute(self.plan, self.seed, inputs, export=to_place)
        except Exception as error:
            if world.rank == 0 and not done:
                reason = f"{type(error).__name__}: {error}"
                lost = failed(self.plan, self.seed, inputs, reason, world.size)
                records.write(lost.record, lost.predictions, lost.curves)
            raise
        if world.rank == 0 and not done:
            records.write(outcome.record, outcome.predictions, outcome.curves)
        # DeepSpeed leaves reference cycles: weights that would be in memory beside the next run's.
        gc.collect()


class WorkerPool:
    """Groups of workers on Ray Train, started when there is work for them; a context manager."""

    def __init__(self, session: Session, resources: ResourcesConfig, folder: str) -> None:
        session.start()
        self._beacons = session.beacons
        self._resources = resources
        self._folder = folder
        self.groups = session.concurrent_runs()
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._watching = False
        self._closed = threading.Event()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Desk)
        self.desk = actor.options(
            num_cpus=0, max_concurrency=_LISTENERS, scheduling_strategy=here
        ).remote()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closed.set()
        self.desk.close.remote()
        for thread in self._threads:
            thread.join(_CLOSING_SECONDS if kind is None else 0)
        ray.kill(self.desk)

    def order(self, channel: str, work: Work) -> None:
        """Have work done; its result goes to ``channel`` of the desk."""
        open_orders = ray.get(self.desk.order.remote(channel, work.key, cloudpickle.dumps(work)))
        with self._starting:
            if len(self._threads) < min(self.groups, open_orders):
                thread = threading.Thread(target=self._serve, daemon=True)
                self._threads.append(thread)
                thread.start()

    def do(self, pieces: Sequence[Work]) -> Iterator[Result]:
        """Have work done and yield the results as they come; JobError when a piece cannot be."""
        channel = f"pieces-{uuid.uuid4().hex}"
        for piece in pieces:
            self.order(channel, piece)
        for index in range(len(pieces)):
            result: Result = ray.get(self.desk.result.remote(channel, index))
            if "error" in result:
                raise JobError(result["error"])
            yield result

    def _serve(self) -> None:
        """Keep one group of workers at work until the desk is closed, or gone with its job."""
        go_on = True
        while go_on:
            # A name that Ray has seen before would return the old result instead of running.
            group = f"group-{uuid.uuid4().hex[:12]}"
            try:
                go_on = self._work(group)
            except ray.exceptions.RayActorError:
                return  # whoever waits for results says so
            except Exception:
                if not self._closed.is_set():  # the job ends with an error, and Ray with it
                    raise
                return
            remove_folder(f"{self._folder}/{group}")
            if go_on:
                self._watch_placements()

    def _watch_placements(self) -> None:
        """From the first lost group on, see to it that Ray can place groups at all."""
        with self._starting:
            if self._watching:
                return
            self._watching = True
        threading.Thread(target=self._drop_lost_placements, daemon=True).start()

    def _drop_lost_placements(self) -> None:
        """Remove what groups that lost a node have left, again and again until the pool closes.

        Ray 2.60 tries to place it elsewhere, without a pause and before everything else: while
        there is no room for it, no group and no trial is placed any more. A group never goes on
        with other workers, so nobody needs it.
        """
        job = ray.get_runtime_context().get_job_id()
        while not self._closed.wait(_SECONDS_BETWEEN_LOOKS):
            for name, facts in placement_group_table().items():
                if facts["state"] == "RESCHEDULING" and name.endswith(job):
                    lost = PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name)))
                    remove_placement_group(lost)

    def _work(self, group: str) -> bool:
        """Keep one group at work until it is lost; return whether another should be started."""
        try:
            self._trainer(group).fit()
        except ray.train.TrainingFailedError as error:
            go_on: bool = ray.get(self.desk.lost.remote(group, last_line(error)))
            return go_on
        return False

    def _trainer(self, group: str) -> TorchTrainer:
        threads = max(1, int(self._resources.cpus_per_worker))
        return _Trainer(
            _worker,
            train_loop_config={
                "desk": self.desk,
                "group": group,
                "threads": threads,
                "beacons": self._beacons,
            },
            scaling_config=ScalingConfig(
                num_workers=self._resources.workers,
                use_gpu=self._resources.gpus_per_worker > 0,
                resources_per_worker=_per_worker(self._resources),
            ),
            # The desk hands the work of a lost group to another one at once, and counts the losses.
            run_config=RunConfig(
                name=group,
                storage_path=self._folder,
                failure_config=FailureConfig(max_failures=0),
            ),
        )


class _Trainer(TorchTrainer):
    """Ray Train's trainer without two actors that a group does not need.

    One hands out datasets, of which a group has none. The other gives the group's resources back
    when its controller dies, which Ray does by itself when the controller or the job is gone; it
    looks for the controller in the cluster that ``ray start`` began last on this machine. That is
    never the local Ray of a job: where such a cluster is gone, the end of every group waited 12 s
    for the actor, and where one is there, the actor took its controller for dead.
    """

    def _create_default_callbacks(self) -> list[Any]:
        found = super()._create_default_callbacks()  # type: ignore[misc]  # stubs know another class
        return [each for each in found if type(each).__name__ not in _UNNEEDED]


def is_finished(records: RecordStore, plan: RunPlan, seed: int) -> bool:
    """Return whether a run ended for good (``ok`` or ``diverged``)."""
    return records.finished(plan.run_id(seed), plan.task, plan.method.type)


def unfinished(records: RecordStore, plan: RunPlan, seeds: Sequence[int]) -> list[int]:
    """Return the seeds whose run has no final record yet."""
    return [seed for seed in seeds if not is_finished(records, plan, seed)]


def _per_worker(resources: ResourcesConfig) -> dict[str, float]:
    wanted = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    return {unit: amount for unit, amount in wanted.items() if amount}


def _worker(config: dict[str, Any]) -> None:
    """What every worker of a group executes; it reads its argument and nothing else."""
    # More threads than CPUs slow neighbouring runs down many times over.
    torch.set_num_threads(config["threads"])
    for beacon in config["beacons"]:  # this node may have joined after the job began
        beacon.require(ray.util.get_node_ip_address())
    desk, group = config["desk"], config["group"]
    bench = Bench()
    for turn in itertools.count():
        taken = ray.get(desk.take.remote(group, turn))
        if taken is None:
            return
        work: Work = cloudpickle.loads(taken)
        if bench.world.rank == 0:
            ray.get(desk.begins.remote(group, work.place))
        result = work.run(bench)
        bench.world.gather(None)  # nobody asks for the next work before all have had this
        if bench.world.rank == 0:
            ray.get(desk.done.remote(group, result))
