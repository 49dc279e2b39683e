# SPDX-License-Identifier: Apache-2.0
"""The command `diffkd`: a verb for each job, which reads its options and imports the work when it runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer

app = typer.Typer(
    help='Cooperative LiDAR perception over ROS 2.',
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

data = typer.Typer(help='Data sets on disk.', no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name='data')


@app.callback()
def _diffkd() -> None:
    """Cooperative LiDAR perception over ROS 2."""


def _terminated(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help='Folder for the results.')] = Path('demo'),
    model: Annotated[str, typer.Option(help='Model folder, or the name of a shipped model.')] = 'sim_edge',
    frames: Annotated[int, typer.Option(min=1, help='Frames played in lock-step.')] = 100,
    vehicles: Annotated[int, typer.Option(min=2, max=5, help='Connected vehicles, the ego included.')] = 3,
    seed: Annotated[int, typer.Option(min=0, help='Seed of the simulated traffic.')] = 2_000_000,
    realtime_seconds: Annotated[float, typer.Option(min=0, help='Seconds in real time; 0: none.')] = 20.0,
    rate: Annotated[float, typer.Option(min=1, max=10, help='Frames per second in real time.')] = 5.0,
) -> None:
    """Connected vehicles, each a process, perceive together over ROS 2: table, pictures and rosbag."""
    from rich.console import Console

    from diffkd_ros.demo import DemoError, DemoOptions, run_demo
    from diffkd_ros.evaluation.render import DrawingUnavailableError
    from diffkd_ros.nodes.processes import NodeFailedError
    from diffkd_ros.runtime.card import ModelError
    from diffkd_ros.share import ShareNotFoundError
    from diffkd_ros.sources.rosbag import BagError

    # Whoever ends the demo, its processes end with it.
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    options = DemoOptions(out, model, frames, vehicles, seed, realtime_seconds, rate)
    console = Console()
    try:
        run_demo(options, console)
    except KeyboardInterrupt:
        console.print('interrupted; every process has ended')
        raise typer.Exit(130) from None
    except (
        DemoError, NodeFailedError, ModelError, ShareNotFoundError, BagError, DrawingUnavailableError,
    ) as error:  # fmt: skip
        _fail('demo', str(error))


@app.command()
def train(
    recipe: Annotated[
        Path | None, typer.Argument(help='Recipe file; the shipped sim_edge by default.')
    ] = None,
    out: Annotated[Path | None, typer.Option(help='Folder for the run; runs/<recipe> by default.')] = None,
    threads: Annotated[int, typer.Option(min=0, help='CPU threads; 0: one a core.')] = 0,
) -> None:
    """Train a model by its recipe, score it on held-out scenarios and export its folder."""
    from diffkd_ros.share import share_directory
    from diffkd_ros.training.recipe import RecipeError, load_recipe

    try:
        from diffkd_ros.export.model_folder import write_model_folder
        from diffkd_ros.training.checkpoint import CheckpointError
        from diffkd_ros.training.loop import train as run_training
    except ModuleNotFoundError as error:
        _fail('train', f"{error.name} is missing: install the package's train extra")
    path = recipe or share_directory() / 'config' / 'train' / 'sim_edge.yaml'
    try:
        loaded = load_recipe(path)
        run = out or Path('runs') / loaded.name
        trained = run_training(loaded, run, threads or os.cpu_count() or 1)
    except (RecipeError, CheckpointError) as error:
        _fail('train', str(error))
    folder = run / loaded.name
    write_model_folder(
        trained.student, folder, loaded.description, loaded.min_score, trained.training, trained.results
    )
    typer.echo(f'model folder: {folder}')


@app.command()
def bench(
    model: Annotated[str, typer.Option(help='Model folder, or the name of a shipped model.')] = 'sim_edge',
    threads: Annotated[int, typer.Option(min=1, help='CPU threads of the inference.')] = 1,
    device: Annotated[str, typer.Option(help='cpu, cuda or tensorrt.')] = 'cpu',
    repetitions: Annotated[int, typer.Option(min=1, help='Runs whose median is taken.')] = 30,
    out: Annotated[Path | None, typer.Option(help='JSON file to write as well.')] = None,
) -> None:
    """Time every part on this machine."""
    from diffkd_ros.benchmark import run
    from diffkd_ros.nodes.model_folder import model_folder
    from diffkd_ros.runtime.card import ModelError

    try:
        run(model_folder(model), threads, device, repetitions, out)
    except ModelError as error:
        _fail('bench', str(error))


@data.callback()
def _data() -> None:
    """Data sets on disk."""


@data.command('check')
def data_check(
    folder: Annotated[Path, typer.Argument(help='Root of an OPV2V or DAIR-V2X-C set; the kind is guessed.')],
    workers: Annotated[int, typer.Option(min=0, help='Processes that read; 0: this one.')] = 0,
) -> None:
    """Read all of a data set: what it holds, and which files are broken and why."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

    try:
        from diffkd_ros.sources.check import check
        from diffkd_ros.sources.dataset import DatasetError
    except ModuleNotFoundError as error:
        _fail('data check', f"{error.name} is missing: install the package's data extra")
    console = Console()
    try:
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task('frames', total=None)
            report = check(
                folder,
                on_problem=lambda line: console.print(Text(line), soft_wrap=True),
                on_frame=lambda done, total: progress.update(task, completed=done, total=total),
                workers=workers,
            )
    except DatasetError as error:
        _fail('data check', str(error))
    console.print(
        f'{report.format}: {report.scenarios} scenarios, {report.frames - report.broken_frames} frames, '
        f'{report.agents} agents, {report.sweeps} sweeps, {report.points} points, {report.boxes} boxes',
        highlight=False,
        soft_wrap=True,
    )
    if report.problems:
        _fail('data check', f'{len(report.problems)} problems; {report.broken_frames} frames cannot be used')


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help='Folder for the results; an earlier run there goes on.')],
    source: Annotated[str, typer.Option(help='sim, sim:SEED, opv2v:DIR or dair:DIR.')] = 'sim',
    model: Annotated[
        str,
        typer.Option(help='Model folder, name of a shipped model, or checkpoint.safetensors of a training.'),
    ] = 'sim_edge',
    corruptions: Annotated[
        str, typer.Option(help='all, none, paper, held_out, lidar, pose, link, or names: fog,delay.')
    ] = 'all',
    severity: Annotated[str, typer.Option(help='all, or a list such as 1,3.')] = 'all',
    agents: Annotated[
        str, typer.Option(help='Who is hit: ego, neighbours, all, a list of these, or default.')
    ] = 'default',
    seeds: Annotated[str, typer.Option(help='Realisations of each corruption: 0,1,2.')] = '0',
    profile: Annotated[str, typer.Option(help='Table of levels: graded or lab.')] = 'graded',
    scenarios: Annotated[
        int | None, typer.Option(min=1, help='The first so many; sim: 25, recorded: all by default.')
    ] = None,
    frames_per_scenario: Annotated[
        int | None, typer.Option(min=1, help='Evenly spaced; sim: 2, recorded: all by default.')
    ] = None,
    split: Annotated[str | None, typer.Option(help='Split of a recorded set.')] = None,
    split_file: Annotated[Path | None, typer.Option(help='File that lists the splits of DAIR-V2X.')] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Preset of what is scored; the source's own by default.")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help='Results of another model, for mCE.')] = None,
    workers: Annotated[int, typer.Option(min=0, help='Processes; 0: one a core.')] = 0,
) -> None:
    """Measure a model under corruption of sensors, poses and link: table, summary and report."""
    from rich.console import Console

    from diffkd_ros.corruptions import CorruptionError
    from diffkd_ros.evaluation.average_precision import EvaluationError
    from diffkd_ros.evaluation.render import DrawingUnavailableError
    from diffkd_ros.experiments.conditions import make_conditions
    from diffkd_ros.experiments.drives import Source
    from diffkd_ros.experiments.errors import ExperimentError
    from diffkd_ros.experiments.evaluate import Options
    from diffkd_ros.experiments.evaluate import evaluate as run_evaluation
    from diffkd_ros.nodes.model_folder import model_folder
    from diffkd_ros.runtime.card import ModelError
    from diffkd_ros.share import ShareNotFoundError
    from diffkd_ros.sources.dataset import DatasetError

    # Whoever ends the run, its processes end with it.
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    console = Console()
    try:
        conditions = make_conditions(corruptions, severity, agents, seeds, profile)
        if source.partition(':')[0] == 'sim':
            scenarios, frames_per_scenario = scenarios or 25, frames_per_scenario or 2
        chosen = Source(source, scenarios, frames_per_scenario, split, split_file)
        options = Options(
            out,
            chosen,
            _checkpoint_folder(Path(model), out) if model.endswith('.safetensors') else model_folder(model),
            conditions,
            protocol,
            workers or os.cpu_count() or 1,
            baseline,
        )
        run_evaluation(options, console)
    except KeyboardInterrupt:
        console.print('interrupted; the same command goes on from here')
        raise typer.Exit(130) from None
    except (
        ExperimentError, CorruptionError, EvaluationError, DatasetError, ModelError, ShareNotFoundError,
        DrawingUnavailableError,
    ) as error:  # fmt: skip
        _fail('evaluate', str(error))


def _checkpoint_folder(checkpoint: Path, out: Path) -> Path:
    """A training checkpoint as a model folder below `out`, exported unless that was done before."""
    try:
        from diffkd_ros.export.model_folder import write_model_folder
        from diffkd_ros.training.checkpoint import CheckpointError, load_student
    except ModuleNotFoundError as error:
        _fail('evaluate', f"a checkpoint needs {error.name}: install the package's train extra")
    from diffkd_ros.runtime.card import ModelCard, ModelError, sha256

    try:
        recipe, student = load_student(checkpoint)
    except CheckpointError as error:
        _fail('evaluate', str(error))
    folder, origin = out / 'model' / recipe.name, {'checkpoint_sha256': sha256(checkpoint)}
    try:
        if ModelCard.load(folder).training == origin:
            return folder
    except ModelError:
        pass  # not exported yet
    write_model_folder(student, folder, recipe.description, recipe.min_score, origin, {})
    return folder


def _fail(verb: str, message: str) -> NoReturn:
    typer.echo(f'diffkd {verb}: {message}', err=True)
    raise typer.Exit(1)


def main() -> None:
    """Entry point."""
    app()


if __name__ == '__main__':
    main()
