# SPDX-License-Identifier: Apache-2.0
"""Runs all conditions on all scenarios and keeps the results in files.

Each (condition, scenario) has one file, `frames/<condition>/<scenario>.npz`. Existing results are not
computed again, so an interrupted run can be continued, and a later one may add conditions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from diffkd_ros.documents import read_json_object
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.job import Finished, Job, Reasons, Work
from diffkd_ros.evaluation.plan import Plan
from diffkd_ros.files import results_folder
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.deception import Judgement
from diffkd_ros.metrics.frame_results import FrameResults, join
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.runtime.card import sha256
from diffkd_ros.workers import Workers

SETTINGS = 'evaluation.json'
LEFT_OUT = 'left_out.json'
_FORMAT = 6
"""Version of the results; increased whenever detections or their scoring change."""
_CONDITIONS_PER_JOB = 16
_OPTIMISED_BY = 'attack_checkpoint'


def settle(plan: Plan) -> None:
    """Create the folder, or check that its results are of this evaluation.

    The source must have been opened before, so that a mistyped one leaves nothing in the folder.

    Raises:
        DiffkdError: if nothing can be written to the folder.
        EvaluationError: if it holds results of another source, model, protocol or cooperation, or of a
            version of the package with different results.
        ModelError: if the model does not load.
    """
    cooperation = plan.open()
    card = cooperation.model.card
    settings: dict[str, Any] = {
        'format': _FORMAT,
        'source': plan.source.spec,
        'split': plan.source.split,
        'split_file': None if plan.source.split_file is None else sha256(plan.source.split_file),
        'labels': None if plan.source.labels is None else str(plan.source.labels),
        'pose': plan.source.pose,
        'topics': list(plan.source.topics) or None,
        'base_to_lidar': list(plan.source.base_to_lidar) or None,
        'intensity_scale': plan.source.intensity_scale,
        'frames_per_scenario': plan.source.frames_per_scenario,
        'model': card.model_id,
        'files': card.files,
        'protocol': plan.protocol.name,
        'cooperation': plan.cooperation,
        'budget': plan.budget,
        'plausibility': plan.plausibility if cooperation.examines else None,
        'answers': [str(path) for path in plan.answers],
    }
    path = plan.out / SETTINGS
    checkpoint = None if plan.optimiser is None else plan.optimiser.identity
    if path.is_file():
        earlier = _read(path)
        before = earlier.get(_OPTIMISED_BY)
        # Attacks by gradients may be added to others, and others to them.
        settings[_OPTIMISED_BY] = before if None in (checkpoint, before) else checkpoint
        differing = [key for key in settings if earlier.get(key) != settings[key]]
        if differing:
            changes = ', '.join(f'{key} {earlier.get(key)!r}, now {settings[key]!r}' for key in differing)
            raise EvaluationError(f'{plan.out} holds another evaluation: {changes}; choose another folder')
        checkpoint = checkpoint or before
    settings[_OPTIMISED_BY] = checkpoint
    write_json(results_folder(plan.out) / SETTINGS, settings)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except DiffkdError as error:
        raise EvaluationError(str(error)) from error


def read_left_out(plan: Plan, conditions: Sequence[Condition], drives: Sequence[str]) -> Reasons:
    """The frames that could not be run, with reasons."""
    left_out: Reasons = {}
    for condition in conditions:
        for drive in drives:
            path = plan.left_out(condition, drive)
            if path.is_file():
                left_out.update(_read(path))
    return left_out


def read_parts(plan: Plan, drives: Sequence[str]) -> dict[str, int]:
    """What the source left out of the scored frames, by reason, with counts."""
    parts: Counter[str] = Counter()
    for path in map(plan.parts_left_out, drives):
        if path.is_file():
            parts.update(_read(path))
    return dict(parts)


def read_judged(plan: Plan, condition: Condition, drive: str) -> dict[int, Judgement]:
    """Who lied and who was taken for a liar in a scenario, by position."""
    path = plan.judged(condition, drive)
    notes = _read(path) if path.is_file() else {}
    return {
        int(position): Judgement(
            tuple(note['liars']), {int(agent): liar for agent, liar in note['judged'].items()}
        )
        for position, note in notes.items()
    }


def keep_notes(path: Path, notes: Mapping[str, Any]) -> None:
    """Write a file of notes on a scenario, or remove it if there are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if notes:
        write_json(path, dict(notes))
    else:
        path.unlink(missing_ok=True)


def make_jobs(plan: Plan, conditions: Sequence[Condition], drives: Sequence[str]) -> list[Job]:
    """The jobs still to be run, scenario after scenario."""
    jobs = []
    # Conditions that need history last, in as few jobs as possible: those jobs sense more frames.
    ordered = sorted(conditions, key=lambda condition: condition.needs_history)
    for number, drive in enumerate(drives):
        missing = [condition for condition in ordered if plan.kept(condition, drive) is None]
        jobs += [
            Job(number, tuple(missing[start : start + _CONDITIONS_PER_JOB]))
            for start in range(0, len(missing), _CONDITIONS_PER_JOB)
        ]
    return jobs


def run(plan: Plan, jobs: Sequence[Job], workers: Workers, progress: Callable[[int], None]) -> None:
    """Run jobs and write the results of each when it is done.

    Args:
        plan: checked by `settle`.
        jobs: from `make_jobs`.
        workers: which run them.
        progress: called repeatedly with the number of frames scored.

    Raises:
        DiffkdError: if a worker fails, or results cannot be written; those written are kept.
        KeyboardInterrupt: when no local process is left; results that were written are kept.
    """
    workers.run(Work(plan), jobs, partial(_keep, plan), progress)


def _keep(plan: Plan, done: Finished) -> None:
    for condition in done.conditions:
        # The notes first: existing results count as complete.
        keep_notes(plan.left_out(condition, done.drive), done.left_out.get(condition, {}))
        keep_notes(plan.judged(condition, done.drive), done.judged.get(condition, {}))
        if condition.name == CLEAN:
            keep_notes(plan.parts_left_out(done.drive), done.parts)
        if condition in done.results:
            done.results[condition].save(plan.file(condition, done.drive))


def load_results(
    plan: Plan, conditions: Sequence[Condition], drives: Sequence[str]
) -> Mapping[Condition, FrameResults]:
    """The results of each condition that has them for all these scenarios, in this order."""
    loaded = {}
    for condition in conditions:
        parts = [plan.kept(condition, drive) for drive in drives]
        present = [part for part in parts if part is not None]
        if present and len(present) == len(drives):
            loaded[condition] = join(present)
    return loaded


def usable(plan: Plan, drives: Sequence[str]) -> list[str]:
    """The scenarios with clean results, of which at least one frame could be read."""
    return [drive for drive in drives if plan.kept(Condition(CLEAN), drive) is not None]
