"""What a request to classify texts may hold, and what is said of one that may not."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for."""

    texts: int
    characters: int  # of one text
    bytes: int  # of the request's body

    def check_size(self, size: int) -> None:
        """Raise RefusedError for a body of too many bytes."""
        if size > self.bytes:
            raise RefusedError(413, f"the request holds more than {self.bytes:,} bytes")


class RefusedError(ValueError):
    """A request that is not answered: the HTTP status, and why, in one line."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def parse_texts(body: bytes, limits: Limits) -> list[str]:
    """Return the texts of a JSON body ``{"texts": [...]}``.

    Raises RefusedError: 413 beyond a limit, which it names, and 422 for everything else.
    """
    limits.check_size(len(body))
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(422, 'the request is no JSON; expected {"texts": ["..."]}') from None
    if not isinstance(content, dict) or set(content) != {"texts"}:
        raise RefusedError(422, 'expected one field: {"texts": ["..."]}')
    texts = content["texts"]
    if not isinstance(texts, list) or not texts:
        raise RefusedError(422, "texts must be a list of at least one text")
    if len(texts) > limits.texts:
        raise RefusedError(413, f"{len(texts):,} texts; a request may hold {limits.texts:,}")
    for number, text in enumerate(texts):
        _check_text(number, text, limits)
    return texts


def _check_text(number: int, text: object, limits: Limits) -> None:
    if not isinstance(text, str) or not text.strip():
        raise RefusedError(422, f"texts[{number}] must be a string that is not blank")
    if len(text) > limits.characters:
        raise RefusedError(
            413,
            f"texts[{number}] has {len(text):,} characters; a text may have {limits.characters:,}",
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RefusedError(422, f"texts[{number}] holds half a surrogate pair") from None
