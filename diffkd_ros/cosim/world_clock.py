# SPDX-License-Identifier: Apache-2.0
"""The steps of a CARLA world, made by this client or by another one."""

from __future__ import annotations

import contextlib
import queue
from typing import Any

from diffkd_ros.cosim.callbacks import ClientCallbacks
from diffkd_ros.cosim.errors import (
    MapChangedError,
    NobodyTicksError,
    RotationMismatchError,
    SecondTickerError,
)
from diffkd_ros.cosim.settings import SessionSettings

# Allowed deviation of a sweep from a whole turn, as a fraction of it.
_TURN_TOLERANCE = 0.01
# Snapshots that wait while a frame is processed; beyond them the oldest is dropped.
_QUEUED = 8
# Settings to restore, by address. They belong to the process, because a session that loses its server cannot
# restore them: the next one finds the world synchronous.
_ORIGINAL: dict[str, Any] = {}


def check_rotation(rotation_frequency: float, step: float) -> None:
    """Check that a LiDAR turns once per step: in CARLA it delivers the part of a turn swept in one step.

    Args:
        rotation_frequency: turns per second.
        step: seconds of world time.

    Raises:
        RotationMismatchError: if it does not.
    """
    if abs(rotation_frequency * step - 1.0) > _TURN_TOLERANCE:
        raise RotationMismatchError(
            f'the LiDAR turns {rotation_frequency:g} times per second and the world steps {step:g} s, so a '
            f'sweep would cover {360.0 * rotation_frequency * step:.0f} degrees instead of 360: set '
            f'rotation_frequency to {1.0 / step:g}, or the step to {1.0 / rotation_frequency:g} s'
        )


class WorldClock:
    """Ticks a world in synchronous mode, or follows the ticks of another client.

    Args:
        client: `carla.Client`.
        world: `carla.World`.
        settings: of the session.
        callbacks: of the session.

    Attributes:
        rotation: turns per second of a LiDAR, one per step.
        skipped: snapshots dropped because they were not fetched in time.
    """

    def __init__(
        self, client: Any, world: Any, settings: SessionSettings, callbacks: ClientCallbacks
    ) -> None:
        self._client, self._world, self._settings, self._callbacks = client, world, settings, callbacks
        self._callback: int | None = None
        self._snapshots: queue.Queue[Any] = queue.Queue(_QUEUED)
        self._frame: int | None = None
        self._episode: int = world.id
        self.rotation = 0.0
        self.skipped = 0

    def start(self) -> None:
        """Switch the world to synchronous mode, or subscribe to its ticks.

        Raises:
            RotationMismatchError: if a LiDAR would not turn once per step.
        """
        settings = self._settings
        if settings.tick == 'own':
            _ORIGINAL.setdefault(settings.address, self._world.get_settings())
            wanted = self._world.get_settings()
            wanted.synchronous_mode = True
            wanted.fixed_delta_seconds = settings.step
            self._world.apply_settings(wanted)
            step = settings.step
        else:
            self._callback = self._world.on_tick(self._callbacks.give(self._on_tick))
            step = self._world.get_settings().fixed_delta_seconds
            if not step:
                raise RotationMismatchError(
                    f'the world at {settings.address} has no fixed step, so a LiDAR cannot turn once per '
                    'step: the client that ticks must set fixed_delta_seconds'
                )
        self.rotation = settings.lidar.rotation_frequency or 1.0 / step
        check_rotation(self.rotation, step)

    def _on_tick(self, snapshot: Any) -> None:
        """Called in a thread of the client, the only one that puts into the queue."""
        if self._snapshots.full():
            with contextlib.suppress(queue.Empty):
                self._snapshots.get_nowait()
                self.skipped += 1
        self._snapshots.put_nowait(snapshot)

    def next_snapshot(self) -> Any:
        """Tick the world, or wait for the next tick of the other client; returns `carla.WorldSnapshot`.

        Raises:
            MapChangedError: if another client has loaded a map.
            SecondTickerError: if another client ticked between two of our ticks.
            NobodyTicksError: if the server answers, but no client ticks it.
            RotationMismatchError: if the step has changed.
        """
        return self._follow() if self._settings.tick == 'follow' else self._tick()

    def _check_map(self, snapshot: Any) -> None:
        if snapshot.id != self._episode:
            raise MapChangedError(f'another client has loaded a map at {self._settings.address}')

    def _follow(self) -> Any:
        settings = self._settings
        try:
            snapshot = self._snapshots.get(timeout=settings.timeout)
        except queue.Empty:
            self._client.get_server_version()
            raise NobodyTicksError(
                f'no client has ticked the world at {settings.address} for {settings.timeout:g} s'
            ) from None
        self._check_map(snapshot)
        if self._frame is not None:
            check_rotation(self.rotation, snapshot.timestamp.delta_seconds)
        self._frame = snapshot.frame
        return snapshot

    def _tick(self) -> Any:
        settings = self._settings
        frame: int = self._world.tick(settings.timeout)
        snapshot = self._world.get_snapshot()
        self._check_map(snapshot)
        if self._frame is not None and not frame == snapshot.frame == self._frame + 1:
            raise SecondTickerError(
                f'frame {max(frame, snapshot.frame)} at {settings.address} follows our frame {self._frame}: '
                'another client ticks this world too. Only one may: end it or set tick to follow, and restart'
            )
        self._frame = frame
        return snapshot

    def unsubscribe(self) -> None:
        """Stop following the other client."""
        if self._callback is not None:
            self._world.remove_on_tick(self._callback)
            self._callback = None

    def restore(self) -> None:
        """Restore the settings of before the first session, unless another client has set others since."""
        address, step = self._settings.address, self._settings.step
        if self._settings.tick == 'follow' or address not in _ORIGINAL:
            return
        present = self._world.get_settings()
        if present.synchronous_mode and abs((present.fixed_delta_seconds or 0.0) - step) < 1e-6:
            self._world.apply_settings(_ORIGINAL[address])
        del _ORIGINAL[address]
