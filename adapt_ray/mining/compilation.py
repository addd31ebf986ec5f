"""Compiled kernels whose machine code is found again by content, not by path.

numba's own cache sits beside the source file, so that every fresh copy of the project (each
submitted job is one) would compile for half a minute. Here the folder is named by the source, the
numba version and the processor: copies with equal content share it, and anything else cannot meet.
"""

import contextlib
import functools
import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.registry import cpu_target

Function = TypeVar("Function", bound=Callable[..., Any])
_njit: Any = numba.njit
_config: Any = numba.config


def helper(function: Function) -> Function:
    """Decorate a function of a kernel; it only reads and writes arrays of its caller.

    It counts no references: the atomic increments and decrements of each call took three quarters
    of the time of the search.
    """
    return cast(Function, _njit(nogil=True, _nrt=False)(function))


def kernel(function: Function) -> Function:
    """Decorate an entry point, compiled at its first call, or read from the user's cache.

    It may make arrays, and releases the interpreter lock: threads, heartbeats and progress bars go
    on while it runs.
    A kernel calls only functions of its own folder (they are part of the cache key) and is always
    called with the same argument types, so that one folder holds one version of it and processes
    that race for it write the same bytes. Without a writable folder it compiles in each process.
    """
    dispatcher: Any = _njit(nogil=True)(function)
    with contextlib.suppress(OSError):
        dispatcher._cache = _Cache(function)  # type: ignore[no-untyped-call]
    return cast(Function, dispatcher)


def cache_root() -> Path:
    """Return where compiled code is kept: NUMBA_CACHE_DIR, or the user's cache folder."""
    if _config.CACHE_DIR:
        return Path(_config.CACHE_DIR)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "adapt_ray"


@functools.cache
def _content(folder: Path) -> str:
    digest = hashlib.sha256(
        repr((numba.__version__, cpu_target.target_context.codegen().magic_tuple())).encode()
    )
    for source in [Path(__file__), *sorted(folder.glob("*.py"))]:
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


class _Locator(_CacheLocator):
    """Tells numba the folder and says that what lies there is never stale."""

    def __init__(self, source: Path):
        self._content = _content(source.parent)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Self:
        locator = cls(Path(py_file).resolve())
        locator.ensure_cache_path()  # type: ignore[no-untyped-call]
        return locator

    def get_cache_path(self) -> str:
        return str(cache_root() / f"numba-{self._content}")

    def get_source_stamp(self) -> str:
        return self._content

    def get_disambiguator(self) -> str:
        return "kernel"


class _Implementation(CompileResultCacheImpl):
    _locator_classes: Any = (_Locator,)


_LOST = (OSError, EOFError, pickle.UnpicklingError)


class _Cache(FunctionCache):
    """A cache that costs a compilation, never the run, when its files are lost or damaged."""

    _impl_class = _Implementation

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with contextlib.suppress(*_LOST):
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(*_LOST):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
