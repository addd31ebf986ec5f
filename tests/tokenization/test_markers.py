"""Marker tokens against a comparison of all character spans."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapt_ray.tokenization.markers import Markers

MARKERS = ("[[", "]]", "<e>", "</e>", "日本")
pieces = st.sampled_from([*MARKERS, "[", "]", " ", "a", "language", "é", "👩", "\u0301", "\u200b"])


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.lists(pieces, max_size=10).map("".join), max_size=4))
def test_tokens_that_share_a_character_with_a_marker(base: Any, texts: list[str]) -> None:
    encodings = base.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    wanted = []
    for number, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
        at = 0
        while at < len(text):
            starting = [m for m in MARKERS if text.startswith(m, at)]
            if not starting:
                at += 1
                continue
            marker = max(starting, key=len)
            end = at + len(marker)
            spans = enumerate(encoding.offsets)
            touching = [i for i, (first, stop) in spans if first < end and stop > at]
            if touching:
                column = MARKERS.index(marker) // 2 if MARKERS.index(marker) % 2 == 0 else -1
                wanted.append([number, column, touching[0], touching[-1] + 1])
                assert touching == list(range(touching[0], touching[-1] + 1))
            at = end
    assert Markers(MARKERS).find(texts, encodings).tolist() == wanted


def test_without_markers_nothing_is_found() -> None:
    assert not Markers(())
    assert Markers(()).openings == ()
