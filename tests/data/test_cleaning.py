from hypothesis import given
from hypothesis import strategies as st

from adapt_ray.data.cleaning import distinct_texts, normalise, text_ids

MARKERS = ("[[", "]]", "<<", ">>")

texts = st.lists(st.text(alphabet="aB[]<> \n", max_size=12), max_size=15)


def test_normalise_removes_markers_and_runs_of_white_space() -> None:
    text = "  The [[ parser ]] beats\n<<rules>> ."
    assert normalise(text, MARKERS) == "The parser beats rules ."
    assert normalise(text) == "The [[ parser ]] beats <<rules>> ."


def test_a_marker_that_begins_another_is_removed_whole() -> None:
    assert normalise("a <e2> b <e> c", ("<e", "<e2>", "<e>")) == "a b c"


def test_distinct_texts_keep_the_order_and_spelling_of_the_first() -> None:
    repeated = ["b c", "A  [[ x ]]", "B C", "a x", "[[ ]]", "d"]
    assert distinct_texts(repeated, MARKERS) == ["b c", "A x", "d"]


@given(texts)
def test_text_ids_agree_with_comparing_every_pair(texts: list[str]) -> None:
    ids = text_ids(texts, MARKERS)
    for i, a in enumerate(texts):
        for j, b in enumerate(texts):
            same = normalise(a, MARKERS).casefold() == normalise(b, MARKERS).casefold()
            assert (ids[i] == ids[j]) == same


@given(texts)
def test_each_distinct_text_has_its_own_id(texts: list[str]) -> None:
    found = distinct_texts(texts, MARKERS)
    filled = [text for text in texts if normalise(text, MARKERS)]
    assert len(found) == len(set(text_ids(filled, MARKERS).tolist()))
    assert len(set(text_ids(found).tolist())) == len(found)
