"""Export to ONNX: every head, family and addition, run by ONNX Runtime, against torch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import adapt_ray
from adapt_ray import onnx_export
from adapt_ray.adaptation import attach
from adapt_ray.config import ModelConfig
from adapt_ray.errors import InputError
from adapt_ray.export import export
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.modeling import Structure, build_classifier
from adapt_ray.onnx_export import FILE, TOLERANCE, OnnxModel, export_onnx
from adapt_ray.tokenization.task_tokenizer import TaskTokenizer
from tests.test_families import TOKENS, family_folder  # noqa: F401  a fixture

# "great joy", "no sense"
SEQUENCES = ((2307, 6569), (2053, 3168))
TEXTS = ["a [[ great joy ]] to see", "it makes no sense at all, none, and it bored us", "x"]


def exported(
    folder: Path,
    name: str,
    tokens: TokenSet | None,
    structure: Structure | None = None,
    markers: tuple[str, ...] = (),
    **options: Any,
) -> Path:
    """Export an untrained model whose every weight has moved, so that nothing adds up to zero."""
    config = ModelConfig(name=name, max_tokens=options.pop("max_tokens", 48), **options)
    tokenizer = TaskTokenizer.pretrained(config, tokens, markers)
    sequences = tokens.sequences if tokens else ()
    openings = len(tokenizer.openings)
    model = build_classifier(config, 3, openings, sequences, new_rows_init="mean", seed=0)
    if structure is not None:
        attach(model, structure, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    card = "# A card\n\nIts text.\n"
    export(folder, model, model.state_dict(), tokenizer, config, ("a", "b", "c"), {}, card)
    return folder


def task_tokens() -> TokenSet:
    return TokenSet(SEQUENCES, base_vocabulary=30522, max_gap=1, max_span=None)


def check(folder: Path) -> None:
    """Export, and compare with the classifier on texts that the export did not see."""
    found = export_onnx(folder, ["another one"])
    assert found.difference <= TOLERANCE
    assert found.shortest < 10 < found.longest
    classifier = adapt_ray.load(folder)
    model = OnnxModel(folder / FILE, classifier)
    expected = classifier.logits(TEXTS)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(model.logits(TEXTS), expected, atol=TOLERANCE)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(model.logits([text])[0], expected[row], atol=TOLERANCE)


@pytest.mark.parametrize("positions", ["shifted", "shared"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "markers", "last"])
def test_every_head(tiny_model: str, tmp_path: Path, pooling: str, positions: str) -> None:
    markers = ("[[", "]]") if pooling == "markers" else ()
    options: dict[str, Any] = {"pooling": pooling, "positions": positions}
    folder = exported(tmp_path / "m", tiny_model, task_tokens(), None, markers, **options)
    check(folder)
    graph = onnx.load(folder / FILE, load_external_data=False)
    named = {"position_ids"} if positions == "shared" else set()
    named |= {"markers"} if pooling == "markers" else set()
    assert {i.name for i in graph.graph.input} == {"input_ids", "attention_mask"} | named
    assert [o.version for o in graph.opset_import if o.domain == ""] == [onnx_export.OPSET]


@pytest.mark.parametrize(
    "structure",
    [
        Structure("lora", 2, 2.0),
        Structure("adalora", 2, 2.0),
        Structure("houlsby", 4),
        Structure("prompt_tuning", 3),
        Structure("prefix_tuning", 3),
    ],
    ids=lambda structure: str(structure.kind),
)
def test_every_addition(tiny_model: str, tmp_path: Path, structure: Structure) -> None:
    check(exported(tmp_path / "m", tiny_model, task_tokens(), structure))


def test_every_family(family_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = exported(tmp_path / "m", str(family_folder), TOKENS, pooling="last", max_tokens=32)
    check(folder)


def test_the_folder_says_what_was_checked_and_holds_nothing_of_this_machine(
    tiny_model: str, tmp_path: Path
) -> None:
    folder = exported(tmp_path / "m", tiny_model, None)
    before = {path.name for path in folder.iterdir()}
    first, again = export_onnx(folder), export_onnx(folder)
    assert first == again
    assert {path.name for path in folder.iterdir()} == before | {FILE}
    card = (folder / "README.md").read_text()
    assert card.startswith("# A card\n\nIts text.\n")
    assert card.count("## ONNX") == 1
    assert f"{first.difference:.1e}" in card
    content = (folder / FILE).read_bytes()
    assert b"site-packages" not in content
    assert str(tmp_path).encode() not in content
    adapt_ray.load(folder)  # still whole


def test_the_command(tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = exported(tmp_path / "m", tiny_model, None)
    assert onnx_export.main([str(folder)]) == 0
    assert "difference" in capsys.readouterr().out
    assert (folder / FILE).is_file()
    assert onnx_export.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert onnx_export.main(["--help"]) == 0
    assert onnx_export.main([]) == 2
    assert onnx_export.main([str(folder), "more"]) == 2


def test_a_graph_that_differs_is_not_kept(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported(tmp_path / "m", tiny_model, None)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(InputError, match="differ from torch's by .* nothing was written"):
        export_onnx(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_a_model_that_is_too_large_is_refused(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported(tmp_path / "m", tiny_model, None)
    monkeypatch.setattr(onnx_export, "_MOST_BYTES", 1000)
    with pytest.raises(InputError, match="GB of weights"):
        export_onnx(folder)
    assert not (folder / FILE).exists()


def test_a_missing_package_and_a_folder_that_is_no_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no folder"):
        export_onnx(tmp_path / "nowhere")
    monkeypatch.setattr(onnx_export, "_NEEDED", ("no_such_package",))
    with pytest.raises(InputError, match=r"no_such_package.*adapt_ray\[onnx\]"):
        export_onnx(tmp_path)
