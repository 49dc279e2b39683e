# SPDX-License-Identifier: Apache-2.0
"""Writes files whole or not at all, and checks where results will be written before the work starts."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffkd_ros.errors import DiffkdError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file under another name in the same folder; it gets its own name when it is complete.

    Yields:
        The path to write to. After an error the previous file, if there is one, is unchanged.

    Raises:
        DiffkdError: if the file cannot be written.
    """
    unfinished = path.with_name(f'{path.name}.{os.getpid()}.part')
    with explained(path):
        try:
            yield unfinished
            unfinished.replace(path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text by `whole_file`. What Unicode cannot represent, as in names of files, is escaped."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding='utf-8', errors='backslashreplace')


def results_folder(path: Path) -> Path:
    """Create a folder, unless it exists.

    Raises:
        DiffkdError: if files cannot be written to it.
    """
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    return path


def check_results_file(path: Path) -> None:
    """Check, before the work, that a file can be written.

    Raises:
        DiffkdError: if it cannot.
    """
    with explained(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, 'it is a folder')
        tempfile.TemporaryFile(dir=path.parent).close()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise an error of the operating system as a `DiffkdError` that says what cannot be written."""
    try:
        yield
    except OSError as error:
        reason = 'it is a file' if isinstance(error, FileExistsError) else error.strerror or error
        raise DiffkdError(f'cannot write {path}: {reason}') from error
