# SPDX-License-Identifier: Apache-2.0
"""Runs a command as on a locked-down machine: read-only folders, and no network but the loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

_SCRIPT = """
set -e
ip link set lo up
while [ "$1" != -- ]; do
    mount --bind "$1" "$1"
    mount -o remount,bind,ro "$1"
    shift
done
shift
exec "$@"
"""


def sandboxed(command: Sequence[str], read_only: Sequence[Path] = ()) -> list[str]:
    """The command, to be run in namespaces of its own, where the folders cannot be written even by root.

    Skips the test where this user may not create namespaces.
    """
    wrapped = ['unshare', '--map-root-user', '--mount', '--net', 'sh', '-c', _SCRIPT, 'sh']
    try:
        tried = subprocess.run([*wrapped, '--', 'true'], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip('unshare is not installed')
    if tried.returncode:
        pytest.skip(f'no namespaces here: {tried.stderr}')
    return [*wrapped, *map(str, read_only), '--', *command]
