# SPDX-License-Identifier: Apache-2.0
"""A task of `diffkd_ros.workers` that worker processes can import."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.workers import Advance


@dataclass(frozen=True)
class CountedTask:
    """Notes each job in a folder, advances by its number, and returns it and the process; job 3 fails."""

    folder: Path

    def __call__(self, job: int, advance: Advance) -> tuple[int, int]:
        (self.folder / f'{job}').touch()
        if job == 3:
            raise EvaluationError('job 3 fails')
        for _ in range(job):
            advance(1)
        return job, os.getpid()

    def elsewhere(self) -> CountedTask:
        return self

    def prepare(self) -> None:
        (self.folder / f'prepared {os.getpid()}').touch()
