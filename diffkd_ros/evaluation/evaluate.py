# SPDX-License-Identifier: Apache-2.0
"""The whole benchmark: runs what is missing, then writes table, summary and report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from diffkd_ros import __version__
from diffkd_ros.evaluation import calibrators
from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.cooperation import INTERMEDIATE, cooperation_named
from diffkd_ros.evaluation.errors import ExperimentError
from diffkd_ros.evaluation.measures import Evaluation
from diffkd_ros.evaluation.model import Sessions
from diffkd_ros.evaluation.report import page, tables
from diffkd_ros.evaluation.run import (
    LEFT_OUT,
    Job,
    Plan,
    load_results,
    make_jobs,
    read_left_out,
    run,
    settle,
    usable,
)
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.sources.source import Source


@dataclass(frozen=True, slots=True)
class Options:
    """What to evaluate.

    Attributes:
        out: folder for the results; an earlier run of the same source, model and protocol goes on there.
        source: of the frames.
        model: model folder.
        conditions: from `make_conditions`.
        protocol: name of a preset; None for the source's own.
        workers: processes.
        baseline: folder of another model's run to compare with, or None.
        cooperation: name of the way in which agents cooperate.
        calibration: how scores are scaled, `none`, `temperature` or `isotonic`.
        calibrate_on: the frames a calibration is fitted to; none of `source`.
        answers: bags of a live run on this source, whose detections are the clean condition.
        sessions: opens what runs a model without graphs.
        draw: whether to draw the report.
    """

    out: Path
    source: Source
    model: Path
    conditions: Sequence[Condition]
    protocol: str | None = None
    workers: int = 1
    baseline: Path | None = None
    cooperation: str = INTERMEDIATE
    calibration: str = calibrators.NONE
    calibrate_on: Source | None = None
    answers: tuple[Path, ...] = ()
    sessions: Sessions | None = None
    draw: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a benchmark found.

    Attributes:
        summary: as it was written.
        evaluation: what it was made from.
    """

    summary: dict[str, Any]
    evaluation: Evaluation


def evaluate(options: Options, console: Console) -> Outcome:
    """Run the benchmark, write what it found and return it.

    Raises:
        ExperimentError: if the folder holds another evaluation, a worker dies, nothing was scored, or a
            calibration would be fitted to what it is judged on.
        EvaluationError: if there is no such protocol, or frames carry no ground truth.
        ModelError: if the model does not load.
        DrawingUnavailableError: if Matplotlib, which draws the report, is not installed.
        CalibrationUnavailableError: if SciPy, which fits a calibration, is not installed.
        KeyboardInterrupt: after all processes have ended; what is done is kept.
    """
    if options.draw:
        # Before the work rather than after it.
        page.require_drawing()
    plan = Plan(
        options.out,
        options.source,
        options.model,
        options.protocol or options.source.protocol,
        options.cooperation,
        options.answers,
        options.sessions,
    )
    calibrators.check_calibration(options.calibration, options.calibrate_on, options.source)
    settle(plan)
    if plan.answers:
        # Bags are read by what a simulated source can do without.
        from diffkd_ros.evaluation.recorded import score_answers

        console.print('scoring the recorded detections', highlight=False)
        score_answers(plan, plan.answers)
    drives = options.source.names()
    conditions, pointless = _conditions(plan, options)
    jobs = make_jobs(plan, conditions, drives)
    card = plan.open().model.card
    console.print(
        f'{card.model_id}, cooperation {plan.cooperation}, protocol {plan.protocol_name}: '
        f'{len(conditions)} conditions on '
        f'{len(drives)} scenarios of {options.source.spec}',
        highlight=False,
        soft_wrap=True,
    )
    calibrator = _fit(plan, options, console)
    _run_with_progress(plan, jobs, options, console)
    kept = usable(plan, drives)
    results = load_results(plan, conditions, kept)
    left_out = {
        'frames': read_left_out(plan, conditions, drives),
        'scenarios': [drive for drive in drives if drive not in kept],
        'conditions': [condition.name for condition in conditions if condition not in results],
        'not_of_this_cooperation': [condition.name for condition in pointless],
    }
    _tell_left_out(left_out, options.out / LEFT_OUT, console)
    evaluation = Evaluation(results, plan.protocol, card.min_score, calibrator=calibrator)
    summary = tables.summarise(evaluation, _about(plan, options, left_out))
    if options.baseline is not None:
        summary['mce'] = tables.mean_corruption_error(summary, options.baseline)
        summary['mce_baseline'] = str(options.baseline)
    tables.write_table(evaluation, options.out / tables.TABLE)
    write_json(options.out / tables.SUMMARY, summary)
    written = [tables.TABLE, tables.SUMMARY]
    if options.draw:
        console.print('drawing the report', highlight=False)
        page.write(options.out / page.REPORT, evaluation, summary, plan)
        written.insert(0, page.REPORT)
    _print(summary, console)
    console.print(
        f'in {options.out}: {", ".join(written)}',
        highlight=False,
        soft_wrap=True,
    )
    return Outcome(summary, evaluation)


def _fit(plan: Plan, options: Options, console: Console) -> calibrators.Calibrator | None:
    """Fit the calibration wanted, if any, to clean frames of its own, run if they were not before."""
    source = options.calibrate_on
    if source is None:
        return None
    folder = re.sub(r'\W+', '_', source.spec if source.split is None else f'{source.spec}_{source.split}')
    own = replace(plan, out=plan.out / 'calibration' / folder, source=source)
    settle(own)
    clean, drives = Condition(CLEAN), source.names()
    console.print(f'calibration {options.calibration} on clean frames of {source.spec}', highlight=False)
    _run_with_progress(own, make_jobs(own, [clean], drives), options, console)
    results = load_results(own, [clean], usable(own, drives))
    if clean not in results:
        raise ExperimentError(f'no frame of {source.spec} could be read, so there is nothing to calibrate on')
    return calibrators.fit(options.calibration, source, results[clean], tables.IOU)


def _run_with_progress(plan: Plan, jobs: Sequence[Job], options: Options, console: Console) -> None:
    if not jobs:
        console.print('every condition was run before', highlight=False)
        return
    frames = {
        number: len(plan.positions(plan.source.scenario(number))) for number in {job.number for job in jobs}
    }
    total = sum(frames[job.number] * len(job.conditions) for job in jobs)
    with Progress(
        TextColumn('{task.description}'),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('left'),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        task = bar.add_task('frames x conditions', total=total)
        run(plan, jobs, options.workers, lambda scored: bar.update(task, completed=scored))


def _conditions(plan: Plan, options: Options) -> tuple[list[Condition], list[Condition]]:
    """The conditions that are run, and those that cannot befall what travels in this cooperation."""
    maps = cooperation_named(plan.cooperation).map_conditions
    possible = [c for c in options.conditions if maps or not c.of_feature_maps]
    return possible, [c for c in options.conditions if c not in possible]


def _tell_left_out(left_out: Mapping[str, Any], path: Path, console: Console) -> None:
    """Say what has no figure, and why; the reasons of all frames go to a file."""
    path.unlink(missing_ok=True)
    if left_out['frames']:
        write_json(path, left_out['frames'])
        key, why = next(iter(left_out['frames'].items()))
        console.print(
            f'{len(left_out["frames"])} times a frame was left out of a condition; the first: {key}: {why}',
            soft_wrap=True,
        )
    for name in left_out['scenarios']:
        console.print(f'{name}: none of its frames can be used, so the scenario is left out', soft_wrap=True)
    for name in left_out['conditions']:
        console.print(f'{name}: a scenario has no frame left, so the condition is not told', soft_wrap=True)
    if left_out['not_of_this_cooperation']:
        console.print(
            f'{", ".join(left_out["not_of_this_cooperation"])}: left out, as no feature maps travel',
            soft_wrap=True,
        )


def _about(plan: Plan, options: Options, left_out: Mapping[str, Any]) -> dict[str, Any]:
    card = plan.open().model.card
    return {
        'model': card.model_id,
        'model_description': card.description,
        'cooperation': plan.cooperation,
        'answers': [str(path) for path in plan.answers],
        'source': options.source.spec,
        'frames_per_scenario': options.source.frames_per_scenario,
        'seeds': sorted({condition.seed for condition in options.conditions}),
        'left_out': left_out,
        'written': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'version': __version__,
    }


def _print(summary: Mapping[str, Any], console: Console) -> None:
    table = Table(title=f'{summary["frames"]} frames, {summary["truths"]} vehicles, AP in percent')
    for column in ('', 'AP@0.5', 'AP@0.7', 'RCE@0.5', 'RCE@0.7'):
        table.add_column(column, justify='right' if column else 'left')

    def line(name: str, figures: Mapping[str, Any]) -> None:
        values = [100 * figures['ap50'], 100 * figures['ap70']]
        values += [figures[key] for key in ('rce_ap50', 'rce_ap70') if key in figures]
        table.add_row(name, *(f'{value:.1f}' for value in values))

    line('clean', summary['clean'])
    line('ego alone', summary['ego_alone'])
    for name, figures in summary['corruptions'].items():
        line(name, figures)
    console.print(table)
    quality = summary['calibration']
    figures_told = [
        f'{summary["link_mbit_s"]:.2f} Mbit/s for each vehicle that sends',
        f'LaECE0 clean {quality["laece0"]:.3f}',
    ]
    if 'scaled' in quality:
        figures_told.append(f'after {quality["scaled"]["method"]} scaling {quality["scaled"]["laece0"]:.3f}')
    console.print(', '.join(figures_told), highlight=False, soft_wrap=True)
    if summary['mrce'] is not None:
        low, high = summary['mrce_interval']
        console.print(
            f'mRCE {summary["mrce"]:.2f} % (95 %: {low:.2f} to {high:.2f}), at IoU 0.5 '
            f'{summary["mrce_ap50"]:.2f} %, at 0.7 {summary["mrce_ap70"]:.2f} %',
            highlight=False,
            soft_wrap=True,
        )
