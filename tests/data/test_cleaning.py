from hypothesis import given
from hypothesis import strategies as st

from adapt_ray.data.cleaning import first_rows, normaliser, text_ids

MARKERS = ("[[", "]]", "<<", ">>")

texts = st.lists(st.text(alphabet="aB[]<> \n", max_size=12), max_size=15)


def test_normalising_removes_markers_and_runs_of_white_space() -> None:
    text = "  The [[ parser ]] beats\n<<rules>> ."
    assert normaliser(MARKERS)(text) == "The parser beats rules ."
    assert normaliser()(text) == "The [[ parser ]] beats <<rules>> ."


def test_a_marker_that_begins_another_is_removed_whole() -> None:
    assert normaliser(("<e", "<e2>", "<e>"))("a <e2> b <e> c") == "a b c"


@given(texts)
def test_text_ids_agree_with_a_dictionary_of_normalised_texts(texts: list[str]) -> None:
    ids: dict[str, int] = {}
    normalise = normaliser(MARKERS)
    expected = [ids.setdefault(normalise(text).casefold(), len(ids)) for text in texts]
    assert text_ids(iter(texts), MARKERS).tolist() == expected


@given(texts)
def test_first_rows_hold_each_text_once_in_order(texts: list[str]) -> None:
    ids = text_ids(texts, MARKERS)
    rows = first_rows(ids).tolist()
    assert rows == [i for i, text in enumerate(ids) if text not in ids[:i]]
