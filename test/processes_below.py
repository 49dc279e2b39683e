# SPDX-License-Identifier: Apache-2.0
"""Finds the processes of a run."""

from __future__ import annotations

import os
from pathlib import Path


def processes_below(folder: Path, word: str) -> list[tuple[int, str]]:
    """Ids and command lines of other processes whose command line contains the folder and the word."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            line = path.read_bytes().replace(b'\0', b' ').decode(errors='replace')
        except OSError:
            continue
        number = int(path.parent.name)
        if word in line and str(folder) in line and number != os.getpid():
            found.append((number, line))
    return found
