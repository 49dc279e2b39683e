# SPDX-License-Identifier: Apache-2.0
"""Plays any source of frames as ROS topics, in lock-step with the ego or at a rate in real time."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rclpy.subscription import Subscription

from diffkd_ros.errors import DiffkdError
from diffkd_ros.messages.reading import stamp_of
from diffkd_ros.metrics.latency import LatencyTable
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.msg import BevFeature, FusionStatus
from diffkd_ros.nodes.base import entry, qos
from diffkd_ros.nodes.base.parameters import declare, parameter
from diffkd_ros.nodes.playing.arrivals import Arrivals
from diffkd_ros.nodes.playing.feeder import FrameFeeder, PlayedFrame, open_played
from diffkd_ros.nodes.playing.publisher import FramePublisher
from diffkd_ros.sources.source import SimulationOptions

# A node that starts beside the player needs this long at most, else it is not there.
_PARTNER_TIMEOUT = 30.0


@dataclass(frozen=True)
class PlayerParameters:
    """Parameters of `player_node`."""

    source: str = parameter(
        'sim', 'What to play: sim, opv2v:DIR, dair:DIR or bag:FILE[,FILE...], which keeps its stamps.'
    )
    seed: int = parameter(0, 'Seed of the simulator.', minimum=0)
    vehicles: int = parameter(
        3, 'Connected vehicles in the simulation, the ego included.', minimum=1, maximum=5
    )
    ego: int = parameter(0, 'Agent that fuses; 0: as the source says.')
    mode: str = parameter(
        'lockstep',
        'lockstep: wait for the features and the answer to each frame; realtime: keep to the rate.',
        choices=('lockstep', 'realtime'),
    )
    frames: int = parameter(0, 'Frames to play in lock-step; 0: all (the simulator has no end).', minimum=0)
    frames_per_scenario: int = parameter(20, 'Length of a simulated drive.', minimum=1, maximum=300)
    rates: tuple[float, ...] = parameter(
        (5.0,),
        'Real time: frames per second, one rate after the other; the simulator makes 1 to 20.',
        minimum=0.01,
        maximum=1000.0,
    )
    seconds: float = parameter(
        0.0, 'Real time: how long the first rate is held; 0: without end.', minimum=0.0
    )
    seconds_more: float = parameter(6.0, 'Real time: how long each further rate is held.', minimum=1.0)
    stop_below: float = parameter(
        0.0, 'Real time: try no higher rate once less than this share is answered.', minimum=0.0, maximum=1.0
    )
    subscribers: int = parameter(
        1,
        'Wait at the start for so many subscribers of each cloud and odometry (a recorder is one).',
        minimum=0,
    )
    truth_subscribers: int = parameter(
        0, 'Wait at the start for so many subscribers of the ground truth.', minimum=0
    )
    answer_subscribers: int = parameter(
        0, "Wait at the start for so many subscribers of the ego's detections.", minimum=0
    )
    timeout: float = parameter(3.0, 'Longest wait for features or for an answer, s.', minimum=0.1)
    out: str = parameter('', 'JSON file for the counts at the end; empty: none.')


class PlayerNode(entry.RunnableNode):
    """Plays in a thread of its own; the executor's notes what comes back."""

    def __init__(self) -> None:
        super().__init__('player_node')
        self._p = declare(self, PlayerParameters)
        rates = self._p.rates if self._p.mode == 'realtime' else (10.0,)
        try:
            # What a source cannot do is told now, not when it is the rate's turn.
            for rate in {min(rates), max(rates)}:
                self._frames(rate, 0)
        except (DiffkdError, ValueError) as error:
            raise entry.SetupError(str(error)) from error
        self._arrivals = Arrivals()
        self._sent = 0
        self._features_missing = 0
        self._runs: list[dict[str, object]] = []
        points = qos.POINTS_IN_LOCKSTEP if self._p.mode == 'lockstep' else qos.POINTS
        self._output = FramePublisher(self, self._p.subscribers, self._p.truth_subscribers, points)
        self._features = self.create_subscription(
            BevFeature,
            'v2x/features',
            lambda message: self._arrivals.feature(message.agent_id, stamp_of(message.header)),
            qos.FEATURES,
        )
        self._answers: dict[str, Subscription] = {}
        self._progress = self.create_timer(1.0, self._report)
        self._thread = threading.Thread(target=self._play, name='player', daemon=True)
        self._thread.start()

    def _frames(self, rate: float, start: int) -> Iterable[PlayedFrame]:
        p = self._p
        options = SimulationOptions(p.seed, p.vehicles, rate, p.frames_per_scenario)
        return open_played(p.source, options, start, p.ego)

    def _play(self) -> None:
        try:
            if self._p.mode == 'lockstep':
                self._play_in_lockstep()
            else:
                self._play_in_real_time()
            self._report()
            self.done.set_result(None)
        except Exception as error:  # ends the node: nothing else would notice that it plays no more
            self.done.set_exception(error)

    def _play_in_lockstep(self) -> None:
        """Each frame: neighbours' sweeps, their features, then the ego's sweep, its answer."""
        run: dict[str, object] = {'rate': None}
        latencies: list[float] = []
        sent = 0
        feeder = FrameFeeder(functools.partial(self._frames, 10.0, time.time_ns()), self._p.frames)
        try:
            for frame in feeder:
                self._connect(frame)
                neighbours = {agent: stamp for agent, stamp in frame.stamps.items() if agent != frame.ego}
                self._output.scene(frame)
                self._output.sweeps(frame, neighbours)
                missing = self._arrivals.wait_features(neighbours, self._p.timeout)
                self._features_missing += len(missing)
                self._output.sweeps(frame, [frame.ego])
                sent += 1
                self._sent += 1
                latencies += self._arrivals.wait_answers([frame.stamp], self._p.timeout)
                if not self._arrivals.sleep_until(0.0):
                    break
        finally:
            feeder.stop()
            self._runs.append(run | _counts(sent, latencies, 0))

    def _play_in_real_time(self) -> None:
        """Each rate in turn: frames at that rate, whatever comes back."""
        for number, rate in enumerate(self._p.rates):
            seconds = self._p.seconds_more if number else self._p.seconds
            stamps: list[int] = []
            late = 0
            open_frames = functools.partial(self._frames, rate, time.time_ns())
            # Without end if 0 was asked for, not if it is what little time rounds to.
            feeder = FrameFeeder(open_frames, max(1, round(seconds * rate)) if seconds else 0)
            try:
                begin = 0.0
                for count, frame in enumerate(feeder):
                    if not count:
                        self._connect(frame)
                        begin = time.monotonic()
                    due = begin + count / rate
                    late += time.monotonic() > due + 0.5 / rate
                    if not self._arrivals.sleep_until(due):
                        return
                    self._output.scene(frame)
                    self._output.sweeps(frame, frame.clouds)
                    stamps.append(frame.stamp)
                    self._sent += 1
            finally:
                feeder.stop()
                latencies = self._arrivals.wait_answers(stamps, min(1.0, self._p.timeout))
                self._runs.append({'rate': rate} | _counts(len(stamps), latencies, late))
            self.get_logger().info(f'{rate:g} Hz: {len(latencies)} of {len(stamps)} sweeps answered')
            if len(latencies) < self._p.stop_below * len(stamps):
                return

    def _connect(self, frame: PlayedFrame) -> None:
        """Create what a frame needs and does not have yet, and wait for those who take part."""
        fresh = self._output.add_agents(frame)
        if frame.ego not in self._answers:
            topic = f'/{frame.ego}/fusion_status'
            self._answers[frame.ego] = self.create_subscription(
                FusionStatus, topic, self._on_answer, qos.RESULTS
            )
        give_up = time.monotonic() + _PARTNER_TIMEOUT
        while fresh and self._p.subscribers and (missing := self._missing(frame)):
            if time.monotonic() > give_up:
                self.get_logger().warning(f'still missing, playing anyway: {", ".join(missing)}')
                return
            if not self._arrivals.sleep_until(time.monotonic() + 0.05):
                return

    def _missing(self, frame: PlayedFrame) -> list[str]:
        """Who takes part and is not there yet."""
        sources = ((self._features, len(frame.clouds) - 1), (self._answers[frame.ego], 1))
        missing = self._output.missing() + [
            f'{count} publishers of {subscription.topic_name}'
            for subscription, count in sources
            if self.count_publishers(subscription.topic_name) < count
        ]
        answers, wanted = f'/{frame.ego}/detections', self._p.answer_subscribers
        if self.count_subscribers(answers) < wanted:
            missing.append(f'{wanted} subscribers of {answers}')
        return missing

    def _on_answer(self, message: FusionStatus) -> None:
        self._arrivals.answer(stamp_of(message.header), message.latency_ms)

    def _report(self) -> None:
        if not self._sent:
            return
        of = f' of {self._p.frames}' if self._p.mode == 'lockstep' and self._p.frames else ''
        message = f'frame {self._sent}{of}, {self._features_missing} features missing'
        if self._output.poses_left_out:
            message += f', {self._output.poses_left_out} poses are none and not in /tf'
        self.get_logger().info(message)

    def close(self) -> None:
        """End the playing thread and write the counts."""
        self._arrivals.stop()
        self._thread.join(2.0)
        if self._p.out:
            result = {'mode': self._p.mode, 'features_missing': self._features_missing, 'runs': self._runs}
            write_json(Path(self._p.out), result)


def _counts(sent: int, latencies: list[float], late: int) -> dict[str, object]:
    """One run's line in the result: `late` frames left more than half a period after their time."""
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
