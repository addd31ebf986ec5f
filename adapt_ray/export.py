"""A trained model as a folder: safetensors weights, task tokenizer, and nothing that runs code."""

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from adapt_ray.adaptation import attach, low_rank
from adapt_ray.artifacts import digest_file, digest_json, replace_folder
from adapt_ray.config import Config, ModelConfig, decode
from adapt_ray.data.batches import evaluation_batches
from adapt_ray.errors import InputError
from adapt_ray.modeling import Batch, SplitEmbedding, Structure, TaskClassifier, load_options
from adapt_ray.tokenization.encoding import EncodedTexts
from adapt_ray.tokenization.task_tokenizer import BASE_FOLDER, TaskTokenizer

WEIGHTS = "model.safetensors"
SETTINGS = "adapt_ray.json"
BACKBONE_FOLDER = "backbone"
CARD = "README.md"
FORMAT = 1
TOKEN_BUDGET = 8192  # padded tokens of a batch
# What transformers raises of files whose content is not what it expects.
_MALFORMED = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Prediction:
    """Predictions for n texts."""

    labels: tuple[str, ...]  # [n]
    probabilities: npt.NDArray[np.float32]  # [n, n_classes]


class Classifier:
    """An exported model, ready for inference."""

    def __init__(
        self, model: TaskClassifier, tokenizer: TaskTokenizer, label_names: tuple[str, ...]
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.label_names = label_names

    def logits(
        self, texts: Sequence[str], token_budget: int = TOKEN_BUDGET
    ) -> npt.NDArray[np.float32]:
        """Return logits [n, n_classes], in the order of the texts.

        ``token_budget`` bounds the padded tokens of a batch: speed and memory, not the result.
        """
        encoded = self.tokenizer.encode_texts(texts)
        found = np.empty((len(texts), len(self.label_names)), dtype=np.float32)
        for rows in evaluation_batches(encoded.lengths, token_budget):
            found[rows] = self.batch_logits(encoded, rows)
        return found

    def batch_logits(
        self, encoded: EncodedTexts, rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Return logits [n_rows, n_classes] of some encoded texts, computed as one batch."""
        batch = Batch.of(encoded, rows, self.tokenizer.pad_id, self.model.head.weight.device)
        with torch.no_grad():
            found: npt.NDArray[np.float32] = self.model(**batch.inputs()).float().cpu().numpy()
        return found

    def predict(self, texts: Sequence[str], token_budget: int = TOKEN_BUDGET) -> Prediction:
        """Return the most probable label of each text, and all probabilities."""
        probabilities = torch.from_numpy(self.logits(texts, token_budget)).softmax(-1).numpy()
        labels = tuple(self.label_names[index] for index in probabilities.argmax(1))
        return Prediction(labels, probabilities)


class Settings(Config):
    """What ``adapt_ray.json`` says of an exported model."""

    format: Literal[1] = Field(description="version of this layout")
    model: ModelConfig = Field(description="the pretrained model and what was put on top of it")
    label_names: tuple[str, ...] = Field(min_length=2, description="classes, by their number")
    added: Structure | None = Field(None, description="what the method added to the model")
    training: dict[str, Any] = Field(description="the run's record, for people to read")
    # Exports of earlier versions have none.
    files: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] | None = Field(
        None, description="SHA-256 of every file that decides what the model computes"
    )

    @property
    def digest(self) -> str:
        """Content digest of a model whose files are listed, 20 hex digits."""
        return digest_json([list(self.label_names), self.model.key(), self.files])[:20]


def export(
    folder: Path,
    model: TaskClassifier,
    weights: dict[str, Tensor],
    tokenizer: TaskTokenizer,
    config: ModelConfig,
    label_names: Sequence[str],
    training: dict[str, Any],
    card: str | None = None,
) -> None:
    """Write a model into ``folder``, whole or not at all; what stood there is replaced.

    ``weights`` are the engine's consolidated ones; ``training`` and the model ``card`` (Markdown)
    are kept for people to read.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    scratch.mkdir()  # with the rights that a new folder has here: others may be meant to read it
    try:
        save_file({name: value.contiguous() for name, value in weights.items()}, scratch / WEIGHTS)
        model.backbone.config.save_pretrained(scratch / BACKBONE_FOLDER)  # type: ignore[union-attr,operator]
        tokenizer.save_pretrained(scratch)
        settings = {
            "format": FORMAT,
            "model": config.model_dump(mode="json"),
            "label_names": list(label_names),
            "added": asdict(model.added) if model.added else None,
            "training": training,
            "files": _digests(scratch),
        }
        (scratch / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")
        if card is not None:
            (scratch / CARD).write_text(card, encoding="utf-8")
        replace_folder(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load(folder: str | Path, device: str = "cpu") -> Classifier:
    """Open an exported folder for inference; nothing in it can run code.

    Raises InputError when the folder is not an export, or is damaged.
    """
    folder = Path(folder)
    settings = checked(folder)
    tokenizer = _tokenizer(folder)
    backbone = _backbone(folder)
    table = backbone.get_input_embeddings()  # type: ignore[operator]
    rows = torch.zeros(len(tokenizer.tokens.sequences), table.embedding_dim)
    backbone.set_input_embeddings(SplitEmbedding(table, rows))  # type: ignore[operator]
    names = settings.label_names
    model = TaskClassifier(backbone, settings.model, len(names), len(tokenizer.openings))
    _fill(model, settings.added, folder / WEIGHTS)
    low_rank.merge(model)
    return Classifier(model.to(device), tokenizer, names)


def checked(folder: Path) -> Settings:
    """Return an export's settings once every file in it is as it was written.

    Raises InputError when the folder is not an export, or naming the file that is missing or
    changed. An export of an earlier version lists no digests; they are then taken as they are now.
    """
    settings = read_settings(folder)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"model folder {str(folder)!r} holds no weights; expected {WEIGHTS}")
    if settings.files is None:
        return settings.model_copy(update={"files": _digests(folder)})
    for name, expected in settings.files.items():
        path = folder / inside(name, str(folder / SETTINGS))
        if not path.is_file():
            raise InputError(f"exported model {str(folder)!r} is damaged: {name} is missing")
        if digest_file(path) != expected:
            raise InputError(
                f"exported model {str(folder)!r} is damaged: {name} changed after it was written; "
                "export it again"
            )
    return settings


def read_settings(folder: Path) -> Settings:
    """Return what an exported folder says of itself; no other file is opened.

    Raises InputError when it is not an export, or its settings are damaged.
    """
    path = folder / SETTINGS
    if not folder.is_dir():
        raise InputError(f"there is no exported model: no folder {str(folder)!r}")
    if not path.is_file():
        raise InputError(f"{str(folder)!r} is not an exported model: it holds no {SETTINGS}")
    return parse_settings(path.read_bytes(), str(path))


def parse_settings(content: bytes, origin: str) -> Settings:
    """Decode the bytes of ``adapt_ray.json``. Raises InputError naming what is wrong with them."""
    try:
        values = json.loads(content)
    except ValueError as error:
        raise InputError(f"{origin} is damaged: {_one_line(error)}") from None
    if not isinstance(values, dict):
        raise InputError(f"{origin} is damaged: it holds a {type(values).__name__}, not settings")
    if values.get("format") != FORMAT:
        raise InputError(
            f"{origin} has format {values.get('format')!r}; this version reads format {FORMAT}"
        )
    return decode(Settings, values, origin)


def inside(name: str, origin: str) -> str:
    """Return a file's name unless it would leave the model's folder, which raises InputError."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise InputError(f"{origin}: file name {name!r} leaves the model's folder")
    return name


def _digests(folder: Path) -> dict[str, str]:
    """Return the digests of the files that decide what an export computes."""
    loaded = [folder / WEIGHTS, *folder.glob("*token*.json")]
    loaded += [*(folder / BACKBONE_FOLDER).rglob("*"), *(folder / BASE_FOLDER).rglob("*")]
    files = sorted(path for path in loaded if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in files}


def _tokenizer(folder: Path) -> TaskTokenizer:
    base = folder / BASE_FOLDER
    for path in sorted(base.glob("*.json")):
        # Hugging Face would open the file that such a field names, wherever it lies.
        for name, value in _json(path).items():
            if name.endswith("_file") and isinstance(value, str):
                raise InputError(f"{str(path)!r} names another file, {name} {value!r}; remove it")
    try:
        return TaskTokenizer.from_pretrained(folder)
    except InputError:
        raise
    except Exception as error:
        # Of a file whose content makes no tokenizer, tokenizers says so with Exception itself.
        if type(error) is not Exception and not isinstance(error, _MALFORMED):
            raise
        raise InputError(f"tokenizer {str(base)!r} is damaged: {_one_line(error)}") from None


def _backbone(folder: Path) -> nn.Module:
    path = folder / BACKBONE_FOLDER / "config.json"
    if not path.is_file():  # the folder's name would be looked up on the hub
        raise InputError(f"exported model {str(folder)!r} is damaged: no {BACKBONE_FOLDER} in it")
    _json(path)
    try:
        pretrained = AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
        backbone: nn.Module = AutoModel.from_config(
            pretrained, trust_remote_code=False, **load_options(pretrained)
        )
    except InputError:
        raise
    except (*_MALFORMED, RuntimeError, StrictDataclassError) as error:
        raise InputError(f"{str(path)!r} describes no model: {_one_line(error)}") from None
    return backbone


def _fill(model: TaskClassifier, added: Structure | None, path: Path) -> None:
    """Add what a method added, and put the weights in."""
    try:
        if added:
            attach(model, added, seed=0)
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise InputError(
            f"weights {str(path)!r} are damaged, or of another model: {_one_line(error)}"
        ) from None


def _json(path: Path) -> Mapping[str, Any]:
    """Return a JSON object; what is cut off or another value raises InputError."""
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{str(path)!r} is damaged: {_one_line(error)}") from None
    if not isinstance(values, dict):
        raise InputError(f"{str(path)!r} is damaged: it holds a {type(values).__name__}")
    return values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
