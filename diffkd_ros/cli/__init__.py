# SPDX-License-Identifier: Apache-2.0
"""The command `diffkd`. Each verb reads its options and imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from diffkd_ros import __version__
from diffkd_ros.blas import use_one_thread
from diffkd_ros.cli import measuring, recordings, running
from diffkd_ros.cli.verbs import group

# Everything is drawn into files. In a notebook this names a backend that the environment of a command may
# lack, and then Matplotlib cannot be imported.
os.environ['MPLBACKEND'] = 'agg'
# Also for the processes that a command starts.
use_one_thread()

app = group('Cooperative LiDAR perception over ROS 2.', name='diffkd')


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f'diffkd {__version__}')
        raise typer.Exit


@app.callback()
def _diffkd(
    version: Annotated[
        bool, typer.Option('--version', callback=_version, is_eager=True, help='Show the version and exit.')
    ] = False,
) -> None:
    """Cooperative LiDAR perception over ROS 2."""


app.command()(running.demo)
app.command('demo-carla')(running.demo_carla)
app.command()(measuring.train)
app.command()(measuring.quantise)
app.command()(running.bench)
app.command('bench-opencda')(running.bench_opencda)
app.command('compile')(running.compile_kernels)
app.command()(measuring.evaluate)
app.command()(measuring.evidence)
app.add_typer(recordings.data, name='data')
app.add_typer(recordings.bag, name='bag')


def main() -> None:
    """Entry point."""
    # Names of files may hold bytes, and the terminal an encoding, that cannot represent every character.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    app(prog_name='diffkd')
