# SPDX-License-Identifier: Apache-2.0
"""Writes files and folders whole or not at all, and checks where results go before the work starts."""

from __future__ import annotations

import errno
import os
import shutil
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


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Write a folder inside another one; it is moved to its place when it is complete, else removed.

    If the process is killed it remains, in a folder whose name ends in `.unfinished`.

    Yields:
        The folder to create and to write to, of the same name.

    Raises:
        OSError: if it cannot be moved.
    """
    # A bag's file is named as its folder.
    unfinished = path.with_name(f'{path.name}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        yield unfinished / path.name
        (unfinished / path.name).rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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
