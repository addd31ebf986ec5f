"""Task tokens and sensitivity-guided sparse finetuning of small language models.

``mine_closed`` needs neither torch nor ray; ``load`` opens an exported model for inference;
``TaskTokenizer`` stands where a Hugging Face tokenizer is expected.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt_ray.export import load
    from adapt_ray.mining.closed import mine_closed
    from adapt_ray.tokenization.task_tokenizer import TaskTokenizer

__all__ = ["TaskTokenizer", "load", "mine_closed"]

_HOME = {
    "TaskTokenizer": "adapt_ray.tokenization.task_tokenizer",
    "load": "adapt_ray.export",
    "mine_closed": "adapt_ray.mining.closed",
}


def __getattr__(name: str) -> Any:
    """Import the public entries on first use, so that importing the package costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'adapt_ray' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
