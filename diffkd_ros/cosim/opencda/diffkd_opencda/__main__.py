# SPDX-License-Identifier: Apache-2.0
"""Run an OpenCDA script with cooperative detections: `python -m diffkd_opencda opencda.py ...`."""

from __future__ import annotations

import logging
import os
import runpy
import sys
from collections.abc import Sequence

from .installing import install
from .protocol import DEFAULT_GATEWAY


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script named by the first argument, with the others as its arguments.

    The environment variable DIFFKD_GATEWAY overrides host:port of the gateway.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments:
        print('usage: python -m diffkd_opencda opencda.py <its arguments>', file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO)
    # As in `python script.py`.
    sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
    sys.argv = arguments
    install(os.environ.get('DIFFKD_GATEWAY', DEFAULT_GATEWAY))
    runpy.run_path(arguments[0], run_name='__main__')
    return 0


if __name__ == '__main__':
    sys.exit(main())
