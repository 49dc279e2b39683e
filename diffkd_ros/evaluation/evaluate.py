# SPDX-License-Identifier: Apache-2.0
"""`diffkd evaluate`: runs the missing conditions, then writes table, summary and report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

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
from diffkd_ros.errors import require
from diffkd_ros.evaluation import calibrators
from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.cooperations import cooperation_named
from diffkd_ros.evaluation.measures import IOU, Evaluation
from diffkd_ros.evaluation.pipeline import HISTORY, Perceiver
from diffkd_ros.evaluation.plan import Plan
from diffkd_ros.evaluation.report import page, tables
from diffkd_ros.evaluation.run import (
    LEFT_OUT,
    load_results,
    make_jobs,
    read_left_out,
    read_parts,
    run,
    settle,
    usable,
)
from diffkd_ros.evaluation.summarise import summarise
from diffkd_ros.evaluation.summary import SUMMARY, LeftOut, LevelMeans, Run, Summary
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.sources.source import Source
from diffkd_ros.workers import HERE, Workers


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results of an evaluation.

    Attributes:
        summary: as written.
        evaluation: the scored frames that it was computed from.
    """

    summary: Summary
    evaluation: Evaluation


def evaluate(
    plan: Plan,
    conditions: Sequence[Condition],
    console: Console,
    workers: Workers = HERE,
    baseline: Path | None = None,
    calibration: str = calibrators.NONE,
    calibrate_on: Source | None = None,
    draw: bool = True,
) -> Outcome:
    """Run the evaluation, write the results and return them.

    Args:
        plan: what is evaluated; an earlier run of it in its folder is continued.
        conditions: from `make_conditions`.
        console: for progress and figures.
        workers: which run the jobs.
        baseline: folder of another model's run to compare with.
        calibration: how scores are scaled, `none`, `temperature` or `isotonic`.
        calibrate_on: frames that the calibration is fitted to; they must not overlap with the plan's.
        draw: whether to draw the report.

    Raises:
        EvaluationError: if the folder holds another evaluation, nothing was scored, or a calibration would be
            fitted to frames that it is evaluated on; if there is no such protocol, or frames carry no ground
            truth.
        DatasetError: if a source cannot be opened.
        DiffkdError: if results cannot be written, or a worker fails.
        ModelError: if the model does not load.
        MissingExtra: if Matplotlib or Jinja2 (for the report) or SciPy (for a calibration) is not installed.
        KeyboardInterrupt: when no local process is left; results that were written are kept.
    """
    if draw:
        # Here and below: fail before anything is written, and before the work.
        require('matplotlib', 'jinja2')
    calibrators.check_calibration(calibration, calibrate_on, plan.source)
    drives = plan.source.names()
    if calibrate_on is not None:
        calibrate_on.names()
    if baseline is not None:
        Summary.read(baseline)
    if plan.answers:
        # Reads bags, which needs an extra.
        from diffkd_ros.evaluation.recorded import score_answers
        from diffkd_ros.sources.bag_files import open_bags

        open_bags(plan.answers).close()
    settle(plan)
    if plan.answers:
        console.print('scoring the recorded detections', highlight=False)
        score_answers(plan, plan.answers)
    cooperation = cooperation_named(plan.cooperation)
    possible = [condition for condition in conditions if cooperation.meets(condition)]
    card = plan.open().model.card
    console.print(
        f'{card.model_id}, cooperation {plan.cooperation}, protocol {plan.protocol_name}: '
        f'{len(possible)} conditions on {len(drives)} scenarios of {plan.source.spec}',
        highlight=False,
        soft_wrap=True,
    )
    history = max(Perceiver(plan.open(), condition).history for condition in possible)
    if history > HISTORY:
        scored = [plan.positions(plan.source.scenario(number)) for number in range(len(drives))]
        early = sum(position < history for positions in scored for position in positions)
        console.print(
            f'earlier sweeps count: up to {history} frames before each scored one are run, too; {early} of '
            f'{sum(map(len, scored))} have fewer before them in their scenario',
            highlight=False,
            soft_wrap=True,
        )
    calibrator = None
    if calibrate_on is not None:
        calibrator = _fit(plan, calibration, calibrate_on, workers, console)
    run_with_progress(plan, possible, drives, workers, console)
    kept = usable(plan, drives)
    results = load_results(plan, possible, kept)
    left_out = LeftOut(
        frames=read_left_out(plan, possible, drives),
        parts=read_parts(plan, drives),
        source=plan.source.remarks(),
        scenarios=[drive for drive in drives if drive not in kept],
        conditions=[condition.name for condition in possible if condition not in results],
        not_of_this_cooperation=[condition.name for condition in conditions if condition not in possible],
    )
    _report_left_out(left_out, plan.out / LEFT_OUT, console)
    evaluation = Evaluation(results, plan.protocol, card.min_score, calibrator=calibrator)
    summary = summarise(evaluation, _about(plan, conditions, left_out))
    if baseline is not None:
        summary = summary.against(baseline)
    tables.write_table(evaluation, plan.out / tables.TABLE)
    summary.write(plan.out)
    written = [tables.TABLE, SUMMARY]
    if draw:
        console.print('drawing the report', highlight=False)
        page.write(plan.out / page.REPORT, evaluation, summary, plan)
        written.insert(0, page.REPORT)
    _print(summary, console)
    console.print(f'in {plan.out}: {", ".join(written)}', highlight=False, soft_wrap=True)
    return Outcome(summary, evaluation)


def _fit(
    plan: Plan, method: str, source: Source, workers: Workers, console: Console
) -> calibrators.Calibrator:
    """Fit the calibration to clean frames of its own source."""
    folder = re.sub(r'\W+', '_', source.spec if source.split is None else f'{source.spec}_{source.split}')
    own = replace(plan, out=plan.out / 'calibration' / folder, source=source)
    clean, drives = Condition(CLEAN), source.names()
    settle(own)
    console.print(f'calibration {method} on clean frames of {source.spec}', highlight=False)
    run_with_progress(own, [clean], drives, workers, console)
    results = load_results(own, [clean], usable(own, drives))
    if clean not in results:
        raise EvaluationError(f'no frame of {source.spec} could be read, so there is nothing to calibrate on')
    return calibrators.fit(method, source, results[clean], IOU)


def run_with_progress(
    plan: Plan, conditions: Sequence[Condition], drives: Sequence[str], workers: Workers, console: Console
) -> None:
    """Run what is missing, with a progress bar."""
    jobs = make_jobs(plan, conditions, drives)
    if not jobs:
        console.print('all conditions were run before', highlight=False)
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
        run(plan, jobs, workers, lambda scored: bar.update(task, completed=scored))


def _report_left_out(left_out: LeftOut, path: Path, console: Console) -> None:
    """Print what was not measured; the reasons of all frames are written to a file."""
    path.unlink(missing_ok=True)
    if left_out.frames:
        write_json(path, left_out.frames)
    for line in left_out.sentences():
        console.print(line, soft_wrap=True)


def _about(plan: Plan, conditions: Sequence[Condition], left_out: LeftOut) -> Run:
    card = plan.open().model.card
    return Run(
        model=card.model_id,
        model_description=card.description,
        cooperation=plan.cooperation,
        answers=[str(path) for path in plan.answers],
        source=plan.source.spec,
        frames_per_scenario=plan.source.frames_per_scenario,
        seeds=sorted({condition.seed for condition in conditions}),
        left_out=left_out,
        written=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        version=__version__,
    )


def _print(summary: Summary, console: Console) -> None:
    table = Table(title=f'{summary.frames} frames, {summary.truths} vehicles, AP in percent')
    for column in ('', 'AP@0.5', 'AP@0.7', 'RCE@0.5', 'RCE@0.7'):
        table.add_column(column, justify='right' if column else 'left')

    def line(name: str, figures: LevelMeans, errors: Sequence[float] = ()) -> None:
        values = [100 * figures.ap50, 100 * figures.ap70, *errors]
        table.add_row(name, *(f'{value:.1f}' for value in values))

    line('clean', summary.clean)
    line('ego alone', summary.ego_alone)
    for name, figures in summary.corruptions.items():
        line(name, figures, (figures.rce_ap50, figures.rce_ap70))
    console.print(table)
    quality = summary.calibration
    lines = [f'{summary.link_mbit_s:.2f} Mbit/s per sending vehicle, LaECE0 clean {quality.laece0:.3f}']
    if quality.scaled is not None:
        lines[0] += f', after {quality.scaled.method} scaling {quality.scaled.laece0:.3f}'
    if summary.mrce_interval is not None:
        low, high = summary.mrce_interval
        lines.append(
            f'mRCE {summary.mrce:.2f} % (95 %: {low:.2f} to {high:.2f}), at IoU 0.5 '
            f'{summary.mrce_ap50:.2f} %, at 0.7 {summary.mrce_ap70:.2f} %'
        )
    for text in lines:
        console.print(text, highlight=False, soft_wrap=True)
