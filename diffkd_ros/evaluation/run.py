# SPDX-License-Identifier: Apache-2.0
"""Runs all conditions on all scenarios in several processes and keeps the results in files.

A job is one scenario under some of the conditions: its frames are sensed and encoded once for all of them.
Each (condition, scenario) has one file, `frames/<condition>/<scenario>.npz`. Existing results are not
computed again, so an interrupted run can be continued, and a later one may add conditions.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from diffkd_ros.attacks.statement import Optimiser
from diffkd_ros.corruptions import CorruptionError
from diffkd_ros.documents import read_json_object
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.cooperation import Cooperation
from diffkd_ros.evaluation.cooperations import INTERMEDIATE, cooperation_named
from diffkd_ros.evaluation.deceived import DeceivedPerceiver
from diffkd_ros.evaluation.model import CleanFrame, Model, Sessions
from diffkd_ros.evaluation.pipeline import HISTORY, Perceiver, needed_frames, score
from diffkd_ros.files import results_folder
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.calibration import MIN_SCORE
from diffkd_ros.metrics.deception import Judgement
from diffkd_ros.metrics.frame_results import FrameResults, join
from diffkd_ros.metrics.protocol import Protocol, protocol_named
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.runtime.card import sha256
from diffkd_ros.sources.source import Scenario, Source
from diffkd_ros.workers import CONTEXT, worker_pool

SETTINGS = 'evaluation.json'
LEFT_OUT = 'left_out.json'
_FORMAT = 4
"""Version of the results; increased whenever detections or their scoring change."""
_CONDITIONS_PER_JOB = 16
_OPTIMISED_BY = 'attack_checkpoint'
_POLL = 0.2  # seconds between progress updates

Reasons = dict[str, str]
"""Why a frame was left out, by `condition/scenario/position`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is evaluated under every condition.

    Attributes:
        out: folder for the results.
        source: of the frames.
        model: model folder.
        protocol_name: of a preset.
        cooperation: name of the way to cooperate.
        answers: bags whose recorded detections are used as the clean condition.
        sessions: opens the sessions of a model without ONNX graphs.
        budget: most bytes of a message, None for no limit but that of the way to cooperate.
        history: frames kept before the first scored one of a scenario, if it is long enough.
        optimiser: computes the maps of attacks by gradients.
    """

    out: Path
    source: Source
    model: Path
    protocol_name: str
    cooperation: str = INTERMEDIATE
    answers: tuple[Path, ...] = ()
    sessions: Sessions | None = None
    budget: int | None = None
    history: int = HISTORY
    optimiser: Optimiser | None = None

    @property
    def protocol(self) -> Protocol:
        """The protocol.

        Raises:
            EvaluationError: if there is no such preset.
        """
        return protocol_named(self.protocol_name)

    def positions(self, drive: Scenario) -> list[int]:
        """Positions of the frames that are scored."""
        return self.source.positions(drive, self.history)

    def file(self, condition: Condition, drive: str) -> Path:
        """File with the results of a scenario under a condition."""
        return self.out / 'frames' / condition.name / f'{drive}.npz'

    def left_out(self, condition: Condition, drive: str) -> Path:
        """File with the frames of a scenario that could not be run under a condition, if any."""
        return self.file(condition, drive).with_suffix('.left_out.json')

    def parts_left_out(self, drive: str) -> Path:
        """File with what the source left out of the scored frames of a scenario, if anything."""
        return self.file(Condition(CLEAN), drive).with_suffix('.parts.json')

    def judged(self, condition: Condition, drive: str) -> Path:
        """File with who lied and who was taken for a liar, by position, if there was either."""
        return self.file(condition, drive).with_suffix('.judged.json')

    def open(self) -> Cooperation:
        """Load the model, with `MIN_SCORE` as its score threshold, as calibration needs it.

        Raises:
            ModelError: if the model does not load.
            EvaluationError: if there is no such way to cooperate.
        """
        return _open(self.model, self.cooperation, self.sessions)

    def kept(self, condition: Condition, drive: str) -> FrameResults | None:
        """Results of an earlier run, None if there are no valid ones of this protocol."""
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
    """Some conditions to be run on the scenario of a number."""

    number: int
    conditions: tuple[Condition, ...]


@cache
def _open(folder: Path, cooperation: str, sessions: Sessions | None) -> Cooperation:
    return cooperation_named(cooperation)(Model(folder, MIN_SCORE, sessions))


def settle(plan: Plan) -> None:
    """Create the folder, or check that its results are of this evaluation.

    The source must have been opened before, so that a mistyped one leaves nothing in the folder.

    Raises:
        DiffkdError: if nothing can be written to the folder.
        EvaluationError: if it holds results of another source, model, protocol or cooperation, or of a
            version of the package with different results.
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
        'topics': list(plan.source.topics) or None,
        'base_to_lidar': list(plan.source.base_to_lidar) or None,
        'intensity_scale': plan.source.intensity_scale,
        'frames_per_scenario': plan.source.frames_per_scenario,
        'model': card.model_id,
        'files': card.files,
        'protocol': plan.protocol.name,
        'cooperation': plan.cooperation,
        'budget': plan.budget,
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


def _perceiver(plan: Plan, job: Job, cooperation: Cooperation, condition: Condition) -> Perceiver:
    if condition.liars is None:
        return Perceiver(cooperation, condition, plan.budget)
    drive, elsewhere = (partial(plan.source.scenario, job.number + other) for other in (0, 1))
    return DeceivedPerceiver(
        cooperation, condition, condition.liars, drive, elsewhere, plan.budget, plan.optimiser
    )


def _run_job(plan: Plan, job: Job, count: Callable[[], None], stopped: Callable[[], bool]) -> None:
    """Run a job and save its results and the reasons for frames that were left out; nothing if stopped."""
    cooperation, drive, protocol = plan.open(), plan.source.scenario(job.number), plan.protocol
    perceivers = {each: _perceiver(plan, job, cooperation, each) for each in job.conditions}
    results: dict[Condition, list[FrameResults]] = defaultdict(list)
    left_out: dict[Condition, Reasons] = defaultdict(dict)
    judged: dict[Condition, dict[str, Any]] = defaultdict(dict)
    parts: Counter[str] = Counter()
    positions = plan.positions(drive)
    needed = {each: dict(needed_frames(positions, perceivers[each].history)) for each in job.conditions}
    longest = max(perceiver.history for perceiver in perceivers.values())
    for position, scored in needed_frames(positions, longest):
        try:
            frame = drive.frame(position)
            if scored:
                protocol.truth(frame)
        except (DiffkdError, ValueError) as error:
            if scored:
                for condition in job.conditions:
                    left_out[condition][f'{condition.name}/{drive.name}/{position}'] = str(error)
            continue
        if scored:
            parts.update(frame.left_out)
        clean = CleanFrame(frame)
        for condition, perceiver in perceivers.items():
            if position not in needed[condition]:
                continue
            if stopped():
                return
            try:
                sensed = perceiver.take(clean)
                if scored:
                    perception = perceiver.perceive(clean, sensed)
                    results[condition].append(score(frame, perception, protocol))
                    if perception.judgement:
                        judged[condition][str(position)] = asdict(perception.judgement)
                    count()
                else:
                    perceiver.remember(clean, sensed)
            except CorruptionError as error:
                if scored:
                    left_out[condition][f'{condition.name}/{drive.name}/{position}'] = str(error)
    for condition in job.conditions:
        # The notes first: existing results count as complete.
        keep_notes(plan.left_out(condition, drive.name), left_out[condition])
        keep_notes(plan.judged(condition, drive.name), judged[condition])
        if condition.name == CLEAN:
            keep_notes(plan.parts_left_out(drive.name), parts)
        if results[condition]:
            join(results[condition]).save(plan.file(condition, drive.name))


class _Worker:
    """State of a worker process: the number of frames scored, and whether the run was interrupted."""

    counter: Any
    stop: Any

    @classmethod
    def start(cls, counter: Any, stop: Any) -> None:
        cls.counter, cls.stop = counter, stop


def _run_in_worker(plan: Plan, job: Job) -> None:
    def count() -> None:
        with _Worker.counter.get_lock():
            _Worker.counter.value += 1

    _run_job(plan, job, count, _Worker.stop.is_set)


def run(plan: Plan, jobs: Sequence[Job], workers: int, progress: Callable[[int], None]) -> None:
    """Run jobs; each writes its files when it is done.

    Args:
        plan: checked by `settle`.
        jobs: from `make_jobs`.
        workers: processes; with one, the jobs run in this process.
        progress: called repeatedly with the number of frames scored.

    Raises:
        DiffkdError: if a worker process is killed, or results cannot be written; finished ones are kept.
        KeyboardInterrupt: after all workers have ended; finished jobs have written their files.
    """
    if workers == 1:
        scored = itertools.count(1)
        for job in jobs:
            _run_job(plan, job, lambda: progress(next(scored)), lambda: False)
        return
    counter, stop = CONTEXT.Value('q', 0), CONTEXT.Event()
    with worker_pool(workers, _Worker.start, (counter, stop)) as pool:
        running: set[Future[None]] = {pool.submit(_run_in_worker, plan, job) for job in jobs}
        try:
            while running:
                done, running = wait(running, _POLL, FIRST_COMPLETED)
                for future in done:
                    future.result()
                progress(counter.value)
        except BaseException:
            stop.set()
            raise


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
