# SPDX-License-Identifier: Apache-2.0
"""Publishes a CARLA world as ROS topics, in lock-step with the ego if the bridge ticks the world.

The node survives the server: errors are logged and reported in diagnostics, and a new session is tried after
increasing pauses, except while another client ticks the world, too: then the bridge waits to be restarted.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from geometry_msgs.msg import TransformStamped

from diffkd_ros.cosim.errors import CosimError, NobodyTicksError, SecondTickerError, ServerLostError
from diffkd_ros.cosim.graph import native_lidar_name, role_names
from diffkd_ros.cosim.session import CarlaSession
from diffkd_ros.cosim.settings import LidarSettings, SessionSettings
from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import CoopFrame, FrameError
from diffkd_ros.geometry.poses import Matrix, PoseError, inverse
from diffkd_ros.messages.building import header_message, transform_message
from diffkd_ros.messages.names import MAP_FRAME, agent_name, lidar_frame
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.msg import Boxes3D
from diffkd_ros.nodes.base import diagnostics, entry
from diffkd_ros.nodes.base.link_node import LinkParameters
from diffkd_ros.nodes.base.parameters import declare, parameter
from diffkd_ros.nodes.playing.feeder import PlayedFrame, played
from diffkd_ros.nodes.playing.lockstep import LockStep

# Pause before a new session, seconds; doubled after each failure up to the longest.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
# Longest wait for the server of a session that only cleans up, seconds.
_CLEAN_UP_TIMEOUT = 1.0


@dataclass(frozen=True)
class BridgeParameters(LinkParameters):
    """Parameters of `bridge_node`."""

    host: str = parameter('127.0.0.1', 'Host of the CARLA server.')
    port: int = parameter(2000, "The server's port.", minimum=1, maximum=65535)
    timeout: float = parameter(5.0, 'Longest wait for the server to answer, s.', minimum=0.5, maximum=120.0)
    source_build: bool = parameter(
        False,
        'Connect although the versions differ, if server or client were built from source; if their releases '
        'differ, the client crashes the process.',
    )
    tick: str = parameter(
        'own', 'own: the bridge ticks the world; follow: another client does.', choices=('own', 'follow')
    )
    step: float = parameter(0.1, 'With tick own: simulated seconds per tick.', minimum=0.005, maximum=0.1)
    vehicles: tuple[int, ...] = parameter((1, 2, 3), 'Connected vehicles, by number.', minimum=0)
    roles: tuple[str, ...] = parameter(
        ('',), "The vehicles' role names in CARLA, in the same order; a single empty one: cav_1, cav_2, ..."
    )
    ego: int = parameter(1, 'The vehicle that fuses.', minimum=0)
    spawn: bool = parameter(True, 'Spawn vehicles for role names that do not exist in the world.')
    blueprint: str = parameter('vehicle.tesla.model3', 'Blueprint of spawned vehicles.')
    native: bool = parameter(
        False, 'The server publishes clouds, clock and vehicle-to-LiDAR TF itself (--ros2).'
    )
    wait_for_ego: bool = parameter(
        True, 'With tick own: tick when the ego has answered or ego_timeout has passed.'
    )
    ego_timeout: float = parameter(3.0, 'Longest wait for features or for an answer, s.', minimum=0.1)
    truth_subscribers: int = parameter(
        0, 'In lock-step: number of subscribers of the ground truth to wait for at the start.', minimum=0
    )
    sweep_timeout: float = parameter(2.0, 'Longest wait for the sweeps of a frame, s.', minimum=0.05)
    frames: int = parameter(0, 'Number of frames to publish before the node exits; 0: no limit.', minimum=0)
    out: str = parameter('', 'JSON file for the counts, written at the end; empty: no file.')
    channels: int = parameter(32, 'LiDAR: number of laser rings.', minimum=1, maximum=256)
    lidar_range: float = parameter(100.0, 'LiDAR: maximum range, m.', minimum=1.0, maximum=1000.0)
    points_per_second: int = parameter(
        330_000, 'LiDAR: points per second of all rings together.', minimum=1000
    )
    upper_fov: float = parameter(
        10.0, 'LiDAR: elevation of the highest ring, degrees.', minimum=-90.0, maximum=90.0
    )
    lower_fov: float = parameter(
        -25.0, 'LiDAR: elevation of the lowest ring, degrees.', minimum=-90.0, maximum=90.0
    )
    rotation_frequency: float = parameter(
        0.0, 'LiDAR: turns per second; 0: one per step, which is required.', minimum=0.0, maximum=200.0
    )
    lidar_forward: float = parameter(0.0, "LiDAR: distance ahead of the vehicle's origin, m.")
    lidar_height: float = parameter(1.9, "LiDAR: height above the vehicle's origin, m.")


def session_settings(p: BridgeParameters) -> SessionSettings:
    """The session settings that the parameters describe.

    Raises:
        DiffkdError: if vehicles, roles and ego do not match.
    """
    roles = role_names(p.vehicles, [] if p.roles == ('',) else p.roles)
    if p.ego not in p.vehicles:
        raise DiffkdError(f'the ego, {p.ego}, is not among the vehicles {list(p.vehicles)}')
    lidar = LidarSettings(
        channels=p.channels,
        range=p.lidar_range,
        points_per_second=p.points_per_second,
        upper_fov=p.upper_fov,
        lower_fov=p.lower_fov,
        rotation_frequency=p.rotation_frequency,
        forward=p.lidar_forward,
        height=p.lidar_height,
    )
    return SessionSettings(
        roles,
        p.ego,
        host=p.host,
        port=p.port,
        timeout=p.timeout,
        source_build=p.source_build,
        tick='own' if p.tick == 'own' else 'follow',
        step=p.step,
        spawn=p.spawn,
        blueprint=p.blueprint,
        lidar=lidar,
        native=p.native,
        sweep_timeout=p.sweep_timeout,
    )


class BridgeNode(entry.RunnableNode):
    """Communicates with CARLA in a thread of its own."""

    def __init__(self) -> None:
        super().__init__('bridge_node')
        self._p = declare(self, BridgeParameters)
        self.open_link(self._p.v2x_domain)
        self._settings = session_settings(self._p)
        self._lockstep = LockStep(
            self,
            self._p.ego_timeout,
            waits=self._p.wait_for_ego and self._settings.tick == 'own',
            link=self.link,
            ego=agent_name(self._p.ego),
            truth_subscribers=self._p.truth_subscribers,
        )
        self._session: CarlaSession | None = None
        self._sessions = 0
        self._problem = 'no session yet'
        self._problems: Counter[str] = Counter()
        self._lost = False
        self._stopping = False
        self._diagnostics = diagnostics.DiagnosticsPublisher(
            self, f'CARLA {self._settings.address}', self._items
        )
        self._progress = self.create_timer(1.0, self._log_progress)
        self._thread = threading.Thread(target=self._run, name='carla', daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while not self._stopping and not self._finished():
                before = self._lockstep.sent
                try:
                    self._bridge()
                except SecondTickerError as error:
                    self._report(error)
                    return  # a new session would tick, too
                except (CosimError, FrameError, PoseError) as error:
                    self._report(error)
                    self._lost |= isinstance(error, ServerLostError)
                if self._lockstep.sent > before:
                    pause = _FIRST_PAUSE  # it worked before the failure
                if not self._finished():
                    self._lockstep.sleep(pause)
                pause = min(2.0 * pause, _LONGEST_PAUSE)
            if self._lost:
                # The server may answer again. A session undoes what the lost one has left.
                with contextlib.suppress(CosimError):
                    CarlaSession(replace(self._settings, timeout=_CLEAN_UP_TIMEOUT)).close()
            self.done.set_result(None)
        except Exception as error:  # ends the node, which would otherwise stay idle
            if self.context.ok():
                self.done.set_exception(error)

    def _finished(self) -> bool:
        return 0 < self._p.frames <= self._lockstep.sent

    def _log_progress(self) -> None:
        if self._p.frames and self._lockstep.sent:
            missing = self._lockstep.features_missing
            self.log_progress(f'frame {self._lockstep.sent} of {self._p.frames}, {missing} features missing')

    def _report(self, error: Exception) -> None:
        name = type(error).__name__
        self._problem = f'{name}: {error}'
        self._problems[name] += 1
        self.get_logger().error(self._problem)

    def _bridge(self) -> None:
        """Run one session until it fails or the node stops."""
        with CarlaSession(self._settings) as session:
            self._session = session
            self._sessions += 1
            self._lost = False
            self._problem = ''
            settings = self._settings
            who = ', '.join(settings.roles[agent] for agent in session.agents)
            self.get_logger().info(f'ready: CARLA at {settings.address}, tick {settings.tick}, {who}')
            replaced: Counter[str] = Counter()
            try:
                while not self._stopping and not self._finished():
                    frame = self._next(session)
                    for role in session.replaced - replaced:
                        self.get_logger().warning(
                            f'another client has destroyed the LiDAR of {role}; attached a new one'
                        )
                    replaced = Counter(session.replaced)
                    if frame is None:
                        continue
                    message = played(frame)
                    if self._lockstep.waits and not self._p.native:
                        self._lockstep.connect(message)
                    self._publish(frame, message)
            finally:
                self._session = None

    def _next(self, session: CarlaSession) -> CoopFrame | None:
        """The next frame; None if the client that ticks pauses."""
        try:
            frame = session.next_frame()
        except NobodyTicksError as error:
            if not self._problem:
                self._report(error)
            return None
        self._problem = ''
        return frame

    def _publish(self, frame: CoopFrame, message: PlayedFrame) -> None:
        transforms = vehicle_transforms(frame, self._settings.lidar.mount, self._p.native)
        if self._p.native:
            latency = self._lockstep.publish_poses(_in_native_frames(message), transforms)
        else:
            latency = self._lockstep.publish(message, transforms)
        if self._lockstep.waits and latency is None and not self._stopping:
            self.get_logger().warning(
                f'no answer to the frame at {message.stamp / 1e9:.2f} s within {self._p.ego_timeout:g} s',
                throttle_duration_sec=5.0,
            )

    def _items(self) -> list[diagnostics.Item]:
        session, lockstep = self._session, self._lockstep
        values: dict[str, object] = {
            'address': self._settings.address,
            'sessions': self._sessions,
            'frames': lockstep.sent,
            **self._problems,
        }
        if self._problem:
            return [diagnostics.Item('carla', diagnostics.ERROR, self._problem, values)]
        level, text = diagnostics.OK, 'connected'
        if session is not None:
            unreadable, why = session.unreadable
            values |= {
                'late sweeps': session.late_sweeps,
                'skipped frames': session.skipped,
                'unreadable sweeps': unreadable,
                'LiDARs attached again': session.replaced.total(),
            }
            if session.missing:
                level, text = diagnostics.WARN, f'no vehicle has the role name {", ".join(session.missing)}'
            elif why:
                level, text = diagnostics.WARN, f'unreadable sweep: {why}'
        items = [diagnostics.Item('carla', level, text, values)]
        if lockstep.waits:
            unanswered = lockstep.sent - lockstep.answered
            items.append(
                diagnostics.Item(
                    'lock-step',
                    diagnostics.OK if unanswered <= 1 else diagnostics.WARN,
                    f'{unanswered} of {lockstep.sent} frames unanswered',
                    {'features missing': lockstep.features_missing},
                )
            )
        return items

    def close(self) -> None:
        """End the session, which restores the world's settings and actors."""
        self._stopping = True
        self._lockstep.stop()
        self._thread.join(self._settings.timeout + 1.0)
        lockstep = self._lockstep
        self.log_last(
            f'{lockstep.sent} frames published, {lockstep.answered} answered, '
            f'{lockstep.features_missing} features missing'
        )
        if self._p.out:
            result = {
                'sent': lockstep.sent,
                'answered': lockstep.answered,
                'features_missing': lockstep.features_missing,
                'sessions': self._sessions,
                'problems': dict(self._problems),
            }
            write_json(Path(self._p.out), result)


def vehicle_transforms(frame: CoopFrame, mount: Matrix, native: bool) -> list[TransformStamped]:
    """TF of a frame: map -> cav_1 -> cav_1/lidar for each agent.

    Args:
        frame: the frame.
        mount: vehicle <- LiDAR.
        native: CARLA publishes the second transform itself.
    """
    transforms = []
    for agent, sweep in frame.agents.items():
        name = agent_name(agent)
        header = header_message(frame.stamp, MAP_FRAME)
        transforms.append(transform_message(header, name, sweep.pose @ inverse(mount)))
        if not native:
            transforms.append(transform_message(header_message(frame.stamp, name), lidar_frame(name), mount))
    return transforms


def _in_native_frames(message: PlayedFrame) -> PlayedFrame:
    """The same messages in the LiDAR frames of CARLA's own clouds."""
    for agent, odometry in message.odometry.items():
        for one in odometry:
            one.child_frame_id = native_lidar_name(agent)
    if isinstance(message.ground_truth, Boxes3D):
        message.ground_truth.header.frame_id = native_lidar_name(message.ego)
    return message


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    entry.run(BridgeNode, args)


if __name__ == '__main__':
    main()
