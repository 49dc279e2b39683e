# SPDX-License-Identifier: Apache-2.0
"""Publishes the frames of a source as ROS topics, in lock-step with the ego or in real time."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffkd_ros.errors import DiffkdError
from diffkd_ros.metrics.latency import LatencyTable
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.nodes.base import entry
from diffkd_ros.nodes.base.parameters import declare, parameter
from diffkd_ros.nodes.playing.feeder import FrameFeeder, PlayedFrame, open_played
from diffkd_ros.nodes.playing.lockstep import LockStep
from diffkd_ros.sources.source import DEFAULT_SEED, Source

# Of simulated frames in lock-step, Hz.
_LOCKSTEP_RATE = 10.0


@dataclass(frozen=True)
class PlayerParameters:
    """Parameters of `player_node`."""

    source: str = parameter(
        'sim',
        'What to play: sim, sim:SEED, opv2v:DIR, dair:DIR or bag:FILE[,FILE...], which keeps its stamps.',
    )
    seed: int = parameter(
        DEFAULT_SEED, 'Seed of the simulator; a seed in the source, as in sim:3, takes precedence.', minimum=0
    )
    vehicles: int = parameter(
        3, 'Connected vehicles in the simulation, including the ego.', minimum=1, maximum=5
    )
    ego: int = parameter(0, 'Agent that fuses; 0: as the source says.')
    mode: str = parameter(
        'lockstep',
        'lockstep: wait for the features and the answer to each frame; realtime: keep to the rate.',
        choices=('lockstep', 'realtime'),
    )
    frames: int = parameter(
        0, 'Number of frames to play in lock-step; 0: all (the simulator has no end).', minimum=0
    )
    frames_per_scenario: int = parameter(100, 'Frames of a simulated scenario.', minimum=1, maximum=300)
    rates: tuple[float, ...] = parameter(
        (5.0,),
        'Real time: frames per second, one rate after the other; 1 to 20 for the simulator.',
        minimum=0.01,
        maximum=1000.0,
    )
    seconds: float = parameter(0.0, 'Real time: seconds to play at the first rate; 0: no limit.', minimum=0.0)
    seconds_more: float = parameter(6.0, 'Real time: seconds to play at each further rate.', minimum=1.0)
    stop_below: float = parameter(
        0.0,
        'Real time: stop after a rate at which less than this share of frames is answered.',
        minimum=0.0,
        maximum=1.0,
    )
    subscribers: int = parameter(
        1,
        'Subscribers of each cloud and odometry to wait for at the start, including a recorder.',
        minimum=0,
    )
    truth_subscribers: int = parameter(
        0, 'Subscribers of the ground truth to wait for at the start.', minimum=0
    )
    answer_subscribers: int = parameter(
        0, "Subscribers of the ego's detections to wait for at the start.", minimum=0
    )
    timeout: float = parameter(3.0, 'Longest wait for features or for an answer, s.', minimum=0.1)
    out: str = parameter('', 'JSON file for the counts, written at the end; empty: no file.')


class PlayerNode(entry.RunnableNode):
    """Plays in a thread of its own while the executor records what arrives."""

    def __init__(self) -> None:
        super().__init__('player_node')
        self._p = p = declare(self, PlayerParameters)
        rates = p.rates if p.mode == 'realtime' else (_LOCKSTEP_RATE,)
        try:
            # Report now that a source cannot be opened at one of the rates, not when its turn comes.
            for rate in {min(rates), max(rates)}:
                self._frames(rate, 0)
        except (DiffkdError, ValueError) as error:
            raise entry.SetupError(str(error)) from error
        self._lockstep = LockStep(
            self,
            p.timeout,
            waits=p.mode == 'lockstep',
            subscribers=p.subscribers,
            truth_subscribers=p.truth_subscribers,
            answer_subscribers=p.answer_subscribers,
        )
        self._runs: list[dict[str, object]] = []
        self._progress = self.create_timer(1.0, self._report)
        self._thread = threading.Thread(target=self._play, name='player', daemon=True)
        self._thread.start()

    def _frames(self, rate: float, start: int) -> Iterable[PlayedFrame]:
        p = self._p
        simulator = {'agents': p.vehicles, 'rate': rate, 'frames_per_scenario': p.frames_per_scenario}
        source = Source(p.source, default_seed=p.seed, simulator=simulator)
        return open_played(source, start, p.ego)

    def _play(self) -> None:
        try:
            if self._p.mode == 'lockstep':
                self._play_in_lockstep()
            else:
                self._play_in_real_time()
            self._report()
            self.done.set_result(None)
        except Exception as error:  # ends the node, which would otherwise stay idle
            self.done.set_exception(error)

    def _play_in_lockstep(self) -> None:
        latencies: list[float] = []
        feeder = FrameFeeder(functools.partial(self._frames, _LOCKSTEP_RATE, time.time_ns()), self._p.frames)
        try:
            for frame in feeder:
                self._lockstep.connect(frame)
                latency = self._lockstep.publish(frame)
                if latency is not None:
                    latencies.append(latency)
                if not self._lockstep.sleep(0.0):
                    break
        finally:
            feeder.stop()
            self._runs.append({'rate': None} | _counts(self._lockstep.sent, latencies, 0))

    def _play_in_real_time(self) -> None:
        """Play each rate in turn, without waiting for answers."""
        for number, rate in enumerate(self._p.rates):
            seconds = self._p.seconds_more if number else self._p.seconds
            stamps: list[int] = []
            late = 0
            open_frames = functools.partial(self._frames, rate, time.time_ns())
            # 0 seconds mean no limit; a short time that rounds to 0 frames does not.
            feeder = FrameFeeder(open_frames, max(1, round(seconds * rate)) if seconds else 0)
            try:
                begin = 0.0
                for count, frame in enumerate(feeder):
                    if not count:
                        self._lockstep.connect(frame)
                        begin = time.monotonic()
                    ahead = begin + count / rate - time.monotonic()
                    late += ahead < -0.5 / rate
                    if not self._lockstep.sleep(ahead):
                        return
                    self._lockstep.publish(frame)
                    stamps.append(frame.stamp)
            finally:
                feeder.stop()
                latencies = self._lockstep.wait_answers(stamps, min(1.0, self._p.timeout))
                self._runs.append({'rate': rate} | _counts(len(stamps), latencies, late))
            self.get_logger().info(f'{rate:g} Hz: {len(latencies)} of {len(stamps)} sweeps answered')
            if len(latencies) < self._p.stop_below * len(stamps):
                return

    def _report(self) -> None:
        lockstep = self._lockstep
        if not lockstep.sent:
            return
        of = f' of {self._p.frames}' if self._p.mode == 'lockstep' and self._p.frames else ''
        message = f'frame {lockstep.sent}{of}, {lockstep.features_missing} features missing'
        if lockstep.output.poses_left_out:
            message += f', {lockstep.output.poses_left_out} invalid poses not published to /tf'
        self.get_logger().info(message)

    def close(self) -> None:
        """End the playing thread and write the counts."""
        self._lockstep.stop()
        self._thread.join(2.0)
        if self._p.out:
            missing = self._lockstep.features_missing
            result = {'mode': self._p.mode, 'features_missing': missing, 'runs': self._runs}
            write_json(Path(self._p.out), result)


def _counts(sent: int, latencies: list[float], late: int) -> dict[str, object]:
    """One run's entry in the result; `late` frames were published over half a period after their time."""
    table = LatencyTable()
    for milliseconds in latencies:
        table.add({'total': milliseconds})
    return {
        'sent': sent,
        'answered': len(latencies),
        'late': late,
        'latency_ms': table.summary().get('total'),
    }


def main(args: Sequence[str] | None = None) -> int:
    """Entry point."""
    return entry.run(PlayerNode, 'player_node', args)


if __name__ == '__main__':
    sys.exit(main())
