# SPDX-License-Identifier: Apache-2.0
"""Shared by the demos: folder for the results, environment of the nodes, results of the nodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffkd_ros.errors import DiffkdError
from diffkd_ros.files import results_folder
from diffkd_ros.launching.middleware import fast_dds_environment, free_domain
from diffkd_ros.share import share_directory


def prepared_folder(out: Path, outputs: Iterable[str]) -> Path:
    """Create a folder with an empty `logs/`, and delete the `outputs` of an earlier run; other files stay.

    Raises:
        DiffkdError: if nothing can be written to it.
    """
    out = results_folder(out.resolve())
    for name in outputs:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    (out / 'logs').mkdir()
    return out


def node_environment(logs: Path) -> dict[str, str]:
    """Environment variables of the nodes: a free DDS domain on this machine, one thread per library."""
    return {
        **fast_dds_environment(share_directory(), loopback=True),
        'ROS_DOMAIN_ID': str(free_domain()),
        'ROS_LOG_DIR': str(logs / 'ros'),
        'RCUTILS_COLORIZED_OUTPUT': '0',
        'OMP_NUM_THREADS': '1',
        'OPENBLAS_NUM_THREADS': '1',
    }


def read_result(path: Path) -> dict[str, Any]:
    """Read the result of a node.

    Raises:
        DiffkdError: if the node has not written it.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DiffkdError(f'no result of a node in {path}: {error}') from error
