"""Asking a causal language model that runs here, in batches that leave replies as they are.

Prompts are padded on the left, so that every reply begins at the end of its prompt; positions and
attention leave the padding out. Sampling adds Gumbel noise to the logits and takes the largest sum,
which draws exactly from the softmax: the noise of a prompt comes from a generator of its own, so
what a batch holds besides does not matter but for rounding.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from adapt_ray.errors import InputError
from adapt_ray.modeling import check_weights
from adapt_ray.pretrained import open_tokenizer, read_json, resolve_model
from adapt_ray.prompting.replies import Reply, Request
from adapt_ray.prompting.template import Message, as_json, plain

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def check_local_model(name: str, longest: Sequence[Request]) -> None:
    """Check that a model is causal and has room for the longest prompts, without its weights.

    Raises InputError when the folder or hub id is unusable, holds another kind of model, or a
    prompt with its reply is longer than the model has positions for.
    """
    folder = resolve_model(name, "prompt.model")
    config = read_json(folder / "config.json")
    kinds = config.get("architectures") or ["no architecture"]
    if not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        raise InputError(
            f"prompt.model {name!r} is a {kinds[0]}, not a causal language model (...ForCausalLM)"
        )
    check_weights(folder, AutoModelForCausalLM, {})
    positions = config.get("max_position_embeddings")
    if positions is None:
        return
    prompts = Prompts(folder)
    for request in longest:
        tokens = len(prompts.encode([request.messages])[0])
        if tokens + request.max_new_tokens > positions:
            raise InputError(
                f"prompt.model {name!r} has positions for {positions} tokens; a prompt with "
                f"{request.shots} examples takes {tokens} and its reply {request.max_new_tokens}: "
                "lower prompt.text_characters or prompt.shots"
            )


class Prompts:
    """Messages as a model's tokenizer writes them."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = open_tokenizer(folder, padding_side="left")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def encode(self, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Return token ids, by the chat template where there is one, else as plain text."""
        if self.tokenizer.chat_template is None:
            texts = [plain(messages) for messages in prompts]
            return list(self.tokenizer(texts)["input_ids"])
        texts = [
            self.tokenizer.apply_chat_template(
                as_json(messages), tokenize=False, add_generation_prompt=True
            )
            for messages in prompts
        ]
        # The template writes the special tokens itself.
        return list(self.tokenizer(texts, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a reply without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


class LocalModel:
    """A causal model in memory, with its tokenizer."""

    def __init__(self, name: str, precision: str) -> None:
        """Load from safetensors; no code that a model brings along is run."""
        folder = resolve_model(name, "prompt.model")
        self._name = name
        self._prompts = Prompts(folder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = _loaded(folder, precision).to(self._device).eval()
        stops = self._model.generation_config.eos_token_id
        own = self._prompts.tokenizer.eos_token_id
        stops = stops if isinstance(stops, list) else [stops]
        self._stops = sorted({stop for stop in [*stops, own] if stop is not None})
        # What a model's authors set for sampling gives way to the job's temperature.
        self._model.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=self._stops or None,
            pad_token_id=self._prompts.tokenizer.pad_token_id,
        )

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests of one longest reply in one batch, in order."""
        asked_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        started = time.perf_counter()
        encoded = self._prompts.encode([request.messages for request in requests])
        inputs = self._prompts.tokenizer.pad({"input_ids": encoded}, return_tensors="pt")
        width = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            found: Tensor = self._model.generate(
                input_ids=inputs["input_ids"].to(self._device),
                attention_mask=inputs["attention_mask"].to(self._device),
                max_new_tokens=requests[0].max_new_tokens,
                logits_processor=LogitsProcessorList([_Sampling(requests)]),
            )
        seconds = (time.perf_counter() - started) / len(requests)
        return [
            self._reply(request, len(ids), row[width:].tolist(), asked_at, seconds)
            for request, ids, row in zip(requests, encoded, found, strict=True)
        ]

    def _reply(
        self, request: Request, asked: int, ids: list[int], asked_at: str, seconds: float
    ) -> Reply:
        ends = [place for place, token in enumerate(ids) if token in self._stops]
        said = ids[: ends[0]] if ends else ids
        return Reply(
            key=request.key,
            text=self._prompts.decode(said),
            finish_reason="stop" if ends else "length",
            refused=None,
            prompt_tokens=asked,
            completion_tokens=len(said) + bool(ends),
            seconds=seconds,
            asked_at=asked_at,
            model=self._name,
            row_id=request.row_id,
            shots=request.shots,
            temperature=request.temperature,
            seed=request.seed,
        )


def _loaded(folder: Path, precision: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=False, use_safetensors=True, dtype=_DTYPES[precision]
    )


@dataclass
class _Sampling(LogitsProcessor):
    """Adds a prompt's own Gumbel noise to its logits, scaled by the temperature."""

    requests: Sequence[Request]

    def __post_init__(self) -> None:
        self._generators = [
            torch.Generator().manual_seed(int(request.key[:15], 16)) for request in self.requests
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return logits [rows, vocabulary] plus temperature times noise."""
        noise = torch.zeros(scores.shape)
        for row, (request, generator) in enumerate(
            zip(self.requests, self._generators, strict=True)
        ):
            if request.temperature:
                noise[row].exponential_(generator=generator).log_().mul_(-request.temperature)
        return scores.float() + noise.to(scores.device)
