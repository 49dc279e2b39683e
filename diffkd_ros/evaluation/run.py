# SPDX-License-Identifier: Apache-2.0
"""Runs every condition on every drive, in several processes, and keeps what each gave in a file.

A job is one drive under some of the conditions: its frames are sensed and encoded once and corrupted copies
follow from them. Each (condition, drive) has one file, `frames/<condition>/<drive>.npz`; those that are there
and whole are not run again, so a run that was ended goes on where it was, and a larger one builds on it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diffkd_ros.corruptions import CorruptionError
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.cooperation import INTERMEDIATE, Cooperation, cooperation_named
from diffkd_ros.evaluation.errors import ExperimentError
from diffkd_ros.evaluation.history import history_frames, needed_frames
from diffkd_ros.evaluation.model import CleanFrame, Model, Sessions
from diffkd_ros.evaluation.pipeline import MAX_AGE, Perceiver, score
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.calibration import MIN_SCORE
from diffkd_ros.metrics.frame_results import FrameResults, join
from diffkd_ros.metrics.protocol import Protocol, protocol_named
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.runtime.card import sha256
from diffkd_ros.sources.source import Scenario, Source

SETTINGS = 'evaluation.json'
LEFT_OUT = 'left_out.json'
_FORMAT = 3
"""Of the results; raised whenever a model's detections, or how they are scored, change."""
_CONDITIONS_PER_JOB = 16
_POLL = 0.2  # seconds between looks at the progress

LeftOut = dict[str, str]
"""Reasons by `condition/drive/position`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is evaluated, for every condition alike.

    Attributes:
        out: folder for the results.
        source: of the frames.
        model: model folder.
        protocol_name: of a preset.
        cooperation: name of the way in which agents cooperate.
        answers: bags whose recorded detections are the clean condition, instead of the model's.
        sessions: opens what runs a model without graphs.
    """

    out: Path
    source: Source
    model: Path
    protocol_name: str
    cooperation: str = INTERMEDIATE
    answers: tuple[Path, ...] = ()
    sessions: Sessions | None = None

    @property
    def protocol(self) -> Protocol:
        """What is scored.

        Raises:
            EvaluationError: if there is no such preset.
        """
        return protocol_named(self.protocol_name)

    def positions(self, drive: Scenario) -> list[int]:
        """Frames of a drive that are scored."""
        return self.source.positions(drive, history_frames(MAX_AGE))

    def file(self, condition: Condition, drive: str) -> Path:
        """Where the results of a drive under a condition are kept."""
        return self.out / 'frames' / condition.name / f'{drive}.npz'

    def left_out(self, condition: Condition, drive: str) -> Path:
        """Where it is kept which frames of a drive could not be run under a condition, if any."""
        return self.file(condition, drive).with_suffix('.left_out.json')

    def open(self) -> Cooperation:
        """Agents with the model, whose detections are kept from `MIN_SCORE` on, as calibration needs them.

        Raises:
            ModelError: if the model does not load.
            ExperimentError: if there is no such cooperation.
        """
        return _open(self.model, self.cooperation, self.sessions)

    def kept(self, condition: Condition, drive: str) -> FrameResults | None:
        """What an earlier run has left, None if nothing whole of this protocol."""
        path = self.file(condition, drive)
        if not path.is_file():
            return None
        try:
            results = FrameResults.load(path)
        except EvaluationError:
            return None
        return results if results.protocol == self.protocol_name else None


@dataclass(frozen=True, slots=True)
class Job:
    """Some conditions on one drive.

    Attributes:
        number: of the drive.
        conditions: those still to be run.
    """

    number: int
    conditions: tuple[Condition, ...]


@dataclass(slots=True)
class _Line:
    """A worker's line to the process that started it."""

    count: Callable[[], None]
    stopped: Callable[[], bool]


class _StoppedError(DiffkdError):
    """The run was ended; the job leaves nothing."""


@cache
def _open(folder: Path, cooperation: str, sessions: Sessions | None) -> Cooperation:
    return cooperation_named(cooperation)(Model(folder, MIN_SCORE, sessions))


def settle(plan: Plan) -> None:
    """Make the folder this evaluation's own.

    Raises:
        ExperimentError: if it holds results of another source, model, protocol or cooperation, or of a
            version of the package that detected or scored otherwise.
        ModelError: if the model does not load.
    """
    card = plan.open().model.card
    settings: dict[str, Any] = {
        'format': _FORMAT,
        'source': plan.source.spec,
        'split': plan.source.split,
        'split_file': None if plan.source.split_file is None else sha256(plan.source.split_file),
        'labels': None if plan.source.labels is None else str(plan.source.labels),
        'pose': plan.source.pose,
        'frames_per_scenario': plan.source.frames_per_scenario,
        'model': card.model_id,
        'files': card.files,
        'protocol': plan.protocol.name,
        'cooperation': plan.cooperation,
        'answers': [str(path) for path in plan.answers],
    }
    path = plan.out / SETTINGS
    if path.is_file():
        earlier = _read(path)
        differing = [key for key in settings if earlier.get(key) != settings[key]]
        if differing:
            told = ', '.join(f'{key} {earlier.get(key)!r}, now {settings[key]!r}' for key in differing)
            raise ExperimentError(f'{plan.out} holds another evaluation: {told}; choose another folder')
    plan.out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (DiffkdError, OSError, ValueError) as error:
        raise ExperimentError(f'{path} is not readable: {error}') from error
    if not isinstance(content, dict):
        raise ExperimentError(f'{path}: expected an object, got {type(content).__name__}')
    return content


def read_left_out(plan: Plan, conditions: Sequence[Condition], drives: Sequence[str]) -> LeftOut:
    """Frames that could not be run, and why."""
    left_out: LeftOut = {}
    for condition in conditions:
        for drive in drives:
            path = plan.left_out(condition, drive)
            if path.is_file():
                left_out.update(_read(path))
    return left_out


def make_jobs(plan: Plan, conditions: Sequence[Condition], drives: Sequence[str]) -> list[Job]:
    """What is still to be run, drive after drive."""
    jobs = []
    # Those that need history together: each job with one of them senses more frames.
    ordered = sorted(conditions, key=lambda condition: condition.needs_history)
    for number, drive in enumerate(drives):
        missing = [condition for condition in ordered if plan.kept(condition, drive) is None]
        jobs += [
            Job(number, tuple(missing[start : start + _CONDITIONS_PER_JOB]))
            for start in range(0, len(missing), _CONDITIONS_PER_JOB)
        ]
    return jobs


def _run_job(plan: Plan, job: Job, line: _Line) -> None:
    """Run a job and save its results, and what was left out and why."""
    cooperation, drive, protocol = plan.open(), plan.source.scenario(job.number), plan.protocol
    perceivers = {condition: Perceiver(cooperation, condition) for condition in job.conditions}
    results: dict[Condition, list[FrameResults]] = defaultdict(list)
    left_out: dict[Condition, LeftOut] = defaultdict(dict)
    late = any(condition.needs_history for condition in job.conditions)
    history = history_frames(MAX_AGE) if late else 0
    for position, scored in needed_frames(plan.positions(drive), history):
        try:
            frame = drive.frame(position)
        except (DiffkdError, ValueError) as error:
            if scored:
                for condition in job.conditions:
                    left_out[condition][f'{condition.name}/{drive.name}/{position}'] = str(error)
            continue
        clean = CleanFrame(frame)
        for condition, perceiver in perceivers.items():
            if not scored and not condition.needs_history:
                continue
            if line.stopped():
                raise _StoppedError
            try:
                sensed = perceiver.take(clean)
                if scored:
                    results[condition].append(score(frame, perceiver.perceive(clean, sensed), protocol))
                    line.count()
            except CorruptionError as error:
                if scored:
                    left_out[condition][f'{condition.name}/{drive.name}/{position}'] = str(error)
    for condition in job.conditions:
        path = plan.file(condition, drive.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # The reasons first: results that are there count as complete.
        if left_out[condition]:
            write_json(plan.left_out(condition, drive.name), left_out[condition])
        else:
            plan.left_out(condition, drive.name).unlink(missing_ok=True)
        if results[condition]:
            join(results[condition]).save(path)


class _Worker:
    """What a worker process knows; set once, when it starts."""

    line: _Line

    @classmethod
    def start(cls, counter: Any, stop: Any) -> None:
        # The process that started this one is told by the terminal too, and ends the jobs in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with_parent, daemon=True).start()

        def count() -> None:
            with counter.get_lock():
                counter.value += 1

        cls.line = _Line(count, stop.is_set)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(plan: Plan, job: Job) -> None:
    _run_job(plan, job, _Worker.line)


def run(plan: Plan, jobs: Sequence[Job], workers: int, progress: Callable[[int], None]) -> None:
    """Run jobs; each leaves its files when it is done.

    Args:
        plan: settled before.
        jobs: from `make_jobs`.
        workers: processes; with one, the jobs run in this process.
        progress: told now and then how many frames were scored.

    Raises:
        ExperimentError: if a worker process dies.
        KeyboardInterrupt: after all workers have ended; finished jobs have left their files.
    """
    if workers == 1:
        _run_here(plan, jobs, progress)
        return
    context = multiprocessing.get_context('spawn')
    counter, stop = context.Value('q', 0), context.Event()
    with ProcessPoolExecutor(workers, context, _Worker.start, (counter, stop)) as pool:
        running: set[Future[None]] = {pool.submit(_run_in_worker, plan, job) for job in jobs}
        try:
            while running:
                done, running = wait(running, _POLL, FIRST_COMPLETED)
                for future in done:
                    future.result()
                progress(counter.value)
        except BrokenProcessPool as error:
            raise ExperimentError(
                f'a worker process died, perhaps for want of memory; run again with fewer workers '
                f'than {workers}: what is done is kept'
            ) from error
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _run_here(plan: Plan, jobs: Iterable[Job], progress: Callable[[int], None]) -> None:
    scored = 0

    def count() -> None:
        nonlocal scored
        scored += 1
        progress(scored)

    for job in jobs:
        _run_job(plan, job, _Line(count, lambda: False))


def load_results(
    plan: Plan, conditions: Sequence[Condition], drives: Sequence[str]
) -> Mapping[Condition, FrameResults]:
    """The results of every condition that has them for all these drives, drives in this order."""
    loaded = {}
    for condition in conditions:
        parts = [plan.kept(condition, drive) for drive in drives]
        present = [part for part in parts if part is not None]
        if present and len(present) == len(drives):
            loaded[condition] = join(present)
    return loaded


def usable(plan: Plan, drives: Sequence[str]) -> list[str]:
    """The drives of which at least one frame could be read, so that there are clean results."""
    return [drive for drive in drives if plan.kept(Condition(CLEAN), drive) is not None]
