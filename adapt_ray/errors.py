"""The errors that a job tells in one line, and the hint that goes with a misspelt name."""

import difflib
import errno
import re
import reprlib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong: a value, a file, a name.

    The message is one line that names the bad value, where it came from and what is allowed. Jobs
    print it without a traceback and exit with status 2.
    """


class JobError(RuntimeError):
    """A job could not do all it was asked for, and has said why; jobs exit with status 1."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 4, 200, 200, 60
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 20


def shown(value: object) -> str:
    """Return a value as an error shows it: its ``repr``, shortened where it is long."""
    return _REPR.repr(value)


def one_line(text: str) -> str:
    """Return text as a terminal may show it: one line, nothing that controls it, no password.

    What is quoted in an error can come from anywhere: a corpus, a server, a file name.
    """
    text = re.sub(r"://[^\s/@]*:[^\s/@]*@", "://***@", text)
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in " ".join(text.splitlines())
    )


def last_line(error: BaseException | None) -> str:
    """Return the last line of an error's text, which says most of a long one from afar."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


_REFUSALS = ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE")


def disk_problem(text: str) -> str | None:
    """Say in one line what a disk refused, judging by an error's text; None where none did.

    An error that comes from another process has no number any more, only its text.
    """
    numbers = "|".join(str(getattr(errno, name)) for name in _REFUSALS if hasattr(errno, name))
    by_python, by_rust = rf"\[Errno ({numbers})\][^\n]*", rf"[^\n:]*\(os error ({numbers})\)"
    found = re.search(f"{by_python}|{by_rust}", text)
    if found is None:
        return None
    return (
        f"a disk refused: {found.group().strip()}; once it has room or is mended, the same "
        "command goes on from what is finished"
    )
