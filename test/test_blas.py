# SPDX-License-Identifier: Apache-2.0
"""Threads of NumPy's matrix products in commands and nodes."""

import os
import subprocess
import sys

import pytest

from diffkd_ros.workers import usable_cores

COMMAND = 'import diffkd_ros.cli\n'
# The command of nodes, up to the import of one.
NODE = """
import contextlib, sys
from diffkd_ros import start
sys.argv[0] = 'no_node'
with contextlib.suppress(StopIteration):
    start.main()
"""
PRODUCT = """
import os, numpy
numpy.ones((600, 600)) @ numpy.ones((600, 600))
print(len(os.listdir('/proc/self/task')))
"""


@pytest.mark.skipif(usable_cores() < 2, reason='one core: BLAS has one thread anyway')
@pytest.mark.parametrize(('before', 'wanted', 'threads'), [(COMMAND, '', 1), (NODE, '', 1), (NODE, '2', 2)])
def test_products_use_one_thread_unless_the_environment_says_otherwise(before, wanted, threads):
    names = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
    environment = {name: value for name, value in os.environ.items() if name not in names}
    if wanted:
        environment['OPENBLAS_NUM_THREADS'] = wanted
    command = [sys.executable, '-c', before + PRODUCT]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(threads)
