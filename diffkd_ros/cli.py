# SPDX-License-Identifier: Apache-2.0
"""The command `diffkd`: a verb for each job, which reads its options and imports the work when it runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from diffkd_ros.evaluation.model import Sessions
    from diffkd_ros.frame import CoopFrame

app = typer.Typer(
    help='Cooperative LiDAR perception over ROS 2.',
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

data = typer.Typer(help='Data sets on disk.', no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name='data')
bag = typer.Typer(help='Recordings, without ROS.', no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bag, name='bag')


@app.callback()
def _diffkd() -> None:
    """Cooperative LiDAR perception over ROS 2."""


def _terminated(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _end_in_order() -> None:
    """Terminate child processes on SIGTERM and SIGHUP too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Under nohup SIGHUP is ignored, and stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminated)


@contextmanager
def _counting_frames(console: Console, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; yields what is told the number of frames done and, once known, of all."""
    from rich.progress import Progress

    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task('frames', total=total)
        yield lambda done, of: progress.update(task, completed=done, total=of)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help='Folder for the results; its bag, logs and pictures are replaced.')
    ] = Path('demo'),
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
    from diffkd_ros.errors import DiffkdError
    from diffkd_ros.evaluation.report.scene import DrawingUnavailableError
    from diffkd_ros.runtime.card import ModelError
    from diffkd_ros.share import ShareNotFoundError
    from diffkd_ros.sources.dataset import DatasetError

    _end_in_order()
    options = DemoOptions(out, model, frames, vehicles, seed, realtime_seconds, rate)
    console = Console()
    try:
        run_demo(options, console)
    except KeyboardInterrupt:
        console.print('interrupted; every process has ended')
        raise typer.Exit(130) from None
    except (
        DemoError, DiffkdError, ModelError, ShareNotFoundError, DatasetError, DrawingUnavailableError,
    ) as error:  # fmt: skip
        _fail('demo', str(error))


@app.command('demo-carla')
def demo_carla(
    out: Annotated[Path, typer.Option(help='Folder for the results; its logs are replaced.')] = Path(
        'demo-carla'
    ),
    model: Annotated[str, typer.Option(help='Model folder, or the name of a shipped model.')] = 'sim_edge',
    frames: Annotated[int, typer.Option(min=1, help='Steps of the world.')] = 60,
    vehicles: Annotated[int, typer.Option(min=2, max=5, help='Connected vehicles, the ego included.')] = 3,
    seed: Annotated[int, typer.Option(min=0, help='Seed of the simulated traffic.')] = 2_000_000,
) -> None:
    """The co-simulation with CARLA, end to end on a stand-in for its server: table and logs."""
    from rich.console import Console

    from diffkd_ros.demo import DemoError
    from diffkd_ros.demo.carla import CarlaDemoOptions, run_carla_demo
    from diffkd_ros.errors import DiffkdError
    from diffkd_ros.runtime.card import ModelError

    _end_in_order()
    console = Console()
    try:
        run_carla_demo(CarlaDemoOptions(out, model, frames, vehicles, seed), console)
    except KeyboardInterrupt:
        console.print('interrupted; every process has ended')
        raise typer.Exit(130) from None
    except (DemoError, DiffkdError, ModelError) as error:
        _fail('demo-carla', str(error))


@app.command()
def train(
    recipe: Annotated[
        Path | None, typer.Argument(help='Recipe file; the shipped sim_edge by default.')
    ] = None,
    out: Annotated[Path | None, typer.Option(help='Folder for the run; runs/<recipe> by default.')] = None,
    threads: Annotated[int, typer.Option(min=0, help='CPU threads of a process; 0: one a core.')] = 0,
    accelerator: Annotated[str, typer.Option(help='auto, cpu or gpu.')] = 'auto',
    devices: Annotated[int, typer.Option(min=1, help='Devices of this node.')] = 1,
    nodes: Annotated[int, typer.Option(min=1, help='Nodes; start the command on each by torchrun.')] = 1,
) -> None:
    """Train a model by its recipe, score it on held-out frames and export its folder.

    A run that was stopped goes on where it was.
    """
    from diffkd_ros.share import share_directory
    from diffkd_ros.sources.dataset import DatasetError
    from diffkd_ros.training.recipe import RecipeError, load_recipe

    try:
        from diffkd_ros.export.model_folder import write_model_folder
        from diffkd_ros.model.sparse_encoder import SparseConvolutionError
        from diffkd_ros.training.checkpoint import CheckpointError
        from diffkd_ros.training.loop import Machine
        from diffkd_ros.training.loop import train as run_training
    except ModuleNotFoundError as error:
        _fail('train', f"{error.name} is missing: install the package's train extra")
    path = recipe or share_directory() / 'config' / 'train' / 'sim_edge.yaml'
    try:
        loaded = load_recipe(path)
        run = out or Path('runs') / loaded.name
        machine = Machine(accelerator, devices, nodes, threads or os.cpu_count() or 1)
        trained = run_training(loaded, run, machine)
    except (RecipeError, CheckpointError, DatasetError, SparseConvolutionError) as error:
        _fail('train', str(error))
    if trained is None:
        return  # the first process writes the folder
    folder = run / loaded.name
    write_model_folder(
        trained.student, folder, loaded.description, loaded.decoding, trained.training, trained.results
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
    from diffkd_ros.runtime.card import ModelError
    from diffkd_ros.runtime.model_folder import model_folder

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
    from rich.text import Text

    try:
        from diffkd_ros.sources.check import check
        from diffkd_ros.sources.dataset import DatasetError
    except ModuleNotFoundError as error:
        _fail('data check', f"{error.name} is missing: install the package's data extra")
    console = Console()
    try:
        with _counting_frames(console) as on_frame:
            report = check(
                folder,
                on_problem=lambda line: console.print(Text(line), soft_wrap=True),
                on_frame=on_frame,
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


@bag.callback()
def _bag() -> None:
    """Recordings (rosbag2), without ROS."""


@bag.command('from-sim')
def bag_from_sim(
    out: Annotated[Path, typer.Argument(help='Folder of the bag to write; must not exist yet.')],
    drives: Annotated[int, typer.Option(min=1, help='Simulated drives.')] = 3,
    frames_per_drive: Annotated[int, typer.Option(min=1, max=300, help='Frames of each, 10 a second.')] = 200,
    vehicles: Annotated[int, typer.Option(min=1, max=5, help='Connected vehicles, the ego included.')] = 3,
    seed: Annotated[int, typer.Option(min=0, help='Seed of the simulated traffic.')] = 0,
) -> None:
    """Write simulated drives as a rosbag2."""
    from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

    config = SimulatorConfig(agents=vehicles, frames_per_scenario=frames_per_drive)
    frames = Simulator(config, seed).frames(range(drives))
    _write_bag('from-sim', out, frames, drives * frames_per_drive)


@bag.command('from-opv2v')
def bag_from_opv2v(
    folder: Annotated[Path, typer.Argument(help='Root of an OPV2V set.')],
    out: Annotated[Path, typer.Argument(help='Folder of the bag to write; must not exist yet.')],
    split: Annotated[str | None, typer.Option(help='Split of the set; all by default.')] = None,
) -> None:
    """Write an OPV2V set as a rosbag2, one drive after the other."""
    from diffkd_ros.sources.dataset import DatasetError, readable_frames
    from diffkd_ros.sources.opv2v import Opv2vDataset

    try:
        dataset = Opv2vDataset(folder, split=split)
    except DatasetError as error:
        _fail('bag from-opv2v', str(error))
    _write_bag('from-opv2v', out, readable_frames(dataset), len(dataset))


@bag.command('from-dair')
def bag_from_dair(
    folder: Annotated[Path, typer.Argument(help='Root of a DAIR-V2X-C set.')],
    out: Annotated[Path, typer.Argument(help='Folder of the bag to write; must not exist yet.')],
    split: Annotated[str | None, typer.Option(help='Split of the set; all by default.')] = None,
    split_file: Annotated[Path | None, typer.Option(help='File that lists the splits.')] = None,
) -> None:
    """Write a DAIR-V2X-C set as a rosbag2, one drive after the other."""
    from diffkd_ros.sources.dair_v2x import DairV2xDataset
    from diffkd_ros.sources.dataset import DatasetError, readable_frames

    try:
        dataset = DairV2xDataset(folder, split_file, split)
    except DatasetError as error:
        _fail('bag from-dair', str(error))
    _write_bag('from-dair', out, readable_frames(dataset), len(dataset))


@bag.command('page')
def bag_page(
    recording: Annotated[list[Path], typer.Argument(help='Bag, or several that are read as one.')],
    out: Annotated[Path, typer.Option(help='HTML file to write.')] = Path('page.html'),
    frames: Annotated[int, typer.Option(min=1, max=5000, help='At most so many, evenly spaced.')] = 600,
) -> None:
    """Draw a recording as one HTML page: the scene from above, gate weights and latency over time."""
    from rich.console import Console

    from diffkd_ros.share import ShareNotFoundError

    try:
        from diffkd_ros.bags.page import write_page
        from diffkd_ros.sources.dataset import DatasetError
    except ModuleNotFoundError as error:
        _fail('bag page', f"{error.name} is missing: install the package's data extra")
    console = Console()
    try:
        with _counting_frames(console) as on_frame:
            page = write_page(recording, out, frames, on_frame)
    except (DatasetError, ShareNotFoundError, OSError) as error:
        _fail('bag page', str(error))
    console.print(
        f'{out}: {page.frames} frames, {page.answered} with detections, {page.megabytes:.1f} MB',
        highlight=False,
        soft_wrap=True,
    )


def _write_bag(verb: str, out: Path, frames: Iterable[CoopFrame], total: int) -> None:
    from rich.console import Console

    from diffkd_ros.share import ShareNotFoundError

    try:
        from diffkd_ros.bags.convert import write_bag
        from diffkd_ros.bags.writer import BagError
    except ModuleNotFoundError as error:
        _fail(f'bag {verb}', f"{error.name} is missing: install the package's data extra")
    console = Console()
    try:
        with _counting_frames(console, total) as on_frame:
            written = write_bag(frames, out, lambda count: on_frame(count, total))
    except (BagError, ShareNotFoundError) as error:
        _fail(f'bag {verb}', str(error))
    console.print(
        f'{out}: {written.frames} of {total} frames, {written.scenarios} drives, '
        f'{len(written.agents)} agents, {written.messages} messages',
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help='Folder for the results; an earlier run there goes on.')],
    source: Annotated[str, typer.Option(help='sim, sim:SEED, opv2v:DIR, dair:DIR or bag:FILE.')] = 'sim',
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
    cooperation: Annotated[
        str, typer.Option(help='What travels: intermediate (features), late (boxes), early (points), none.')
    ] = 'intermediate',
    calibration: Annotated[
        str, typer.Option(help='Scaling of the scores, told beside them: none, temperature or isotonic.')
    ] = 'none',
    calibrate_on: Annotated[
        str | None, typer.Option(help='Source whose clean frames it is fitted to, sim:4 say; never --source.')
    ] = None,
    calibrate_split: Annotated[
        str | None, typer.Option(help='Split of that source; another than --split of the same set.')
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help='Bag of a live run on this source: its detections are scored as the clean ones.'),
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help='Results of another model, for mCE.')] = None,
    workers: Annotated[int, typer.Option(min=0, help='Processes; 0: one a core.')] = 0,
) -> None:
    """Measure a model under corruption of sensors, poses and link: table, summary and report."""
    from rich.console import Console

    from diffkd_ros.corruptions import CorruptionError
    from diffkd_ros.evaluation.conditions import make_conditions
    from diffkd_ros.evaluation.drives import Source
    from diffkd_ros.evaluation.errors import ExperimentError
    from diffkd_ros.evaluation.evaluate import Options
    from diffkd_ros.evaluation.evaluate import evaluate as run_evaluation
    from diffkd_ros.evaluation.report.scene import DrawingUnavailableError
    from diffkd_ros.metrics.average_precision import EvaluationError
    from diffkd_ros.metrics.calibration import CalibrationUnavailableError
    from diffkd_ros.runtime.card import ModelError
    from diffkd_ros.runtime.model_folder import model_folder
    from diffkd_ros.share import ShareNotFoundError
    from diffkd_ros.sources.dataset import DatasetError

    _end_in_order()
    console = Console()
    try:
        conditions = make_conditions(corruptions, severity, agents, seeds, profile)
        if source.partition(':')[0] == 'sim':
            scenarios, frames_per_scenario = scenarios or 25, frames_per_scenario or 2
        chosen = Source(source, scenarios, frames_per_scenario, split, split_file)
        fitted_on = None
        if calibrate_on is not None:
            # As many frames; a set's file of splits lists those of this set too.
            file = split_file if calibrate_split else None
            fitted_on = Source(calibrate_on, scenarios, frames_per_scenario, calibrate_split, file)
        folder = (
            _checkpoint_folder(Path(model), out) if model.endswith('.safetensors') else model_folder(model)
        )
        options = Options(
            out,
            chosen,
            folder,
            conditions,
            protocol,
            workers or os.cpu_count() or 1,
            baseline,
            cooperation,
            calibration,
            fitted_on,
            tuple(answers or ()),
            _sessions(folder),
        )
        run_evaluation(options, console)
    except KeyboardInterrupt:
        console.print('interrupted; the same command goes on from here')
        raise typer.Exit(130) from None
    except (
        ExperimentError, CorruptionError, EvaluationError, DatasetError, ModelError, ShareNotFoundError,
        DrawingUnavailableError, CalibrationUnavailableError,
    ) as error:  # fmt: skip
        _fail('evaluate', str(error))


@app.command()
def evidence(
    plan: Annotated[Path | None, typer.Argument(help='Plan; the shipped one by default.')] = None,
    out: Annotated[Path, typer.Option(help='Folder for the experiment; an earlier run goes on.')] = Path(
        'runs/evidence'
    ),
    workers: Annotated[int, typer.Option(min=0, help='Processes; 0: one a core.')] = 0,
) -> None:
    """Train every variant of a plan, measure all alike, and put them into one table."""
    from rich.console import Console

    from diffkd_ros.evaluation.errors import ExperimentError
    from diffkd_ros.evaluation.report.scene import DrawingUnavailableError
    from diffkd_ros.share import share_directory
    from diffkd_ros.training.recipe import RecipeError

    try:
        from diffkd_ros.evidence.plan import EvidenceError
        from diffkd_ros.evidence.run import run_experiment
    except ModuleNotFoundError as error:
        _fail('evidence', f"{error.name} is missing: install the package's train extra")
    _end_in_order()
    path = plan or share_directory() / 'config' / 'evidence.yaml'
    try:
        run_experiment(path, out, workers or os.cpu_count() or 1, Console())
    except KeyboardInterrupt:
        typer.echo('interrupted; the same command goes on from here')
        raise typer.Exit(130) from None
    except (EvidenceError, RecipeError, ExperimentError, DrawingUnavailableError) as error:
        _fail('evidence', str(error))


def _checkpoint_folder(checkpoint: Path, out: Path) -> Path:
    """A training checkpoint as a model folder below `out`, exported unless that was done before."""
    try:
        from diffkd_ros.export.model_folder import holds_export, write_model_folder
        from diffkd_ros.model.sparse_encoder import SparseConvolutionError
        from diffkd_ros.training.checkpoint import CheckpointError, load_student
    except ModuleNotFoundError as error:
        _fail('evaluate', f"a checkpoint needs {error.name}: install the package's train extra")
    from diffkd_ros.runtime.card import sha256

    try:
        recipe, student = load_student(checkpoint)
    except (CheckpointError, SparseConvolutionError) as error:
        _fail('evaluate', str(error))
    folder, origin = out / 'model' / recipe.name, {'checkpoint_sha256': sha256(checkpoint)}
    if not holds_export(folder, origin):
        write_model_folder(student, folder, recipe.description, recipe.decoding, origin, {})
    return folder


def _sessions(folder: Path) -> Sessions | None:
    """What runs a model that has no graphs; None for one that has."""
    from diffkd_ros.runtime.card import ModelCard

    if ModelCard.load(folder).runtime == 'onnx':
        return None
    try:
        from diffkd_ros.export.torch_sessions import torch_sessions
    except ModuleNotFoundError as error:
        _fail(
            'evaluate', f"{folder} runs in torch: {error.name} is missing: install the package's train extra"
        )
    return torch_sessions


def _fail(verb: str, message: str) -> NoReturn:
    typer.echo(f'diffkd {verb}: {message}', err=True)
    raise typer.Exit(1)


def main() -> None:
    """Entry point."""
    app()


if __name__ == '__main__':
    main()
