# SPDX-License-Identifier: Apache-2.0
"""Compiles numeric functions with Numba and keeps the machine code on disk.

Numba keeps it in NUMBA_CACHE_DIR, else next to the module, else in the user's cache folder. If none of these
can be written, a private folder below the system's temporary one is used.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numba
from numba.core import config
from numba.core.caching import FunctionCache

_LOG = logging.getLogger(__name__)
_listeners: list[Callable[[str], object]] = []


class _Cache(FunctionCache):
    """The machine code of one function on disk."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super().load_overload(sig, target_context)
        if found is None:
            _announce('compiling numeric functions, once on this machine (half a minute of a free core)')
            for listener in _listeners:
                listener(f'compiling {self._py_func.__qualname__}')
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        # On a full disk the function runs all the same.
        with suppress(OSError):
            super().save_overload(sig, data)


@cache
def _announce(text: str) -> None:
    """Log a text, once in a process."""
    _LOG.warning('%s', text)


def _cache_of(function: Callable[..., Any]) -> _Cache | None:
    """The function's cache; None if there is no folder for it."""
    with suppress(RuntimeError):
        return _Cache(function)
    try:
        config.CACHE_DIR = _private_folder(config.CACHE_DIR)  # type: ignore[attr-defined]
        return _Cache(function)
    except (OSError, RuntimeError) as error:
        _announce(f'compiled functions cannot be stored, so every process compiles them again: {error}')
        return None


def _private_folder(filled: str) -> str:
    """A temporary folder of this user, created as a copy of a read-only cache folder if there is one."""
    folder = Path(tempfile.gettempdir()) / f'diffkd_ros-{os.getuid()}'
    if not folder.exists():
        # Several nodes start at once: the folder must appear with its content.
        new = Path(tempfile.mkdtemp())
        if filled:
            shutil.copytree(filled, new, dirs_exist_ok=True, copy_function=shutil.copyfile)
        try:
            new.rename(folder)
        except OSError:
            shutil.rmtree(new)
    status = folder.lstat()
    # It holds code: a folder that another user has made or can write to is not used.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f'{folder} is not a folder of this user only')
    return str(folder)


def on_compile(listener: Callable[[str], object]) -> None:
    """Call a function with a text whenever this process starts to compile something."""
    _listeners.append(listener)


def kernel(
    function: Callable[..., Any] | None = None, *, inline: Literal['never', 'always'] = 'never'
) -> Any:
    """Decorate a function that Numba compiles at its first call, or reads from its cache.

    It runs without the GIL. A division by zero gives infinity or NaN, as in NumPy.

    Args:
        function: to compile.
        inline: `always` inserts its code in the kernels that call it.
    """
    if function is None:
        return lambda decorated: kernel(decorated, inline=inline)
    compiled = numba.njit(nogil=True, error_model='numpy', inline=inline)(function)
    # With NUMBA_DISABLE_JIT it is the plain function.
    if compiled is not function and (stored := _cache_of(function)) is not None:
        compiled._cache = stored  # type: ignore[attr-defined]
    return compiled
