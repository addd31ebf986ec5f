"""What kind of phrase an English token sequence is, by rules on its words and their casing."""

import re
from collections.abc import Iterable
from enum import StrEnum


class Kind(StrEnum):
    """The kinds, in the order in which a reader meets them."""

    NAME = "names"
    NUMBER = "numeric references"
    PHRASE = "phrases of the field"
    WORD = "words of the field"
    CONNECTIVE = "connectives"


# Words of every field. The remnants of contractions (don ' t) and the
# bracket codes of treebanks (- lrb -) are among them.
_FUNCTION = """
a about above across after again against all almost along already also although always am among an
and another any anyone anything are aren around as at away back be became because become been
before behind being below besides between beyond both but by can cannot could couldn d did didn do
does doesn doing don done down due during e each eg either else enough especially etc even ever
every everyone everything except far few for from further furthermore g get gets getting given go
goes going got had hadn has hasn have haven having he hence her here hers herself him himself his
how however i ie if in indeed instead into is isn it its itself just lcb least less let ll lrb lsb
made make makes making many may maybe me might more moreover most much must my myself near nearly
neither never nevertheless no nobody none nor not nothing now o of off often on once one only onto
or other others otherwise our ours out over own perhaps quite rather rcb re really rrb rsb s same
shall she should shouldn since so some someone something sometimes still such t than that the their
theirs them themselves then there thereby therefore these they this those though through throughout
thus to together too toward towards under unless until up upon us ve versus very via was wasn we
well were weren what whatever when whenever where whereas wherever whether which whichever while
who whoever whole whom whose why will with within without won would wouldn yet you your yours
yourself
"""
FUNCTION_WORDS = frozenset(_FUNCTION.split())

# Nouns, verbs and adjectives that link when they stand among function words: in order to, a number
# of, on the other hand, according to the, based on.
_LINKS = """
according addition addressed aim based basis bit case cases compared comparison consequence
contrast course deal different example fact first following form found general hand help instance
kind known last like lot manner means need number opposed order part particular possible purpose
reason regard related relation respect result role second seem seems sense series set shown similar
single sort terms thing things third type types use used using variety view way ways words
"""
_LINKING = frozenset(_LINKS.split())

# "one" is a pronoun more often than a number.
_NUMBERS = """
two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy
eighty ninety hundred thousand million billion dozen half percent
"""
_NUMBER_WORDS = frozenset(_NUMBERS.split())

# Signs that stand with numbers (stars are ratings), and what some corpora write for every number.
# "##" begins a piece of a word.
_NUMBER = re.compile(r"[0-9%±★$€£]|\w ?[<>=≤≥]|\* ?\*|\bnum\b", re.IGNORECASE)
_MASK = re.compile(r"@|(?<!#)#(?!#)")
_WORD = re.compile(r"[^\W_]+")
_CASED_MOST = 0.5  # share of its occurrences above which a capitalised sequence is a name


def kind_of(text: str, capitalised: float | None, *, masked: bool) -> Kind:
    """Return the kind of a sequence from its text and the share of it that is capitalised.

    ``capitalised`` is the share of occurrences where every word but function words has a capital,
    sentence starts left out; None when nothing is known. ``masked``: the corpus has no digits, so
    that @ and # stand for numbers.

    The first rule that holds: a digit or a sign of numbers, or number words with none but function
    words beside them, make a numeric reference; mostly capitalised is a name; none but function
    and linking words is a connective; a single word, whole or in part, is one that the base
    vocabulary splits; the rest are phrases.
    """
    words = [word.casefold() for word in _WORD.findall(text)]
    content = [word for word in words if word not in FUNCTION_WORDS]
    signs = _NUMBER.search(text) or (masked and _MASK.search(text))
    if signs or (content and _NUMBER_WORDS.issuperset(content)):
        return Kind.NUMBER
    if capitalised is not None and capitalised > _CASED_MOST:
        return Kind.NAME
    if _LINKING.issuperset(content):
        return Kind.CONNECTIVE
    return Kind.WORD if len(text.split()) == 1 else Kind.PHRASE


def is_capitalised(text: str, spans: Iterable[tuple[int, int]]) -> bool | None:
    """Tell whether every word that the spans of a text touch begins with a capital.

    Function words, numbers and first words of sentences do not count; None when no other is there.
    """
    verdicts = {}
    for start, end in spans:
        while start < end and not text[start].isalnum():
            start += 1
        if start == end:
            continue
        while start > 0 and text[start - 1].isalnum():
            start -= 1
        word = _WORD.match(text, start)
        if word is None or word.group().casefold() in FUNCTION_WORDS or not text[start].isalpha():
            continue
        if not _begins_sentence(text, start):
            verdicts[start] = text[start].isupper()
    return all(verdicts.values()) if verdicts else None


def _begins_sentence(text: str, start: int) -> bool:
    """Tell whether a sentence ends before, nothing but quotes and the like between."""
    for character in reversed(text[:start]):
        if character in ".!?:":
            return True
        if character.isalnum() or character in ",;":
            return False
    return True
