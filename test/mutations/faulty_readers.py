# SPDX-License-Identifier: Apache-2.0
"""Readers with faults, to test that the run finds them; takes the arguments of `run.py`."""

from __future__ import annotations

import os
import signal
from random import Random
from typing import Any

import numpy as np

from run import main  # isort: skip - makes the helpers of other tests importable
from cases import Reader

from diffkd_ros.errors import DiffkdError


class Faulty(Reader):
    """Reads numbers; odd ones end in `fail`."""

    def valid(self) -> list[Any]:
        return [0]

    def case(self, rng: Random) -> Any:
        return rng.randrange(1, 1000)

    def read(self, case: Any) -> Any:
        return self.fail() if case % 2 else float(case)

    def fail(self) -> Any:
        raise NotImplementedError


class Sound(Faulty):
    def fail(self) -> Any:
        raise DiffkdError('refused')


class Raises(Faulty):
    def fail(self) -> Any:
        return {}['x']


class NotFinite(Faulty):
    def fail(self) -> Any:
        return {'boxes': [np.array([1.0, np.nan])]}


class Allocates(Faulty):
    def fail(self) -> Any:
        return len(bytes(600 << 20))


class HidesMemoryError(Faulty):
    def fail(self) -> Any:
        try:
            return len(bytes(600 << 20))
        except MemoryError as error:
            raise DiffkdError('too large') from error


class Slow(Faulty):
    def fail(self) -> Any:
        begun = os.times().user
        while os.times().user < begun + 1.2:
            pass


class Hangs(Faulty):
    def fail(self) -> Any:
        # In C, where Python's own signal handlers would not run.
        return int('9' * 4000) ** 4000


class Dies(Faulty):
    def fail(self) -> Any:
        os.kill(os.getpid(), signal.SIGSEGV)


class Leaves(Faulty):
    def fail(self) -> Any:
        raise SystemExit(0)


class LacksValid(Sound):
    def valid(self) -> list[Any]:
        return [1]


READERS = {
    kind.__name__: kind
    for kind in (Sound, Raises, NotFinite, Allocates, HidesMemoryError, Slow, Hangs, Dies, Leaves, LacksValid)
}

if __name__ == '__main__':
    main(READERS)
