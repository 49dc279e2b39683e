# SPDX-License-Identifier: Apache-2.0
"""The whole experiment: train, measure, tell."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from diffkd_ros.evaluation.report.page import require_drawing
from diffkd_ros.evidence import plots
from diffkd_ros.evidence.compare import compare_rows
from diffkd_ros.evidence.measure import measure_reliability, measure_rows, measure_steps
from diffkd_ros.evidence.plan import load_experiment
from diffkd_ros.evidence.table import gather, markdown
from diffkd_ros.evidence.train import train_all
from diffkd_ros.metrics.result_file import write_json

EVIDENCE = 'evidence.json'
TABLES = 'evidence.md'


def run_experiment(path: Path, out: Path, workers: int, console: Console) -> None:
    """Run a plan and write `evidence.json`, the same as Markdown, and pictures.

    Everything is kept: run again, it goes on where it was.

    Args:
        path: of the plan.
        out: folder for everything.
        workers: processes.
        console: told how it goes.

    Raises:
        EvidenceError: if the plan is not valid or a training fails.
        RecipeError: if the base recipe is not valid.
        ExperimentError: if a measurement fails.
        DrawingUnavailableError: if Matplotlib is not installed.
    """
    # Before the work rather than after it.
    require_drawing()
    # Recipes hold the place of the checkpoint they start from, which should not depend on how it is spelt.
    out = out.resolve()
    experiment = load_experiment(path, out)
    train_all(experiment, out, workers, console)
    rows = measure_rows(experiment, out, workers, console)
    evidence = gather(
        experiment,
        {name: row.summary for name, row in rows.items()},
        compare_rows({name: row.evaluation for name, row in rows.items()}, experiment.plan.subject),
        measure_reliability(experiment, out, workers, console),
        measure_steps(experiment, out, workers, console),
    )
    write_json(out / EVIDENCE, evidence)
    # As it was written: the tables in the documentation are made from the file alone.
    evidence = json.loads((out / EVIDENCE).read_text())
    (out / TABLES).write_text(markdown(evidence))
    plots.draw(evidence, out)
    console.print(f'in {out}: {EVIDENCE}, {TABLES}', highlight=False)
