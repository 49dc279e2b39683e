# SPDX-License-Identifier: Apache-2.0
"""Publishes the frames of a source as ROS topics, in lock-step with the ego or in real time."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from diffkd_ros.errors import DiffkdError
from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.metrics.latency import LatencyTable
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.nodes.base import entry
from diffkd_ros.nodes.base.link_node import LinkParameters
from diffkd_ros.nodes.base.parameters import declare, parameter
from diffkd_ros.nodes.playing.feeder import FrameFeeder, PlayedFrame, open_played, stamped
from diffkd_ros.nodes.playing.lockstep import LockStep
from diffkd_ros.sources.dataset import account
from diffkd_ros.sources.restamping import REALTIME_GAP
from diffkd_ros.sources.source import DEFAULT_SEED, Source

# Of simulated frames in lock-step, Hz.
_LOCKSTEP_RATE = 10.0


@dataclass(frozen=True)
class PlayerParameters(LinkParameters):
    """Parameters of `player_node`."""

    source: str = parameter(
        'sim',
        'What to play: sim, sim:SEED, a data set as opv2v:DIR or bag:FILE[,FILE...], which keeps its stamps.',
    )
    topics: str = parameter(
        '', 'Topics of a bag with other names than the standard ones: cav_1/points=[BAG:]/topic[,...].'
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
        self.open_link(p.v2x_domain)
        rates = p.rates if p.mode == 'realtime' else (_LOCKSTEP_RATE,)
        try:
            # Report now that a source cannot be opened at one of the rates, not when its turn comes.
            self._frames(min(rates), 0, self.get_logger().warning)
            self._frames(max(rates), 0)
        except ValueError as error:
            raise DiffkdError(str(error)) from error
        self._lockstep = LockStep(
            self,
            p.timeout,
            waits=p.mode == 'lockstep',
            link=self.link,
            subscribers=p.subscribers,
            truth_subscribers=p.truth_subscribers,
            answer_subscribers=p.answer_subscribers,
        )
        self._runs: list[dict[str, object]] = []
        self._feeder: FrameFeeder | None = None
        self._progress = self.create_timer(1.0, self._report)
        self._thread = threading.Thread(target=self._play, name='player', daemon=True)
        self._thread.start()

    def _source(self, rate: float) -> Source:
        p = self._p
        simulator = {'agents': p.vehicles, 'rate': rate, 'frames_per_scenario': p.frames_per_scenario}
        topics = tuple(filter(None, p.topics.split(',')))
        return Source(p.source, topics=topics, default_seed=p.seed, simulator=simulator)

    def _frames(
        self, rate: float, start: int, on_remark: Callable[[str], object] = lambda line: None
    ) -> Iterable[PlayedFrame]:
        return open_played(self._source(rate), start, self._p.ego, on_remark)

    def _play(self) -> None:
        try:
            if self._p.mode == 'lockstep':
                self._play_in_lockstep()
            else:
                self._play_in_real_time()
            self._lockstep.output.finish(self._p.timeout)
            self.done.set_result(None)
        except Exception as error:  # ends the node, which would otherwise stay idle
            self.done.set_exception(error)

    @contextlib.contextmanager
    def _feeding(self, rate: float, limit: int) -> Iterator[FrameFeeder]:
        """Prepare frames until the end of the context, or of the node."""
        feeder = self._feeder = FrameFeeder(functools.partial(self._frames, rate, time.time_ns()), limit)
        try:
            yield feeder
        finally:
            feeder.stop()

    def _play_in_lockstep(self) -> None:
        latencies: list[float] = []
        try:
            with self._feeding(_LOCKSTEP_RATE, self._p.frames) as feeder:
                for frame in feeder:
                    self._lockstep.connect(frame)
                    latency = self._lockstep.publish(frame)
                    if latency is not None:
                        latencies.append(latency)
                    if not self._lockstep.sleep(0.0):
                        break
        finally:
            self._runs.append({'rate': None} | _counts(self._lockstep.sent, latencies, 0))

    def _play_in_real_time(self) -> None:
        """Play each rate in turn, without waiting for answers.

        The frames of a bag keep their stamps, all others are stamped with the wall clock. A pause between
        scenarios prevents that something of one is fused in the next.
        """
        recorded = self._source(self._p.rates[0]).kind == 'bag'
        for number, rate in enumerate(self._p.rates):
            seconds = self._p.seconds_more if number else self._p.seconds
            # 0 seconds mean no limit; a short time that rounds to 0 frames does not.
            limit = max(1, round(seconds * rate)) if seconds else 0
            stamps: list[int] = []
            late = 0
            due, scenario = 0.0, ''
            try:
                with self._feeding(rate, limit) as feeder:
                    for frame in feeder:
                        if not stamps:
                            self._lockstep.connect(frame)
                            due = time.monotonic()
                        if frame.scenario != scenario and (number or stamps):
                            due += REALTIME_GAP / NANOSECONDS
                        scenario = frame.scenario
                        ahead = due - time.monotonic()
                        late += ahead < -0.5 / rate
                        if not self._lockstep.sleep(ahead):
                            return
                        sent = frame if recorded else stamped(frame, time.time_ns())
                        self._lockstep.publish(sent)
                        stamps.append(sent.stamp)
                        due += 1.0 / rate
            finally:
                latencies = self._lockstep.wait_answers(stamps, min(1.0, self._p.timeout))
                self._runs.append({'rate': rate} | _counts(len(stamps), latencies, late))
            if not self._lockstep.sleep(0.0):
                return
            self.get_logger().info(f'{rate:g} Hz: {len(latencies)} of {len(stamps)} sweeps answered')
            if len(latencies) < self._p.stop_below * len(stamps):
                return

    def _report(self) -> None:
        if self._lockstep.sent:
            self.log_progress(self._summary())

    def _summary(self) -> str:
        lockstep = self._lockstep
        of = f' of {self._p.frames}' if self._p.mode == 'lockstep' and self._p.frames else ''
        message = f'frame {lockstep.sent}{of}, {lockstep.features_missing} features missing'
        if lockstep.output.poses_left_out:
            message += f', {lockstep.output.poses_left_out} invalid poses not published to /tf'
        return message

    def close(self) -> None:
        """End the playing thread and write the counts."""
        self._lockstep.stop()
        if self._feeder is not None:
            self._feeder.stop()
        self._thread.join(2.0)
        self.log_last('; '.join([self._summary(), *account(self._lockstep.left_out)]))
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


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    entry.run(PlayerNode, args)


if __name__ == '__main__':
    main()
