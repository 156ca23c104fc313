"""Loops compiled by numba: at import, for the types that they are called with, and kept on disk."""

from collections.abc import Callable
from typing import Any

import numba
from numba import types


def compiled(*signatures: Any) -> Callable[[Callable[..., Any]], Any]:  # noqa: ANN401 - numba's types have no stubs
    """Compile at import for those signatures; from a cache on disk, where there is a folder for one.

    No fast-math: every machine rounds alike. The interpreter's lock is free while it runs.
    """

    def decorate(function: Callable[..., Any]) -> Any:  # noqa: ANN401
        def attempt(*, cache: bool) -> Any:  # noqa: ANN401
            return numba.njit(
                list(signatures), nogil=True, boundscheck=False, error_model="numpy", cache=cache
            )(function)

        try:
            return attempt(cache=True)
        except RuntimeError:  # numba found no folder that it may write to
            return attempt(cache=False)

    return decorate


def loop(*arguments: Any) -> Callable[[Callable[..., None]], Any]:  # noqa: ANN401
    """`compiled` for a function of those arguments that returns nothing."""
    return compiled(types.void(*arguments))
