"""What a request may hold."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt_ray.prediction.requests import Limits, RefusedError, parse_texts

LIMITS = Limits(texts=3, characters=10, bytes=200)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 422, "no JSON"),
        (b"\xff\xfe", 422, "no JSON"),
        (b"[" * 150, 422, "no JSON"),
        (b"[]", 422, "expected one field"),
        (b'{"text": "a"}', 422, "expected one field"),
        (b'{"texts": ["a"], "model": "b"}', 422, "expected one field"),
        (b'{"texts": "a"}', 422, "must be a list"),
        (b'{"texts": []}', 422, "must be a list"),
        (b'{"texts": ["a", 1]}', 422, r"texts\[1\] must be a string"),
        (b'{"texts": [null]}', 422, r"texts\[0\] must be a string"),
        (b'{"texts": [" \\n"]}', 422, r"texts\[0\] must be a string that is not blank"),
        (b'{"texts": ["\\ud800"]}', 422, r"texts\[0\] holds half a surrogate"),
        (b'{"texts": ["a", "a", "a", "a"]}', 413, "4 texts; a request may hold 3"),
        (b'{"texts": ["12345678901"]}', 413, "11 characters; a text may have 10"),
        (b" " * 201, 413, "more than 200 bytes"),
    ],
)
def test_what_is_refused(body: bytes, status: int, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as refused:
        parse_texts(body, LIMITS)
    assert refused.value.status == status
    assert "\n" not in refused.value.reason


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["texts", "x"]), inner),
    )
)
def test_any_json_is_taken_or_refused(content: object) -> None:
    try:
        texts = parse_texts(json.dumps(content).encode(), LIMITS)
    except RefusedError:
        return
    assert content == {"texts": texts}


@given(st.binary(max_size=50))
def test_any_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(RefusedError):
        parse_texts(body, LIMITS)
