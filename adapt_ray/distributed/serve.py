"""An exported model behind HTTP, on Ray Serve.

    serve run adapt_ray.distributed.serve:app model=models/demo replicas=2

``POST /`` with ``{"texts": ["...", "..."]}`` gives labels and probabilities, ``GET /`` says what
the model is and what a request may hold, ``GET /health`` whether a replica answers. Requests that
come while others are computed are computed together. Each replica takes ``max_ongoing`` requests,
``max_queued`` more wait, and all others are refused at once with status 503.

Serve listens on 127.0.0.1 and asks for no password: put what does in front of it.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from adapt_ray.config import ServeConfig, absolute_storage, decode
from adapt_ray.export import load
from adapt_ray.prediction.batcher import Batcher
from adapt_ray.prediction.model import local_copy, settings_at
from adapt_ray.prediction.requests import Limits, RefusedError, parse_texts

_CHARACTERS_PER_TOKEN = 4  # of English text, about: how much one batch takes from the queue
_SECONDS_TO_FINISH = 30.0  # that a replica has for the requests it took, when it is to end


def app(arguments: Mapping[str, Any]) -> serve.Application:
    """Build the application; ``arguments`` are the fields of ServeConfig.

    Raises InputError for arguments that are unknown or wrong, and when there is no such model.
    """
    config = decode(ServeConfig, arguments, "argument of the application")
    model = absolute_storage(config.model, "model")
    settings_at(model)  # says what is wrong with it before a replica starts
    deployment = serve.deployment(
        name="classifier",
        num_replicas=config.replicas,
        max_ongoing_requests=config.max_ongoing,
        max_queued_requests=config.max_queued,
        graceful_shutdown_timeout_s=_SECONDS_TO_FINISH,
        ray_actor_options={"num_cpus": config.threads, "num_gpus": config.gpus},
        logging_config={"enable_access_log": False},
    )(_Replica)
    bound: serve.Application = deployment.bind(
        config.model_copy(update={"model": model}).model_dump()
    )
    return bound


class _Replica:
    """One copy of the model: requests on the event loop, tokenizer and model in a thread."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        config = ServeConfig(**values)
        os.environ.setdefault("RAYON_NUM_THREADS", str(config.threads))  # of the tokenizer
        torch.set_num_threads(config.threads)
        folder = local_copy(config.model)
        self._digest = settings_at(str(folder)).digest
        self._classifier = load(folder, "cuda" if config.gpus else "cpu")
        self._budget = config.batch_tokens
        self._limits = Limits(config.max_texts, config.max_characters, config.max_bytes)
        most = _CHARACTERS_PER_TOKEN * config.batch_tokens
        self._batcher = Batcher(self._classify, most)
        self._classify(["The first text compiles what is compiled."])

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        path = request.url.path.removeprefix(request.scope.get("root_path", "")).rstrip("/")
        try:
            if request.method == "POST" and not path:
                return JSONResponse(await self._predict(request))
            if request.method == "GET" and not path:
                return JSONResponse(self._about())
            if request.method == "GET" and path == "/health":
                return JSONResponse({"status": "ok"})
            status = 404 if path not in ("", "/health") else 405
            raise RefusedError(status, "here are POST /, GET / and GET /health")
        except RefusedError as refused:
            return JSONResponse({"error": refused.reason}, refused.status)

    async def _predict(self, request: Request) -> dict[str, Any]:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            self._limits.check_size(len(body))
        texts = parse_texts(bytes(body), self._limits)
        answers = await self._batcher.answer(texts)
        labels, probabilities = zip(*answers, strict=True)
        classes = self._classifier.label_names
        return {"labels": labels, "probabilities": probabilities, "classes": classes}

    def _about(self) -> dict[str, Any]:
        return {
            "model": self._digest,
            "classes": self._classifier.label_names,
            "limits": vars(self._limits),
        }

    def _classify(self, texts: list[str]) -> list[tuple[str, list[float]]]:
        found = self._classifier.predict(texts, self._budget)
        return list(zip(found.labels, found.probabilities.tolist(), strict=True))
