# SPDX-License-Identifier: Apache-2.0
"""What the demos share: a folder for the results, an environment for the nodes, the nodes' results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching.middleware import fast_dds_environment, free_domain
from diffkd_ros.share import share_directory


class DemoError(DiffkdError):
    """The demo could not be run to its end."""


def prepared_folder(out: Path, outputs: Iterable[str]) -> Path:
    """The folder with an empty `logs/`, without what an earlier run left there; other files stay.

    Args:
        out: the folder.
        outputs: names of the files and folders that a run writes there.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in outputs:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    (out / 'logs').mkdir()
    return out


def node_environment(logs: Path) -> dict[str, str]:
    """For the nodes: a DDS domain of their own on this machine, and one thread a library."""
    return {
        **fast_dds_environment(share_directory()),
        'ROS_DOMAIN_ID': str(free_domain()),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'ROS_LOG_DIR': str(logs / 'ros'),
        'RCUTILS_COLORIZED_OUTPUT': '0',
        'OMP_NUM_THREADS': '1',
        'OPENBLAS_NUM_THREADS': '1',
    }


def read_result(path: Path) -> dict[str, Any]:
    """What a node has written at its end.

    Raises:
        DemoError: if it has not.
    """
    try:
        return json.loads(path.read_text())
    except (DiffkdError, OSError, ValueError) as error:
        raise DemoError(f'a node has left no result in {path}: {error}') from error
