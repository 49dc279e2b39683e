# SPDX-License-Identifier: Apache-2.0
"""`diffkd bench-opencda`: duration of the steps of OpenCDA's loop, with and without the adapter."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from diffkd_ros.cosim import graph as cosim_graph
from diffkd_ros.cosim.opencda import diffkd_opencda
from diffkd_ros.demo.progress import waiting
from diffkd_ros.demo.set_up import node_environment, prepared_folder
from diffkd_ros.errors import DiffkdError, require
from diffkd_ros.launching import graph
from diffkd_ros.launching.processes import NodeGroup, in_child
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.runtime.model_folder import model_folder
from diffkd_ros.share import share_directory

RESULT = 'times.json'
_EGO = 1
_START_TIMEOUT = 120.0
# Read by the timed loop, which runs in OpenCDA's interpreter.
_DEFAULTS = 'opencda/scenario_testing/config_yaml/default.yaml'
_TITLES = {'cooperative': 'adapter', 'server': 'ground truth'}


@dataclass(frozen=True)
class OpencdaBench:
    """What is timed.

    Attributes:
        checkout: folder of OpenCDA.
        python: its interpreter.
        model: folder or shipped name.
        device: of the model.
        steps: timed steps with the adapter, and as many without.
        warm_up: steps of each before them.
        server: host:port of a CARLA server; empty: the stand-in.
    """

    checkout: Path
    python: Path
    model: str = 'sim_edge'
    device: str = 'cpu'
    steps: int = 100
    warm_up: int = 20
    server: str = ''

    def run(self, counts: Sequence[int], out: Path, console: Console) -> dict[str, Any]:
        """Time the loop for each number of connected vehicles, print a table and write `times.json`.

        Args:
            counts: numbers of connected vehicles, including the ego.
            out: folder for the results; replaces those of an earlier run.
            console: for progress and the table.

        Returns:
            Number of vehicles -> what `diffkd_opencda.timing` has written, without the single steps.

        Raises:
            ModelError: if the model folder is missing or does not match its card.
            DiffkdError: if the folder is not a checkout of OpenCDA, or a process fails.
            MissingExtra: if the stand-in's msgpack is not installed.
        """
        if not self.server:
            require('msgpack')
        model = model_folder(self.model)
        if not (self.checkout / _DEFAULTS).is_file():
            raise DiffkdError(f'{self.checkout} is not a checkout of OpenCDA: it has no {_DEFAULTS}')
        out = prepared_folder(out, ('logs', RESULT))
        results = {}
        for count in counts:
            with waiting(console, f'{count} vehicles'):
                results[str(count)] = self._time(count, model, out / 'logs' / str(count))
        write_json(out / RESULT, results)
        console.print(_table(results))
        return results

    def _time(self, count: int, model: Path, logs: Path) -> dict[str, Any]:
        logs.mkdir()
        agents = list(range(1, count + 1))
        files = [share_directory() / 'config' / name for name in ('coop.yaml', 'cosim/opencda.yaml')]
        with contextlib.ExitStack() as stack:
            server = self.server or stack.enter_context(_stand_in(count))
            nodes = stack.enter_context(NodeGroup(files, logs, node_environment(logs)))
            parameters = {'model': str(model), 'device': self.device, 'use_sim_time': True}
            for spec in graph.vehicle_specs(agents, _EGO, parameters):
                nodes.start(spec)
            # A busy machine must not make a step fail.
            served = {'port': 0, 'vehicles': agents, 'ego': _EGO, 'ego_timeout': 30.0}
            gateway = nodes.start(cosim_graph.gateway_spec(served))
            nodes.wait_ready(_START_TIMEOUT)
            self._run_loop(count, gateway.latest.rpartition(' ')[2], server, logs)
            nodes.check()
        result = json.loads((logs / RESULT).read_text())
        del result['rows']
        return result

    def _run_loop(self, count: int, gateway: str, server: str, logs: Path) -> None:
        """Run the loop in OpenCDA's interpreter.

        Raises:
            DiffkdError: if it fails.
        """
        adapter = Path(diffkd_opencda.__path__[0]).resolve()
        host, _, port = server.rpartition(':')
        options = {
            'scenario': share_directory() / 'config' / 'cosim' / 'opencda_scenario.yaml',
            'vehicles': count, 'gateway': gateway, 'host': host, 'port': port,
            'steps': self.steps, 'warm-up': self.warm_up, 'out': logs / RESULT,
        }  # fmt: skip
        command = [str(self.python), '-m', f'{adapter.name}.timing', str(self.checkout.resolve())]
        command += [f'--{name}={value}' for name, value in options.items()]
        with (logs / 'opencda.log').open('w') as log:
            done = subprocess.run(
                command,
                cwd=logs,
                env=_environment(adapter.parent),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                preexec_fn=in_child,
                check=False,
            )
        if done.returncode or not (logs / RESULT).exists():
            last = ''.join((logs / 'opencda.log').read_text(errors='replace').splitlines(keepends=True)[-10:])
            raise DiffkdError(f'the loop of OpenCDA ended with code {done.returncode}:\n{last}')


def _environment(adapter: Path) -> dict[str, str]:
    """Environment of OpenCDA's interpreter: that of this process, with the adapter's folder."""
    path = os.pathsep.join(part for part in (str(adapter), os.environ.get('PYTHONPATH', '')) if part)
    return {**os.environ, 'PYTHONPATH': path}


@contextlib.contextmanager
def _stand_in(count: int) -> Iterator[str]:
    """The stand-in for a CARLA server with standing vehicles; returns its host:port."""
    from diffkd_ros.cosim.testing.process import StandInProcess

    options = ('--street', '--own-body', '--carla-intensity', '--vehicles', str(count))
    with StandInProcess(*options) as server:
        yield f'127.0.0.1:{server.port}'


def _table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    first = next(iter(results.values()))
    steps, step = first['cooperative']['steps'], first['step_s']
    table = Table(
        title=f'milliseconds, median of {steps} steps of {step:g} s; {first["processors"]} processors'
    )
    columns = ['vehicles', 'objects from', *first['cooperative']['milliseconds']]
    for name in (*columns, 'step', 'steps/s', 'x real time', 'objects', 'load'):
        table.add_column(name, justify='right')
    for count, result in results.items():
        for kind, title in _TITLES.items():
            row = result[kind]
            table.add_row(
                count,
                title,
                *(f'{value:.1f}' for value in (*row['milliseconds'].values(), row['step_ms'])),
                f'{row["steps_per_second"]:.1f}',
                f'{row["times_real_time"]:.2f}',
                f'{row["vehicles"]:g}',
                ' to '.join(f'{load[0]:.1f}' for load in result['load_average']),
            )
    return table
