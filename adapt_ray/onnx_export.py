"""An exported model as ONNX, beside its folder's other files, checked against torch on the spot.

The graph takes what the folder's tokenizer gives (``input_ids``, ``attention_mask``; padded on the
right) in batches of any size and length, and returns logits. Task tokens' rows are part of one
embedding table, low-rank updates are merged, prompts and prefixes are constants.
"""

import logging
import sys
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.fs as pafs
import torch
from torch import Tensor, nn

from adapt_ray import cli
from adapt_ray.artifacts import write_whole
from adapt_ray.errors import InputError, last_line
from adapt_ray.export import CARD, Classifier, load
from adapt_ray.modeling import SplitEmbedding
from adapt_ray.report.card import with_section

FILE = "model.onnx"
OPSET = 20
TOLERANCE = 1e-4  # largest difference of a logit from torch's
_MOST_BYTES = 2 * 10**9  # of weights; beyond it ONNX keeps them in files of their own
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_OUTPUT = "logits"
_USAGE = """usage: python -m adapt_ray onnx FOLDER

Writes model.onnx into the folder of an exported model and checks it against torch."""
_SENTENCES = (
    "The delivery came late.",
    "We loved the film: great actors, a clever plot, and music that stays with you for days.",
    "No.",
    "In this randomised trial, patients who received the drug had 27% fewer relapses than those "
    "who received placebo (p < 0.01), but adverse events were more frequent and follow-up ended "
    "after twelve weeks.",
)


@dataclass(frozen=True)
class OnnxCheck:
    """A graph that agreed with torch, and how closely."""

    path: Path
    opset: int
    inputs: tuple[str, ...]
    texts: int
    shortest: int  # of these texts, in tokens
    longest: int
    difference: float  # largest of a logit


def export_onnx(folder: str | Path, texts: Sequence[str] = ()) -> OnnxCheck:
    """Write ``model.onnx`` into an exported model's folder, and the check into its card.

    ``texts`` are checked beside sentences of our own. Raises InputError where a package is missing,
    the model is too large or cannot be expressed in ONNX, or a logit differs by more than 1e-4;
    no file is left then.
    """
    folder = Path(folder)
    _check_packages()
    classifier = load(folder)
    weights = sum(p.numel() * p.element_size() for p in classifier.model.parameters())
    if weights > _MOST_BYTES:
        raise InputError(
            f"{str(folder)!r} holds {weights / 1e9:.1f} GB of weights; an ONNX file holds at most "
            f"{_MOST_BYTES / 1e9:.0f} GB"
        )
    every = [*_sentences(classifier), *texts]
    expected = classifier.logits(every)  # before the graph's table takes the place of two
    aside = folder / f".{FILE}.{uuid.uuid4().hex[:8]}"
    try:
        aside.write_bytes(_graph(classifier, str(folder)))
        model = OnnxModel(aside, classifier)
        difference = _difference(model, every, expected, str(folder))
        aside.replace(folder / FILE)
    finally:
        aside.unlink(missing_ok=True)
    lengths = classifier.tokenizer.encode_texts(every).lengths
    check = OnnxCheck(
        path=folder / FILE,
        opset=OPSET,
        inputs=model.inputs,
        texts=len(every),
        shortest=int(lengths.min()),
        longest=int(lengths.max()),
        difference=difference,
    )
    _note(folder, check)
    return check


def main(arguments: Sequence[str]) -> int:
    """Run ``python -m adapt_ray onnx FOLDER``; return the exit status, 2 for wrong input."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        asked = list(arguments) in (["-h"], ["--help"])
        print(_USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        check = export_onnx(arguments[0])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(cli.table(vars(check) | {"inputs": ", ".join(check.inputs)}))
    return 0


def _sentences(classifier: Classifier) -> list[str]:
    """Return our sentences, and one that is too long for the model and must be cut."""
    joined = " ".join(_SENTENCES)
    return [*_SENTENCES, " ".join([joined] * (1 + classifier.tokenizer.model_max_length // 50))]


def _difference(
    model: "OnnxModel", texts: list[str], expected: npt.NDArray[np.float32], origin: str
) -> float:
    """Return how far logits are from ``expected`` [n, n_classes], texts alone and together."""
    alone = np.concatenate([model.logits([text]) for text in texts])
    found = np.stack([alone, model.logits(texts)])
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:  # also where it is no number
        raise InputError(
            f"{origin!r} as ONNX gives logits that differ from torch's by {difference:.2g}, more "
            f"than {TOLERANCE:g}; nothing was written"
        )
    return difference


class OnnxModel:
    """An ONNX graph, and the tokenizer that it was exported with."""

    def __init__(self, path: Path, classifier: Classifier) -> None:
        """Open a graph on one thread; only the tokenizer of the classifier is used."""
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._tokenizer = classifier.tokenizer
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = tuple(given.name for given in self._session.get_inputs())

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return logits [n, n_classes] of texts computed as one batch."""
        feeds = _feeds(self._tokenizer, texts)
        found: Any = self._session.run([_OUTPUT], {name: feeds[name] for name in self.inputs})
        return np.asarray(found[0], np.float32)


def _feeds(tokenizer: Any, texts: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Return a batch's inputs, from the tokenizer's public call."""
    encoded = tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        padding_side="right",
        return_attention_mask=True,
        return_tensors="np",
    )
    feeds = {name: np.asarray(values, np.int64) for name, values in encoded.items()}
    return feeds | {"markers": tokenizer.encode_texts(texts).markers.astype(np.int64)}


class _Graph(nn.Module):
    """The classifier as the graph's inputs have it."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        settings = classifier.tokenizer.settings
        self._shared = settings.positions == "shared"
        self._first = settings.first_position
        self._markers = classifier.model.pooling == "markers"
        self.model = classifier.model
        split = classifier.model.embedding
        table = SplitEmbedding(_Table(split), torch.empty(0))
        self.model.backbone.set_input_embeddings(table)  # type: ignore[operator]

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs by name, in the order of :meth:`forward`."""
        optional = {"position_ids": self._shared, "markers": self._markers}
        return ("input_ids", "attention_mask", *(name for name, on in optional.items() if on))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        markers: Tensor | None = None,
    ) -> Tensor:
        """Return logits [B, n_classes] of ids, mask and positions [B, T], and markers [B, M]."""
        if position_ids is None:
            positions = (attention_mask.cumsum(1) - 1) * attention_mask
        else:
            positions = position_ids - self._first
        markers = input_ids[:, :0] if markers is None else markers
        logits: Tensor = self.model(input_ids, attention_mask.bool(), positions, markers)
        return logits


class _Table(nn.Embedding):
    """Base and new rows of an embedding in one table: a graph has no use for two."""

    def __init__(self, split: SplitEmbedding) -> None:
        rows = split.base.weight if split.new is None else torch.cat([split.base.weight, split.new])
        super().__init__(rows.shape[0], rows.shape[1], _weight=rows.detach(), _freeze=True)
        self._scale = split.scale

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * self._scale


def _graph(classifier: Classifier, origin: str) -> bytes:
    """Return the graph's bytes: standard operators only, nothing of this machine in it."""
    graph = _Graph(classifier)
    feeds = _feeds(classifier.tokenizer, _SENTENCES)
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens")
    axes = {name: {0: batch, 1: tokens} for name in graph.names} | {"markers": {0: batch}}
    try:
        with _quietly(), torch.no_grad():
            program: Any = torch.onnx.export(
                graph.eval(),
                kwargs={name: torch.from_numpy(feeds[name]) for name in graph.names},
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.names),
                output_names=[_OUTPUT],
                dynamic_shapes={name: axes[name] for name in graph.names},
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        kind = classifier.model.backbone.config.model_type  # type: ignore[union-attr]
        reason = last_line(error.__cause__ or error)
        raise InputError(f"{origin!r}, a {kind}, cannot be exported to ONNX: {reason}") from None
    return _plain(program.model_proto, origin)


def _plain(proto: Any, origin: str) -> bytes:
    """Return a checked graph without the exporter's notes, which hold paths of this machine."""
    import onnx

    foreign = {node.domain for node in proto.graph.node} - {"", "ai.onnx"}
    if foreign or proto.functions:
        names = ", ".join(sorted(foreign)) or "functions of its own"
        raise InputError(f"{origin!r} needs more than ONNX's standard operators: {names}")
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave out what the exporter says of packages and axis names; errors are raised anyway."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _note(folder: Path, check: OnnxCheck) -> None:
    """Write the check into the model's card, where it has one."""
    card = folder / CARD
    if not card.is_file():
        return
    text = (
        f"## ONNX\n\n`{FILE}`, opset {check.opset}: inputs {', '.join(check.inputs)} as the "
        f"folder's tokenizer gives them, padded on the right; output {_OUTPUT}. On {check.texts} "
        f"texts of {check.shortest} to {check.longest} tokens, alone and in one batch, no logit "
        f"differed from torch's by more than {check.difference:.1e} (allowed: {TOLERANCE:g})."
    )
    changed = with_section(card.read_text(encoding="utf-8"), "onnx", text)
    write_whole(pafs.LocalFileSystem(), str(card), changed.encode())


def _check_packages() -> None:
    for name in _NEEDED:
        try:
            version(name)
        except PackageNotFoundError:
            raise InputError(
                f"ONNX export needs the package {name}, which is not installed; pip install "
                "'adapt_ray[onnx]'"
            ) from None
