# SPDX-License-Identifier: Apache-2.0
"""The processes of a storm: an ego, two vehicles, a recorder and a sender of sweeps."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffkd_ros.msg import FusionStatus
from inventor import Inventor
from observer import Event, Observer

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import CoopFrame
from diffkd_ros.launching import graph
from diffkd_ros.launching.processes import NodeGroup, NodeProcess, child_environment, in_child
from diffkd_ros.sources.bag_files import open_bags

HERE = Path(__file__).parent
EGO, VEHICLES = 1, (2, 3)
# Bytes of a recording that holds some messages.
_BEGUN = 20_000


@dataclass(frozen=True)
class Recorded:
    """A recording that was ended.

    Attributes:
        by: what ended it.
        messages: that can be read.
        answers: of the ego among them.
        problem: what is wrong with it, or with how the recorder ended; empty if nothing is.
        remarks: of the reader.
    """

    by: str
    messages: int = 0
    answers: int = 0
    problem: str = ''
    remarks: tuple[str, ...] = ()


def read(folder: Path, by: str) -> Recorded:
    """Read a recording with the project's reader."""
    try:
        recording = open_bags([folder])
    except DiffkdError as error:
        return Recorded(by, problem=str(error))
    try:
        messages = answers = 0
        for channel, _, data in recording.messages(recording.channels):
            messages += 1
            # Those of the link are recorded as they are, also what the floods forge.
            if channel.message_type.endswith(FusionStatus.__name__):
                recording.deserialize(data, channel)
                answers += 1
        problem = '' if messages else 'no message can be read'
        return Recorded(by, messages, answers, problem, tuple(recording.remarks))
    except Exception as error:  # no reader may raise anything here
        return Recorded(by, problem=f'{type(error).__name__}: {error}')
    finally:
        recording.close()


class Sender:
    """The process that publishes sweeps; see `sweep_sender`.

    Attributes:
        published: the sweeps of the ego.
        starts: how often it was started.
    """

    def __init__(self, frames: Path, domain: int, rate: float, environment: Mapping[str, str]) -> None:
        command = [sys.executable, HERE / 'sweep_sender.py', '--frames', frames]
        self._command = [*map(str, command), '--domain', str(domain), '--rate', str(rate)]
        self._environment = child_environment(environment)
        self.published: list[Event] = []
        self.starts = 0
        self.start()

    def start(self) -> None:
        """Start it."""
        self.starts += 1
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdin=pipe, stdout=pipe, text=True, preexec_fn=in_child
        )
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, lines) -> None:
        for line in lines:
            # The last line of a killed process may be incomplete.
            if found := re.fullmatch(r'(\d+) (\d+)\n', line):
                self.published.append(Event(int(found[1]) / 1e9, int(found[2])))

    def order(self, text: str) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(f'{text}\n')
        self._process.stdin.flush()

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def end(self, patience: float) -> None:
        """Let it end by itself."""
        self.order('end')
        try:
            self._process.wait(patience)
        finally:
            self.kill()


class Setup:
    """All processes, and what faults do to them.

    Args:
        group: starts the nodes.
        observer: of the ego.
        drive: frames of the ego and the vehicles.
        out: folder for logs and recordings.
        model: of all nodes.
        domain: of DDS.
        rate: sweeps per second.
        environment: of the processes.
        patience: longest wait for something, seconds.
    """

    def __init__(
        self,
        group: NodeGroup,
        observer: Observer,
        drive: Sequence[CoopFrame],
        out: Path,
        model: str,
        domain: int,
        rate: float,
        environment: Mapping[str, str],
        patience: float,
    ) -> None:
        self.group, self.observer, self.patience, self.domain = group, observer, patience, domain
        self._out, self._environment = out, environment
        self.recordings: list[Recorded] = []
        self._starts = 0
        ego, *vehicles = graph.vehicle_specs([EGO, *VEHICLES], EGO, {'model': model, 'threads': 1})
        self._specs = dict(zip(VEHICLES, vehicles, strict=True))
        self.inventor = Inventor(observer.node, model, drive[0], rate)
        self.ego = group.start(ego)
        self.vehicles: dict[int, NodeProcess] = {}
        for number in VEHICLES:
            self.start_vehicle(number)
        self.start_recorder()
        group.wait_ready(patience)
        frames = out / 'frames.pickle'
        frames.write_bytes(pickle.dumps(list(drive)))
        self.sender = Sender(frames, domain, rate, environment)

    def _label(self, name: str) -> str:
        self._starts += 1
        return f'{name}.{self._starts}'

    def start_vehicle(self, number: int) -> None:
        """Start a vehicle."""
        spec = self._specs[number]
        self.vehicles[number] = self.group.start(spec, label=self._label(spec.label))

    def kill(self, process: NodeProcess, signal_number: int) -> None:
        """End a process by a signal, and forget it."""
        process.signal(signal_number)
        if not process.wait(self.patience):
            raise TimeoutError(f'{process.label} has not ended')
        self.group.stop([process])

    def start_recorder(self) -> None:
        """Start a recorder."""
        label = self._label('recorder')
        self.bag = self._out / f'{label}.bag'
        self.recorder = self.group.start(graph.answer_recorder_spec(EGO, str(self.bag)), label=label)

    def recorded_bytes(self) -> int:
        """Size of the recording, 0 before it has begun."""
        return sum(path.stat().st_size for path in self.bag.glob('*.mcap'))

    def recording(self) -> bool:
        """Whether some messages are recorded."""
        return self.recorded_bytes() > _BEGUN

    def recorded(self, by: str, problem: str = '') -> None:
        """Read the recording of a recorder that has ended, and delete it unless something is wrong."""
        found = read(self.bag, by)
        if problem:
            found = Recorded(by, found.messages, found.answers, problem, found.remarks)
        self.recordings.append(found)
        if not found.problem:
            shutil.rmtree(self.bag)

    def log_of(self, process: NodeProcess) -> str:
        """The log of a process that has ended."""
        process.tail()
        return (self._out / f'{process.label}.log').read_text()

    def flooder(self, flood: str, seconds: float) -> subprocess.Popen[bytes]:
        """Start a flood."""
        command = ['nice', sys.executable, HERE / 'flooder.py', '--flood', flood]
        command += ['--domain', self.domain, '--seconds', seconds]
        environment = child_environment(self._environment)
        return subprocess.Popen(
            [*map(str, command)], env=environment, stdout=subprocess.DEVNULL, preexec_fn=in_child
        )
