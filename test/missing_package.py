# SPDX-License-Identifier: Apache-2.0
"""Runs `diffkd` as if packages were not installed."""

_PROGRAM = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition('.')[0] in MISSING else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
from diffkd_ros.cli import main
main()
"""


def without(*packages: str) -> str:
    """A program for `python -c`, with the arguments of `diffkd`, that finds none of these packages."""
    return f'MISSING = {packages!r}\n{_PROGRAM}'
