# SPDX-License-Identifier: Apache-2.0
"""The whole benchmark: runs what is missing, then writes table, summary and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from diffkd_ros.evaluation.frame_results import FrameResults
from diffkd_ros.evaluation.result_file import write_json
from diffkd_ros.experiments import report, tables
from diffkd_ros.experiments.conditions import Condition
from diffkd_ros.experiments.drives import Source
from diffkd_ros.experiments.measures import Evaluation
from diffkd_ros.experiments.run import Job, Plan, load_results, make_jobs, read_left_out, run, settle


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
    """

    out: Path
    source: Source
    model: Path
    conditions: Sequence[Condition]
    protocol: str | None = None
    workers: int = 1
    baseline: Path | None = None


def evaluate(options: Options, console: Console) -> dict[str, Any]:
    """Run the benchmark and return the summary it has written.

    Raises:
        ExperimentError: if the folder holds another evaluation, a worker dies, or nothing was scored.
        EvaluationError: if there is no such protocol, or frames carry no ground truth.
        ModelError: if the model does not load.
        DrawingUnavailableError: if Matplotlib, which draws the report, is not installed.
        KeyboardInterrupt: after all processes have ended; what is done is kept.
    """
    # Before the work rather than after it.
    report.require_drawing()
    plan = Plan(options.out, options.source, options.model, options.protocol or options.source.protocol)
    settle(plan)
    drives = options.source.names()
    jobs = make_jobs(plan, options.conditions, drives)
    card = plan.open_model().card
    console.print(
        f'{card.model_id}, protocol {plan.protocol_name}: {len(options.conditions)} conditions on '
        f'{len(drives)} scenarios of {options.source.spec}',
        highlight=False,
        soft_wrap=True,
    )
    _run_with_progress(plan, jobs, options, console)
    results = load_results(plan, options.conditions, drives)
    left_out = _left_out(plan, options.conditions, results)
    _tell_left_out(left_out, console)
    evaluation = Evaluation(results, plan.protocol, card.min_score)
    summary = tables.summarise(evaluation, _about(plan, options, left_out))
    if options.baseline is not None:
        summary['mce'] = tables.mean_corruption_error(summary, options.baseline)
        summary['mce_baseline'] = str(options.baseline)
    tables.write_table(evaluation, options.out / tables.TABLE)
    write_json(options.out / tables.SUMMARY, summary)
    console.print('drawing the report', highlight=False)
    report.write(options.out / report.REPORT, evaluation, summary, plan)
    _print(summary, console)
    console.print(
        f'in {options.out}: {report.REPORT}, {tables.TABLE}, {tables.SUMMARY}',
        highlight=False,
        soft_wrap=True,
    )
    return summary


def _run_with_progress(plan: Plan, jobs: Sequence[Job], options: Options, console: Console) -> None:
    if not jobs:
        console.print('every condition was run before', highlight=False)
        return
    frames = {
        number: len(plan.positions(plan.source.drive(number))) for number in {job.number for job in jobs}
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


def _left_out(
    plan: Plan, conditions: Sequence[Condition], results: Mapping[Condition, FrameResults]
) -> dict[str, Any]:
    """Frames and whole conditions without a figure, with the reasons given."""
    names = {condition.name for condition in conditions}
    reasons = {key: why for key, why in read_left_out(plan).items() if key.split('/')[0] in names}
    return {
        'frames': reasons,
        'conditions': [condition.name for condition in conditions if condition not in results],
    }


def _tell_left_out(left_out: Mapping[str, Any], console: Console) -> None:
    if left_out['frames']:
        key, why = next(iter(left_out['frames'].items()))
        console.print(f'{len(left_out["frames"])} frames left out; the first: {key}: {why}', soft_wrap=True)
    for name in left_out['conditions']:
        console.print(f'{name}: a scenario has no frame left, so the condition is not told', soft_wrap=True)


def _about(plan: Plan, options: Options, left_out: Mapping[str, Any]) -> dict[str, Any]:
    card = plan.open_model().card
    return {
        'model': card.model_id,
        'model_description': card.description,
        'source': options.source.spec,
        'frames_per_scenario': options.source.frames,
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
    if summary['mrce'] is not None:
        low, high = summary['mrce_interval']
        console.print(
            f'mRCE {summary["mrce"]:.2f} % (95 %: {low:.2f} to {high:.2f}), at IoU 0.5 '
            f'{summary["mrce_ap50"]:.2f} %, at 0.7 {summary["mrce_ap70"]:.2f} %; '
            f'LaECE0 clean {summary["calibration"]["laece0"]:.3f}',
            highlight=False,
            soft_wrap=True,
        )
