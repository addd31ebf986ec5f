"""Every job refuses bad input in one line, before Ray starts and before anything is written."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from bad_input import DOCUMENT, ROOT, placeless, run
from bad_input_cases import CASES, Case, Workshop

Run = Callable[..., tuple[int, str, str]]


def name_of(case: Case) -> str:
    return f"{case.job}: {case.name}"


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_table(case: Case, tmp_path: Path) -> None:
    found = run(case.job, case.flags(Workshop(tmp_path)), tmp_path, case.environment)
    assert found.status == case.status
    assert found.error.startswith("error: ")
    assert found.error.count("\n") == 1
    for part in case.expected:
        assert part in found.error
    assert found.changed == ()
    assert not (tmp_path / "owned").exists()


def test_cases_have_names_of_their_own() -> None:
    assert len(set(map(name_of, CASES))) == len(CASES) >= 60


def test_the_document_has_every_case() -> None:
    rows = [line.split(" | ")[:2] for line in DOCUMENT.read_text().splitlines() if line[:1] == "|"]
    written = {(name.removeprefix("| ").replace("\\", ""), job) for name, job in rows}
    assert {(case.name, case.job) for case in CASES} <= written


SEPARATE = ("a key twice", "a blank text", "half the weights", "half a record")


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.name in SEPARATE], ids=name_of)
def test_a_process_of_its_own(
    case: Case, run_job: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Nothing but the line comes out, whatever libraries like to say."""
    done = run_job(case.job, *case.flags(Workshop(tmp_path)), timeout=120)
    assert done.returncode == 2
    lines = placeless(done.stderr, tmp_path).splitlines()
    assert lines[-1].startswith("error: ")
    assert all(part in lines[-1] for part in case.expected)
    assert "Traceback" not in done.stderr


def test_the_cases_run_the_jobs_themselves() -> None:
    assert {case.job for case in CASES} == {path.stem for path in (ROOT / "jobs").glob("*.py")}


@pytest.fixture
def refused(run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def no_ray(*args: object, **options: object) -> None:
        raise AssertionError("Ray was started before the input was checked")

    monkeypatch.setattr(ray, "init", no_ray)

    def run(job: str, *argv: str) -> str:
        status, _, error = run_here(job, f"--storage={tmp_path / 'runs'}", *argv)
        assert status == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert not (tmp_path / "runs").exists()
        return error

    return run


def corpus(folder: Path, text: str, name: str = "corpus.csv") -> str:
    path = folder / name
    path.write_text(text)
    return f"--data.source={path}"


ROWS = "".join(f"text number {i} here,{'ab'[i % 2]}\n" for i in range(40))


@pytest.mark.parametrize("job", ["mine", "sensitivity", "finetune", "sweep", "stability"])
def test_a_missing_file(refused: Callable[..., str], job: str) -> None:
    error = refused(job, "--data.source=/nowhere/corpus.csv")
    assert "/nowhere/corpus.csv" in error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text,topic\na b,x\n", ["'label'", "topic"]),
        ("body,label\na b,x\n", ["'text'", "body"]),
        ("text,label\n", ["rows"]),
        ("text,label\n,a\nb c,b\n", ["without a text", "row 1"]),
        ("text,label\na b,x\nc d,x\n", ["one class"]),
        ("text,label\na b,\nc d,x\n", ["label"]),
    ],
)
def test_an_unusable_corpus(
    refused: Callable[..., str], tmp_path: Path, text: str, expected: list[str]
) -> None:
    error = refused("mine", corpus(tmp_path, text))
    for part in expected:
        assert part in error


@pytest.mark.parametrize(
    ("job", "flags", "expected"),
    [
        ("mine", ["--data.task=scirc"], "did you mean 'scierc'"),
        ("sweep", ["--contenders.adapt.method.type=adpt"], "did you mean 'adapt'"),
        ("finetune", ["--method.type=lorra"], "allowed: full, full_stable, adapt"),
        ("finetune", ["--trainin.epochs=2"], "did you mean 'training'"),
        ("finetune", ["--method.sparsity=1.2"], "method.sparsity is 1.2"),
        ("finetune", ["--method.sparsity=0.6"], "hold only 0.47"),
        ("finetune", ["--method.sparsity=0"], "method.sparsity is 0"),
        ("finetune", ["--method.fill=depth_aware"], "set method.new_rows to warmup or frozen"),
        (
            "sensitivity",
            ["--method.fill=depth_aware", "--method.new_rows=frozen", "--method.flop_budget=0.3"],
            "give at least 0.334",
        ),
        (
            "finetune",
            ["--method.type=adalora", "--training.engine=deepspeed"],
            "method.type is 'adalora', which moves its budget by gradients that DeepSpeed has",
        ),
        ("finetune", ["--method.type=lora", "--method.rank=400"], "linear layer has 384 units"),
        (
            "finetune",
            ["--method.type=prompt_tuning", "--method.length=300"],
            "model.max_tokens 256, but this model has 512",
        ),
        (
            "stability",
            [
                "--resources.workers=2",
                "--contenders={x: {method: {type: layer_selection, choose: lisa}}}",
            ],
            "set resources.workers to 1",
        ),
        (
            "sweep",
            ["--contenders={x: {method: {type: lora}, space: {method.sparsity: [0.2, 1.0]}}}"],
            "contender 'x': method.sparsity is 1.0, which takes rank",
        ),
        ("stability", ["--contenders.adapt.method.sparsity=0.9"], "hold only 0.47"),
        ("sweep", ["--contenders.adapt.space", "{method.sparsity: [0.2, 0.8]}"], "hold only 0.47"),
        ("sweep", ["--contenders.adapt.space", "{method.type: [full]}"], "cannot be searched"),
        ("sweep", ["--contenders.adapt.space", "{method.alpha: [0.5, 7]}"], "alpha is 7"),
        ("sweep", ["--contenders.adapt.space", "{model.pooling: [cls]}"], "only method.* and"),
        ("sweep", ["--contenders.adapt.space", "{method.alhpa: [0.5]}"], "unknown field 'alhpa'"),
        ("mine", ["--model.pooling=markers"], "demo has none; give data.markers"),
        ("mine", ["--model.max_tokens=4096"], "positions for 512"),
        ("mine", ["--mining.max_gap=null"], "needs mining.max_gap or mining.max_span"),
        ("mine", ["--storage=nosuchscheme://x/y"], "cannot be opened"),
        ("mine", ["--mining.min_support=-1"], "mining.min_support is -1"),
        ("mine", ["--mining.max_gap=-1"], "mining.max_gap is -1"),
        ("mine", ["--mining.max_length=1"], "min_length 2 is greater than max_length 1"),
        ("mine", ["--mining.max_seconds=0"], "mining.max_seconds is 0"),
        ("mine", ["--mining.memory_gb=0"], "mining.memory_gb is 0"),
        ("mine", ["--resources.mining_tasks=0"], "resources.mining_tasks is 0"),
    ],
)
def test_bad_settings(
    refused: Callable[..., str], job: str, flags: list[str], expected: str
) -> None:
    assert expected in refused(job, *flags)


def test_a_model_folder_without_weights(refused: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert "holds no weights" in refused("finetune", f"--model.name={folder}")
    (folder / "config.json").unlink()
    assert "holds no config.json" in refused("finetune", f"--model.name={folder}")


def test_odd_markers(refused: Callable[..., str]) -> None:
    assert "pairs" in refused("mine", "--data.markers=['[[']")


@pytest.mark.ray
def test_more_workers_than_the_machine_has(
    run_job: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Only Ray knows what the machine has, so this is told when it has started."""
    done = run_job("mine", f"--storage={tmp_path / 'runs'}", "--resources.workers=5000")
    assert done.returncode == 2
    assert "5000 worker(s) of 1 CPU ask for 5000" in done.stderr


def test_a_report_without_records(refused: Callable[..., str]) -> None:
    assert "holds no records" in refused("report")
    assert "of task 'x'" in refused("report", "--task=x")
