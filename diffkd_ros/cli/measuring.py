# SPDX-License-Identifier: Apache-2.0
"""Verbs that make and measure models: train, quantise, evaluate, evidence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from diffkd_ros.cli.recordings import (
    SOURCES,
    Intensities,
    Labels,
    Mountings,
    Pose,
    Split,
    SplitFile,
    Topics,
)
from diffkd_ros.cli.verbs import all_cores, interruptible, share_cores
from diffkd_ros.errors import DiffkdError, require

if TYPE_CHECKING:
    from diffkd_ros.attacks.statement import Optimiser
    from diffkd_ros.evaluation.model import Sessions
    from diffkd_ros.workers import Workers

Processes = Annotated[int, typer.Option(min=0, help='Processes; 0: one per core that may be used.')]
Cluster = Annotated[
    str | None,
    typer.Option(
        help='Dask cluster whose workers measure: address (tcp://HOST:8786) or file of its scheduler.'
    ),
]

_NO_CORRUPTIONS = 'all', 'default', 'graded', 'none', None, None, None
_RESUMES = 'the same command continues from here'


def train(
    recipe: Annotated[
        Path | None, typer.Argument(help='Recipe file; the shipped sim_edge by default.')
    ] = None,
    out: Annotated[Path | None, typer.Option(help='Folder for the run; runs/<recipe> by default.')] = None,
    threads: Annotated[int, typer.Option(min=0, help='CPU threads per process; 0: one per core.')] = 0,
    accelerator: Annotated[str, typer.Option(help='auto, cpu or gpu.')] = 'auto',
    devices: Annotated[int, typer.Option(min=1, help='Devices of this node.')] = 1,
    nodes: Annotated[int, typer.Option(min=1, help='Nodes; start the command on each by torchrun.')] = 1,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that make samples; the recipe's number by default.")
    ] = None,
    initial: Annotated[
        Path | None, typer.Option(help="Checkpoint to start from, in place of the recipe's `initial`.")
    ] = None,
) -> None:
    """Train a model by a recipe, score it on held-out frames and export its folder.

    A run that was stopped continues where it was.
    """
    share_cores()
    from diffkd_ros.export.model_folder import write_model_folder
    from diffkd_ros.share import share_directory
    from diffkd_ros.training.loop import train as run_training
    from diffkd_ros.training.machine import Machine
    from diffkd_ros.training.recipe import load_recipe

    loaded = load_recipe(recipe or share_directory() / 'config' / 'train' / 'sim_edge.yaml')
    if initial is not None:
        loaded = loaded.model_copy(update={'initial': str(initial.resolve())})
    run = out or Path('runs') / loaded.name
    trained = run_training(loaded, run, Machine(accelerator, devices, nodes, all_cores(threads), workers))
    if trained is None:
        return  # the first process writes the folder
    folder = run / loaded.name
    write_model_folder(
        trained.student, folder, loaded.description, loaded.decoding, trained.training, trained.results
    )
    typer.echo(f'model folder: {folder}')


def quantise(
    out: Annotated[Path, typer.Option(help='Model folder to write; the files in it are replaced.')],
    model: Annotated[str, typer.Option(help='Model folder, or the name of a shipped model.')] = 'sim_edge',
) -> None:
    """Write a copy of a model whose encoder has 8-bit convolutions, for CPUs that compute these faster.

    Ranges of values follow from training samples of its recipe. Measure it with `diffkd evaluate --model`.
    """
    require('torch', 'onnx')
    share_cores()
    from diffkd_ros.export.quantise import quantise_model
    from diffkd_ros.runtime.card import ModelCard
    from diffkd_ros.runtime.model_folder import model_folder
    from diffkd_ros.training.calibration import calibration_clouds, recipe_of

    card = ModelCard.load(model_folder(model))
    recipe = recipe_of(card)
    origin = f'the training samples of {recipe.name}'
    written = quantise_model(card, out, partial(calibration_clouds, recipe), origin)
    typer.echo(f'{out}: {written.model_id}')


def evaluate(
    out: Annotated[Path, typer.Option(help='Folder for the results; an earlier run there is continued.')],
    source: Annotated[str, typer.Option(help=SOURCES)] = 'sim',
    model: Annotated[
        str,
        typer.Option(help='Model folder, name of a shipped model, or checkpoint.safetensors of a training.'),
    ] = 'sim_edge',
    corruptions: Annotated[
        str, typer.Option(help='all, none, paper, held_out, lidar, pose, link, or names: fog,delay.')
    ] = 'all',
    severity: Annotated[str, typer.Option(help='all, or a list such as 1,3.')] = 'all',
    agents: Annotated[
        str, typer.Option(help='Agents corrupted: ego, neighbours, all, a list of these, or default.')
    ] = 'default',
    seeds: Annotated[str, typer.Option(help='Realisations of each corruption: 0,1,2.')] = '0',
    profile: Annotated[str, typer.Option(help='Table of severity levels: graded or lab.')] = 'graded',
    scenarios: Annotated[
        int | None, typer.Option(min=1, help='The first so many; by default 25 of sim, all of a recording.')
    ] = None,
    frames_per_scenario: Annotated[
        int | None, typer.Option(min=1, help='Evenly spaced; by default 2 of sim, all of a recording.')
    ] = None,
    split: Split = None,
    split_file: SplitFile = None,
    labels: Labels = None,
    pose: Pose = None,
    topic: Topics = None,
    base_to_lidar: Mountings = None,
    intensity_scale: Intensities = None,
    protocol: Annotated[
        str | None, typer.Option(help="Evaluation protocol; the source's own by default.")
    ] = None,
    cooperation: Annotated[
        str | None,
        typer.Option(
            help='Sent content: intermediate (maps), late (boxes), voted (boxes on which two agree), early '
            '(points), layered (boxes and codes), none. By default what the nodes send with this model: '
            'layers if it can, else whole maps.'
        ),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=0, help='Most bytes of a message; layered: 4000 by default.')
    ] = None,
    plausibility: Annotated[
        str | None,
        typer.Option(
            help='Examination of layers: none, sweep (each by itself), or scenario (earlier ones count, too: '
            'the default with --attack).'
        ),
    ] = None,
    calibration: Annotated[
        str,
        typer.Option(help='Scaling of the scores, reported alongside: none, temperature or isotonic.'),
    ] = 'none',
    calibrate_on: Annotated[
        str | None,
        typer.Option(help='Source whose clean frames the scaling is fitted to, e.g. sim:4; not --source.'),
    ] = None,
    calibrate_split: Annotated[
        str | None, typer.Option(help='Split of that source; not --split if it is the same set.')
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help='Bag of a live run on this source: its detections are scored as the clean ones.'),
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help='Results of another model, for mCE.')] = None,
    attack: Annotated[
        str,
        typer.Option(help='Measure lies of neighbours in place of corruptions: all, or names: spoof,noise.'),
    ] = '',
    liars: Annotated[
        str, typer.Option(help='How many of how many neighbours lie, with --attack.')
    ] = '1of2,1of4,2of4',
    attack_checkpoint: Annotated[
        Path | None,
        typer.Option(help='Checkpoint for attacks by gradients; by default --model, if it is one.'),
    ] = None,
    workers: Processes = 0,
    cluster: Cluster = None,
) -> None:
    """Measure a model under corruption of sensors, poses and link; writes a table, a summary and a report.

    With --attack, neighbours lie instead, and trust.json is written.
    """
    require(*([] if attack else ['matplotlib']), *(['scipy'] if calibration != 'none' else []))
    if cluster is not None and workers:
        raise DiffkdError('give either --workers or --cluster')
    from diffkd_ros.evaluation.conditions import make_attacks, make_conditions
    from diffkd_ros.evaluation.cooperations import live_cooperation, plausibility_named
    from diffkd_ros.evaluation.evaluate import evaluate as run_evaluation
    from diffkd_ros.evaluation.plan import Plan
    from diffkd_ros.metrics.average_precision import EvaluationError
    from diffkd_ros.runtime.card import ModelCard
    from diffkd_ros.runtime.model_folder import model_folder
    from diffkd_ros.sources.source import SIMULATOR, Source

    with interruptible(_RESUMES), ExitStack() as stack:
        if attack:
            optimised_by = attack_checkpoint or (Path(model) if model.endswith('.safetensors') else None)
            attacks = make_attacks(attack, liars, seeds, optimised_by is not None)
            of_corruptions = severity, agents, profile, calibration, calibrate_on, answers or None, baseline
            if corruptions not in ('all', 'none') or of_corruptions != _NO_CORRUPTIONS:
                raise EvaluationError(
                    '--attack has no corruptions, severity, agents, profile, calibration, answers or baseline'
                )
        conditions = make_conditions('none' if attack else corruptions, severity, agents, seeds, profile)
        if source.partition(':')[0] == SIMULATOR:
            scenarios, frames_per_scenario = scenarios or 25, frames_per_scenario or 2
        chosen = Source(
            *(source, scenarios, frames_per_scenario, split, split_file, labels, pose),
            topics=tuple(topic or ()),
            base_to_lidar=tuple(base_to_lidar or ()),
            intensity_scale=intensity_scale,
        )
        fitted_on = None
        if calibrate_on is not None:
            # The file lists the splits of this set too.
            file = split_file if calibrate_split else None
            fitted_on = Source(calibrate_on, scenarios, frames_per_scenario, calibrate_split, file)
        # Before the first file is written.
        chosen.names()
        engine = stack.enter_context(_workers(cluster, workers))
        folder = (
            _checkpoint_folder(Path(model), out) if model.endswith('.safetensors') else model_folder(model)
        )
        protocol = protocol or chosen.protocol
        cooperation = cooperation or live_cooperation(ModelCard.load(folder)).name
        recorded, sessions = tuple(answers or ()), _sessions(folder)
        examined = plausibility_named(plausibility, cooperation, 'scenario' if attack else 'sweep')
        plan = Plan(
            *(out, chosen, folder, protocol, cooperation, recorded, sessions, budget), plausibility=examined
        )
        if attack:
            from diffkd_ros.evaluation.trust import evaluate_attacks

            optimiser = None if optimised_by is None else _optimiser(optimised_by, folder)
            evaluate_attacks(replace(plan, optimiser=optimiser), attacks, Console(), engine)
            return
        run_evaluation(plan, conditions, Console(), engine, baseline, calibration, fitted_on)


def evidence(
    plan: Annotated[Path | None, typer.Argument(help='Plan file; the shipped one by default.')] = None,
    out: Annotated[
        Path, typer.Option(help='Folder for the experiment; an earlier run there is continued.')
    ] = Path('runs/evidence'),
    rows: Annotated[
        str, typer.Option(help='Only these rows (curves, arms, parts), in a list, and what they need.')
    ] = '',
    workers: Processes = 0,
    cluster: Cluster = None,
) -> None:
    """Train every variant of a plan, measure all of them alike and write one table."""
    require('torch', 'matplotlib')
    share_cores()
    from diffkd_ros.evidence.run import run_experiment
    from diffkd_ros.share import share_directory

    with interruptible(_RESUMES):
        path = plan or share_directory() / 'config' / 'evidence.yaml'
        chosen = [name.strip() for name in rows.split(',')] if rows else []
        with _workers(cluster, workers) as engine:
            run_experiment(path, out, all_cores(workers), Console(), chosen, engine)


@contextmanager
def _workers(cluster: str | None, processes: int) -> Iterator[Workers]:
    """The workers of a cluster, or else so many processes."""
    from diffkd_ros.workers import LocalWorkers

    if cluster is None:
        yield LocalWorkers(all_cores(processes))
        return
    require('distributed')
    from diffkd_ros.cluster import cluster_workers

    with cluster_workers(cluster) as workers:
        yield workers


def _checkpoint_folder(checkpoint: Path, out: Path) -> Path:
    """Model folder below `out` with the exported checkpoint; exported once."""
    from diffkd_ros.export.model_folder import holds_export, write_model_folder
    from diffkd_ros.runtime.card import sha256
    from diffkd_ros.training.checkpoint import load_student

    recipe, student = load_student(checkpoint)
    folder, origin = out / 'model' / recipe.name, {'checkpoint_sha256': sha256(checkpoint)}
    if not holds_export(folder, origin):
        write_model_folder(student, folder, recipe.description, recipe.decoding, origin, {})
    return folder


def _optimiser(checkpoint: Path, folder: Path) -> Optimiser:
    """Attacks the model of a folder by gradients."""
    require('torch')
    from diffkd_ros.attacks.optimised import CheckpointOptimiser
    from diffkd_ros.runtime.card import ModelCard

    return CheckpointOptimiser.open(checkpoint.resolve(), ModelCard.load(folder))


def _sessions(folder: Path) -> Sessions | None:
    """Runs a model without ONNX graphs; None for a model with graphs."""
    from diffkd_ros.runtime.card import ModelCard

    if ModelCard.load(folder).runtime == 'onnx':
        return None
    from diffkd_ros.export.torch_sessions import torch_sessions

    return torch_sessions
