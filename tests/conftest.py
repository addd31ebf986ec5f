"""Fixtures that several test folders use."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Nothing may reach for a hub, and one thread a process is enough for tiny models.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tiny
from adapt_ray.artifacts import ArtifactStore, Stage
from adapt_ray.config import (
    AdaloraConfig,
    AdaptConfig,
    BitfitConfig,
    EmbeddingOnlyConfig,
    EncoderOnlyConfig,
    FullConfig,
    FullStableConfig,
    HoulsbyConfig,
    LayerSelectionConfig,
    LoraConfig,
    MethodConfig,
    ModelConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    TrainingConfig,
)
from adapt_ray.contenders import resolved
from adapt_ray.data.corpus import Corpus, Split
from adapt_ray.data.strings import Strings
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.modeling import load_options, module_infos, unloaded
from adapt_ray.selection import Selection, top_layers
from adapt_ray.training.run import RunPlan


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real corpora and golden files that may lie beside the project."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder 'shared' beside the project")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder with a random two-layer BERT and the real bert-base-uncased tokenizer."""
    return tiny.save_model(tmp_path_factory.mktemp("tiny") / "tiny-bert")


FAMILY_SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GROUPED_QUERIES = {"num_key_value_heads": 2}
FAMILY_DIFFERENCES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"pad_token_id": 1},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2, "sep_token_id": 2},
    "gemma2": {**GROUPED_QUERIES, "head_dim": 12, "sliding_window": 8},
    "phi3": GROUPED_QUERIES,
}


@pytest.fixture(scope="session", params=list(FAMILY_DIFFERENCES))
def family_sizes(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Return the name of a family, and the settings of a tiny model."""
    return request.param, {**FAMILY_SIZES, **FAMILY_DIFFERENCES[request.param]}


@pytest.fixture(scope="session", params=list(FAMILY_DIFFERENCES))
def family_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder with a random two-layer model of a family; it has no tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel

    settings = {**FAMILY_SIZES, **FAMILY_DIFFERENCES[request.param]}
    config = AutoConfig.for_model(request.param, **settings)
    torch.manual_seed(0)
    backbone = AutoModel.from_config(config, **load_options(config))
    with torch.no_grad():  # scales start as 1 and biases as 0, which would hide mistakes
        for parameter in backbone.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("family") / str(request.param)
    backbone.save_pretrained(folder)
    return str(folder)


WORDS = {
    0: "the film was a great joy and we loved it",
    1: "the plot made no sense and it bored us to tears",
}


def small_split(rows: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    texts = []
    for label in labels:
        words = WORDS[int(label)].split()
        texts.append(" ".join(rng.choice(words, size=rng.integers(4, 12))))
    ids = np.arange(rows) + 1000 * seed
    return Split(Strings.of(texts), labels.astype(np.int64), ids, ids)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="session")
def plan_for(store: ArtifactStore, tiny_model: str) -> Callable[..., RunPlan]:
    corpus = Corpus(
        "small",
        ("good", "bad"),
        (),
        {"train": small_split(40, 1), "dev": small_split(16, 2), "test": small_split(16, 3)},
    )
    corpus_manifest = store.publish(
        Stage("corpus", 1, {}, {"content": "small"}), corpus, {"name": "small", "markers": []}
    )
    # "great joy", "no sense", "we loved it"
    sequences = ((2307, 6569), (2053, 3168), (2057, 3866, 2009))
    tokens = TokenSet(sequences=sequences, base_vocabulary=30522, max_gap=1, max_span=None)
    tokens_manifest = store.publish(Stage("tokens", 1, {}, {"patterns": "x"}), tokens, {})
    modules = ("encoder.layer.0.attention.self.value", "encoder.layer.1.output.dense",
               "encoder.layer.1.output.LayerNorm")  # fmt: skip

    def make(method: MethodConfig | None = None, **training: Any) -> RunPlan:
        method = method or AdaptConfig()
        test = training.pop("test", False)
        dropout = training.pop("dropout", True)
        chosen = training.pop("modules", modules)
        settings = {"epochs": 2, "batch_size": 8, "precision": "fp32", "learning_rate": 1e-3}
        selection = None
        if isinstance(method, AdaptConfig):
            sizes = selection_sizes(tiny_model)
            parameters = sum(sizes[name] for name in chosen)
            selection = Selection(chosen, parameters, parameters / capacity_of(tiny_model))
        elif isinstance(method, LayerSelectionConfig) and method.choose == "top":
            selection = top_layers(method, *unloaded(ModelConfig(name=tiny_model)))
        return RunPlan(
            storage=store.root,
            phase="finetune",
            contender=method.type,
            corpus=corpus_manifest,
            tokens=tokens_manifest if method.task_tokens else None,
            selection=selection,
            model=ModelConfig(
                name=tiny_model,
                max_tokens=64,
                dropout=None if dropout else 0.0,
                head_dropout=0.1 if dropout else 0.0,
            ),
            method=method,
            training=resolved(method, TrainingConfig(**{**settings, **training})),
            test=test,
        )

    return make


def selection_sizes(model: str) -> dict[str, int]:
    from transformers import AutoModel

    return {info.name: info.parameters for info in module_infos(AutoModel.from_pretrained(model))}


def capacity_of(model: str) -> int:
    return unloaded(ModelConfig(name=model))[1]


# Cheap ones: small sizes, since two layers beside a vocabulary of real size are a small share.
VARIANTS: list[MethodConfig] = [
    FullConfig(),
    FullStableConfig(epochs=2, learning_rate=1e-3),
    AdaptConfig(),
    LayerSelectionConfig(sparsity=0.5, of="encoder"),
    LayerSelectionConfig(choose="lisa", sparsity=0.5, of="encoder", interval=2),
    LoraConfig(sparsity=0.2, of="encoder"),
    AdaloraConfig(sparsity=0.2, of="encoder"),
    HoulsbyConfig(sparsity=0.2, of="encoder"),
    PromptTuningConfig(),
    PrefixTuningConfig(),
    BitfitConfig(),
    EmbeddingOnlyConfig(),
    EncoderOnlyConfig(),
]
UPPER = ("encoder.layer.1.attention.output.dense", "encoder.layer.1.output.LayerNorm")
DEPTH_AWARE = AdaptConfig(fill="depth_aware", new_rows="frozen")
# Methods, and what of the training differs for them.
METHODS: list[tuple[MethodConfig, dict[str, Any]]] = [
    *((m.model_copy(update={"task_tokens": on}), {}) for m in VARIANTS for on in (False, True)),
    (AdaptConfig(new_rows="frozen"), {}),
    (AdaptConfig(new_rows_init="random"), {}),
    (DEPTH_AWARE, {"modules": UPPER}),
    (DEPTH_AWARE, {"modules": UPPER, "trunk_cache": "fp32"}),
    (LayerSelectionConfig(sparsity=0.5, of="encoder"), {"trunk_cache": "fp32"}),
]


def name_of(case: tuple[MethodConfig, dict[str, Any]]) -> str:
    """Return what a method's settings differ in from the defaults."""
    method, training = case
    found = method.model_dump(exclude_defaults=True) | {"task_tokens": method.task_tokens}
    settings = (f"{name}={value}" for name, value in found.items())
    return "-".join([method.type, *settings, *training])


@pytest.fixture(params=METHODS, ids=name_of)
def plan_of(request: pytest.FixtureRequest, plan_for: Callable[..., RunPlan]) -> "partial[RunPlan]":
    """Return what makes a plan of one method, given what of the training differs."""
    method: MethodConfig
    training: dict[str, Any]
    method, training = request.param
    return partial(plan_for, method, **training)


CAUSAL_WORDS = (
    *("[PAD]", "[UNK]", "</s>", "billing", "delivery", "product", "Text", "Label", "user"),
    *("the", "a", "order", "paper", "money", "back", "box", "late", "driver", "screen", "price"),
)
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def save_tiny_causal(folder: Path, family: str, *, chat: bool = True) -> str:
    """Save a random causal model of a family that mostly answers with the demo's class names."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(CAUSAL_WORDS)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", eos_token="</s>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    tokenizer.save_pretrained(folder)
    settings = {
        **FAMILY_SIZES,
        **FAMILY_DIFFERENCES.get(family, GROUPED_QUERIES),
        "vocab_size": len(CAUSAL_WORDS),
        "max_position_embeddings": 4096,
        "eos_token_id": 2,
        "bos_token_id": None,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        model.get_output_embeddings().weight[[0, 1, *range(6, len(CAUSAL_WORDS))]] *= 0.1
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_causal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder with a random two-layer Llama and a tokenizer of a few words."""
    return save_tiny_causal(tmp_path_factory.mktemp("causal") / "tiny-llama", "llama")


@dataclass(frozen=True)
class ChatServer:
    """The running server of tests/prompting/server.py."""

    host: str
    log: Path

    @property
    def url(self) -> str:
        """What jobs take as the endpoint."""
        return f"{self.host}/v1"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What it was asked since it was last set up: prompt (a hash), body."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="session")
def chat_process(
    tiny_causal: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ChatServer]:
    """Run an OpenAI-compatible server of the tiny model, a process of its own."""
    script = Path(__file__).parent / "prompting" / "server.py"
    log = tmp_path_factory.mktemp("server") / "log.jsonl"
    command = [sys.executable, str(script), f"--model={tiny_causal}", f"--log={log}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield ChatServer(f"http://127.0.0.1:{int(process.stdout.readline())}", log)
        process.kill()


@pytest.fixture
def chat_server(chat_process: ChatServer) -> Callable[..., ChatServer]:
    """Set the server up for a test: key, delay, faults."""

    def start(**settings: Any) -> ChatServer:
        body = json.dumps(settings).encode()
        urllib.request.urlopen(urllib.request.Request(f"{chat_process.host}/control", body)).close()
        return chat_process

    return start


@pytest.fixture(scope="session")
def save_causal() -> Callable[..., str]:
    """Return what saves tiny causal models of other families."""
    return save_tiny_causal
