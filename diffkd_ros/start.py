# SPDX-License-Identifier: Apache-2.0
"""The command of every node: imports the node that the command is named after and runs it."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module, util
from pathlib import Path

from diffkd_ros.blas import use_one_thread


def main() -> None:
    """Run the node whose module has the name of this command.

    Its import takes seconds. SIGINT ends the process meanwhile, with code 0 as it does later.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    use_one_thread()
    name = Path(sys.argv[0]).name
    modules = (f'diffkd_ros.{package}.{name}' for package in ('nodes', 'cosim'))
    node = import_module(next(module for module in modules if util.find_spec(module)))
    signal.signal(signal.SIGINT, handler)
    node.main()
