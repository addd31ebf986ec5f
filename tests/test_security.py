"""What SECURITY.md promises: no pickle, no foreign code, no way out of the storage, no secrets."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapt_ray.artifacts import folder_name
from adapt_ray.config import DataConfig, ModelConfig, PromptJob, SweepJob, decode
from adapt_ray.data.sources import read_source
from adapt_ray.errors import InputError, one_line
from adapt_ray.modeling import build_classifier, check_model
from adapt_ray.pretrained import open_tokenizer
from adapt_ray.prompting.local import LocalModel
from adapt_ray.report.tables import Table

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [*(ROOT / "adapt_ray").rglob("*.py"), *(ROOT / "jobs").glob("*.py")]

# ---------------------------------------------------------------------------------------------
# What may not stand in the code

SERIALISERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
# What runs code, or unpacks what can leave a folder, by the last names of a call.
BUILTINS = {("eval",), ("exec",), ("__import__",)}
CALLS = {
    ("torch", "load"),
    ("np", "load"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("os", "system"),
    ("os", "popen"),
    ("extractall",),
    ("unpack_archive",),
}
ALLOWED = {
    # numba caches machine code that it compiled itself, in this user's cache folder.
    ("adapt_ray/mining/compilation.py", "import pickle"),
    # Orders between the driver and workers of one job, through Ray, which pickles them anyway.
    ("adapt_ray/distributed/train.py", "import cloudpickle"),
}


def dotted(node: ast.expr) -> tuple[str, ...]:
    """Return the names of ``a.b.c``; what is no name counts as an empty one."""
    if isinstance(node, ast.Attribute):
        return (*dotted(node.value), node.attr)
    return (node.id,) if isinstance(node, ast.Name) else ("",)


def imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (part for alias in node.names for part in alias.name.split("."))
    elif isinstance(node, ast.ImportFrom):
        yield from (node.module or "").split(".")
        yield from (alias.name for alias in node.names)


def refused(path: Path) -> Iterator[str]:
    """Yield what a file may not do."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        yield from (f"import {name}" for name in imports(node) if name in SERIALISERS)
        if isinstance(node, ast.Call):
            names = dotted(node.func)
            yield from (".".join(call) for call in BUILTINS if names == call)
            yield from (".".join(call) for call in CALLS if names[-len(call) :] == call)
            yield from (f"call with {k.arg}" for k in node.keywords if unsafe(k))


def unsafe(keyword: ast.keyword) -> bool:
    value = keyword.value
    off = isinstance(value, ast.Constant) and value.value is False
    return keyword.arg in ("trust_remote_code", "allow_pickle", "shell") and not off


def test_nothing_in_the_package_unpickles_or_runs_what_it_reads() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), what) for path in SOURCES for what in refused(path)
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from ray import cloudpickle",
        "torch.load(p)",
        "subprocess.run(c, shell=True)",
        "f(trust_remote_code=config.x)",
        "tar.extractall(p)",
        "eval(text)",
        "os.system(c)",
    ],
)
def test_the_audit_sees(code: str, tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(code)
    assert list(refused(path))


# ---------------------------------------------------------------------------------------------
# Code that a model or dataset brings along

CANARY = "import pathlib\npathlib.Path({place!r}).write_text('run')\n"


@pytest.fixture
def spoilt(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """Return what copies a model and adds code that would write a file when it runs."""

    def copy(source: str) -> tuple[Path, Path]:
        folder, place = tmp_path / "model", tmp_path / "run"
        shutil.copytree(source, folder)
        (folder / "canary.py").write_text(CANARY.format(place=str(place)))
        for name, kinds in {
            "config.json": ("AutoConfig", "AutoModel", "AutoModelForCausalLM"),
            "tokenizer_config.json": ("AutoTokenizer",),
        }.items():
            values = json.loads((folder / name).read_text())
            entries: dict[str, Any] = {kind: f"canary.{kind}" for kind in kinds}
            if name.startswith("tokenizer"):
                entries = {"AutoTokenizer": ["canary.Slow", "canary.Fast"]}
            (folder / name).write_text(json.dumps(values | {"auto_map": entries}))
        return folder, place

    return copy


def test_code_of_a_model_is_not_run(
    spoilt: Callable[[str], tuple[Path, Path]], tiny_model: str
) -> None:
    folder, place = spoilt(tiny_model)
    config = ModelConfig(name=str(folder), max_tokens=32)
    check_model(config)
    open_tokenizer(folder)
    build_classifier(config, 2, 0, (), new_rows_init="mean", seed=0)
    assert not place.exists()


def test_code_of_a_causal_model_is_not_run(
    spoilt: Callable[[str], tuple[Path, Path]], tiny_causal: str
) -> None:
    folder, place = spoilt(tiny_causal)
    LocalModel(str(folder), "fp32")
    assert not place.exists()


def test_a_model_that_is_nothing_but_code_is_refused(
    spoilt: Callable[[str], tuple[Path, Path]], tiny_model: str
) -> None:
    folder, place = spoilt(tiny_model)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"model_type": "canary"}))
    with pytest.raises(InputError, match="model type 'canary' is not known"):
        check_model(ModelConfig(name=str(folder), max_tokens=32))
    assert not place.exists()


def test_code_cannot_be_allowed() -> None:
    with pytest.raises(InputError, match=r"trust_remote_code is True.*False"):
        decode(ModelConfig, {"trust_remote_code": True}, "flag")


def test_the_script_of_a_dataset_is_not_run(tmp_path: Path) -> None:
    folder, place = tmp_path / "dataset", tmp_path / "run"
    folder.mkdir()
    (folder / "dataset.py").write_text(CANARY.format(place=str(place)))
    card = "---\nconfigs:\n- config_name: default\n  data_files: dataset.py\n---\n"
    for text in ("", card):
        (folder / "README.md").write_text(text)
        with pytest.raises(InputError):
            read_source(str(folder), DataConfig())
    assert not place.exists()


# ---------------------------------------------------------------------------------------------
# Names that users give

NAMES = ["..", ".", "...", "../../x", "/etc", "a/b", "a\\b", "a\0b", "\n", "é x", "~", "x" * 50]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_folder(name: str) -> None:
    found = Path("/storage/reports") / folder_name(name)
    assert found.parent == Path("/storage/reports")
    assert os.path.normpath(found) == str(found)
    assert "\0" not in str(found)


def test_names_stay_apart() -> None:
    assert len({folder_name(name) for name in NAMES}) == len(NAMES)


# ---------------------------------------------------------------------------------------------
# What is shown


def test_an_error_cannot_steer_the_terminal_nor_repeat_a_password() -> None:
    said = one_line("a\nb\r\x1b]0;x\x07 s3://key:secret@bucket/x \u202e \udc80")
    assert said.isprintable()
    assert "secret" not in said
    assert "bucket/x" in said


def test_a_notebook_shows_text_as_text() -> None:
    shown = Table(("<img src=x onerror=y>",), (("<script>z</script>",),))._repr_html_()
    assert "<script" not in shown
    assert "<img" not in shown


# ---------------------------------------------------------------------------------------------
# Secrets

PLACES: list[tuple[type[Any], str]] = [
    (SweepJob, "storage"),
    (SweepJob, "report"),
    (SweepJob, "data.source"),
    (SweepJob, "data.folder"),
    (SweepJob, "model.name"),
    (SweepJob, "watch.mlflow"),
    (SweepJob, "resources.address"),
    (PromptJob, "prompt.endpoint"),
    (PromptJob, "prompt.model"),
]
SECRETS = [
    "s3://AKIA:canary1234@bucket/x",
    "https://canary1234@host/x",
    "https://user:canary1234@host/x",
    "s3://bucket/x?secret_key=canary1234",
    "https://host/x?api_token=canary1234",
]


@pytest.mark.parametrize(("job", "field"), PLACES, ids=str)
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_in_a_setting_is_refused_and_not_repeated(
    job: type[Any], field: str, secret: str
) -> None:
    section, _, name = field.rpartition(".")
    values = {section: {name: secret}} if section else {name: secret}
    with pytest.raises(InputError) as refusal:
        decode(job, values, "flag")
    assert "canary1234" not in str(refusal.value)
    assert field.partition(".")[0] in str(refusal.value)


@pytest.mark.parametrize(
    "place",
    [
        "gs://anonymous@bucket/x",
        "abfss://container@account.dfs.core.windows.net/x",
        "s3://bucket/a@b:c",
        "s3://bucket/x?region=eu-central-1&scheme=http",
        "me@home:x/y",
        "http://host:5000",
    ],
)
def test_places_without_a_secret_are_taken(place: str) -> None:
    assert decode(SweepJob, {"storage": place}, "flag").storage == place


KEY = "canary-key-0123456789abcdef"
PROMPT = """
import os, sys
sys.argv = ["jobs/prompt.py", *sys.argv[1:]]
sys.path.insert(0, {root!r})
from adapt_ray import cli
from adapt_ray.config import PromptJob
from jobs.prompt import prompt
raise SystemExit(cli.main(PromptJob, prompt))
"""


@pytest.mark.slow
def test_a_key_stays_in_its_variable(chat_server: Callable[..., Any], tmp_path: Path) -> None:
    """Whatever the server does with the key, no file and no output of the job holds it."""
    for faults in ({}, {"1": "echo", "3": "limited"}):
        server = chat_server(key=KEY if faults else "another-key-0123456789", faults=faults)
        done = subprocess.run(
            [
                *(sys.executable, "-c", PROMPT.format(root=str(ROOT))),
                f"--storage={tmp_path / 'runs'}",
                f"--prompt.endpoint={server.url}",
                *("--prompt.model=tiny", "--prompt.limit=2", "--prompt.shots=[0]"),
                *("--prompt.temperatures=[0]", "--prompt.max_new_tokens=2"),
                "--prompt.api_key_env=CANARY_KEY",
            ],
            env={**os.environ, "CANARY_KEY": KEY},
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert KEY.encode() not in done.stdout + done.stderr
        assert done.returncode in (0, 1)
    assert holding(tmp_path, KEY) == []


def holding(folder: Path, text: str) -> list[Path]:
    """Return the files below a folder that hold a text, as bytes or in UTF-16."""
    wanted = (text.encode(), text.encode("utf-16-le"))
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and any(w in path.read_bytes() for w in wanted)
    ]


# ---------------------------------------------------------------------------------------------
# A local Ray

LOCAL = """
import json, os, sys
from pathlib import Path
import psutil, ray
from adapt_ray.config import ResourcesConfig
from adapt_ray.distributed.session import Session

with Session(ResourcesConfig()) as session:
    session.start()

    @ray.remote
    def work():
        return 1

    ray.get([work.remote() for _ in range(3)])
    us = psutil.Process()
    found = [
        connection.laddr.ip
        for process in (us, *us.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    print(json.dumps(found))
"""


@pytest.mark.ray
def test_a_local_ray_listens_on_loopback_and_writes_no_key(tmp_path: Path) -> None:
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(
        dir="/tmp", prefix="ray-", ignore_cleanup_errors=True
    ) as place:
        folder = Path(place)
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        environment |= {"RAY_TMPDIR": str(folder), "CANARY_KEY": KEY, "WANDB_API_KEY": KEY}
        done = subprocess.run(
            [sys.executable, "-c", LOCAL],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        assert len(found) > 5
        assert {ip.removeprefix("::ffff:") for ip in found} <= {"127.0.0.1", "::1"}
        assert any(folder.iterdir())
        assert holding(folder, KEY) == []
