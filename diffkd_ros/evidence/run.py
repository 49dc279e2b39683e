# SPDX-License-Identifier: Apache-2.0
"""Runs an experiment: trains, measures, writes the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console

from diffkd_ros.errors import require
from diffkd_ros.evidence import link_plots, plots
from diffkd_ros.evidence.cost import announcement
from diffkd_ros.evidence.link_plan import is_link_study, load_link_study
from diffkd_ros.evidence.link_results import RESULTS
from diffkd_ros.evidence.link_study import gather_link, measure_link
from diffkd_ros.evidence.link_table import link_tables
from diffkd_ros.evidence.measure import Measure, Measurement, measuring
from diffkd_ros.evidence.plan import load_experiment
from diffkd_ros.evidence.results import EVIDENCE, gather
from diffkd_ros.evidence.rows import measure_rows
from diffkd_ros.evidence.table import markdown
from diffkd_ros.evidence.train import train_all, unfinished
from diffkd_ros.evidence.trainings import Experiment, PlanT
from diffkd_ros.files import results_folder, write_text
from diffkd_ros.workers import HERE, Workers

Measured = TypeVar('Measured')

TABLES = 'evidence.md'
LINK_TABLES = 'link.md'


def run_experiment(
    path: Path,
    out: Path,
    cores: int,
    console: Console,
    rows: Sequence[str] = (),
    workers: Workers = HERE,
) -> None:
    """Run a plan and write `evidence.json` or, of a study of the link, `link.json`, tables, and pictures.

    All intermediate results are kept: a later run in the same folder continues.

    Args:
        path: of the plan.
        out: folder for all results.
        cores: for the trainings.
        console: for progress messages.
        rows: run only what concerns these rows, or curves, arms and parts; all by default.
        workers: which run the jobs of the measurements.

    Raises:
        DiffkdError: if the plan is not valid, a source cannot be opened, results cannot be written, or a
            training fails.
        RecipeError: if the base recipe is not valid.
        EvaluationError: if a measurement fails.
        MissingExtra: if Matplotlib is not installed.
    """
    # Fail before the work rather than after it.
    require('matplotlib')
    # Recipes contain the path of the checkpoint they start from, which must not depend on its spelling.
    out = out.resolve()
    if is_link_study(path):
        study = load_link_study(path, out, rows)
        results = gather_link(study.plan, _carry_out(study, measure_link, out, cores, console, workers))
        results.write(out)
        write_text(out / LINK_TABLES, link_tables(results))
        link_plots.draw(results, out)
        console.print(f'in {out}: {RESULTS}, {LINK_TABLES}', highlight=False)
        return
    experiment = load_experiment(path, out, rows)
    evidence = gather(experiment.plan, _carry_out(experiment, measure_rows, out, cores, console, workers))
    evidence.write(out)
    write_text(out / TABLES, markdown(evidence))
    plots.draw(evidence, out)
    console.print(f'in {out}: {EVIDENCE}, {TABLES}', highlight=False)


def _carry_out(
    experiment: Experiment[PlanT],
    measure_all: Callable[[Experiment[PlanT], Path, Measure], Measured],
    out: Path,
    cores: int,
    console: Console,
    workers: Workers,
) -> Measured:
    """Say what is to be done, train, and measure."""
    results_folder(out)
    jobs = unfinished(experiment, out)
    planned: list[Measurement] = []
    measure_all(experiment, out, planned.append)
    missing = [each for each in planned if each.asked and not each.measured()]
    for line in announcement(jobs, missing, cores, torch.cuda.is_available(), workers.number):
        console.print(line, highlight=False, soft_wrap=True)
    train_all(jobs, out, cores, console)
    return measure_all(experiment, out, measuring(out, workers, console))
