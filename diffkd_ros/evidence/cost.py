# SPDX-License-Identifier: Apache-2.0
"""What an experiment has to do, and about how long it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from diffkd_ros.evaluation.conditions import Condition
from diffkd_ros.evaluation.cooperations import cooperation_named
from diffkd_ros.evidence.measure import Measurement
from diffkd_ros.training.loop import Job

# Core seconds that a sample takes to be made and trained on without a GPU, measured with the shipped recipe.
_CPU_SECONDS = {
    'teacher': 0.18, 'student': 0.44, 'diffuser': 0.32, 'joint': 0.60, 'link': 0.72, 'rank': 0.50,
}  # fmt: skip
# An H200 takes 35 ms for a step of 16 frames, and a core makes 19 samples per second: docs/evidence.md.
_GPU_SECONDS, _SAMPLE_SECONDS = 0.035 / 16, 1 / 19
# Core seconds of a frame under a corruption of its clouds, and of another one: docs/link_study.md.
_CORRUPTED_SECONDS, _OTHER_SECONDS = 0.26, 0.08


def announcement(
    jobs: Sequence[Job], measurements: Sequence[Measurement], cores: int, gpu: bool, measuring: int
) -> list[str]:
    """Lines that say what is to be done and about how long it takes; none if there is nothing to do.

    Args:
        jobs: trainings, each counted from its first step.
        measurements: that are not complete, each counted as a whole.
        cores: that the trainings may use.
        gpu: whether networks are trained on a GPU.
        measuring: cores that the measurements may use.
    """
    lines = []
    if jobs:
        samples, passes, seconds = _trainings(jobs, cores, gpu)
        stages = ', '.join(f'{name} {count:,}' for name, count in samples.items())
        where = f'a GPU with {cores} cores' if gpu else f'{cores} cores without a GPU'
        lines += [
            f'to train: {len(jobs)} networks, {samples.total():,} samples ({stages}) in {passes} passes over '
            f'the data; about {_hours(seconds)} on {where}'
        ]
    if measurements:
        frames = sum(len(_levels(each)) * _frames(each) for each in measurements)
        seconds = sum(_frames(each) * sum(map(_seconds, _levels(each))) for each in measurements) / measuring
        lines += [
            f'to measure: {len(measurements)} runs of diffkd evaluate, {frames:,} frames under their '
            f'conditions; about {_hours(seconds)} on {measuring} cores'
        ]
    return lines and [*lines, 'times are calculated from those of other machines']


def _trainings(jobs: Sequence[Job], cores: int, gpu: bool) -> tuple[Counter[str], int, float]:
    """Samples by stage, the number of passes over the data, and seconds."""
    samples: Counter[str] = Counter()
    # Networks at an equal stage on equal data share a pass, see `training.loop`.
    passes: Counter[tuple[str, int, str]] = Counter()
    for job in jobs:
        for stage in job.recipe.stages:
            count = stage.steps_of(job.recipe.data.batch) * job.recipe.data.batch
            samples[stage.name] += count
            passes[stage.name, count, job.recipe.data.model_dump_json()] += 1
    if gpu:
        # All cores but two make samples, see `evidence.train`.
        making = _SAMPLE_SECONDS / max(cores - 2, 1)
        each = (count * max(making, n * _GPU_SECONDS) for (_, count, _), n in passes.items())
        return samples, len(passes), sum(each)
    return samples, len(passes), sum(n * _CPU_SECONDS[name] for name, n in samples.items()) / cores


def _frames(each: Measurement) -> int:
    count = each.source.frames_per_scenario
    assert count is not None, 'plans state it'
    return len(each.source.names()) * count


def _levels(each: Measurement) -> list[Condition]:
    return [level for level in each.levels if cooperation_named(each.cooperation).meets(level)]


def _seconds(level: Condition) -> float:
    return _OTHER_SECONDS if level.reference or level.over_links else _CORRUPTED_SECONDS


def _hours(seconds: float) -> str:
    return f'{seconds / 3600:.1f} h' if seconds >= 3600 else f'{max(seconds / 60, 1):.0f} min'
