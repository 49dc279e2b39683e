# SPDX-License-Identifier: Apache-2.0
"""The faults of a storm: each begins one and returns how it ends."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from functools import partial

from flooder import FLOODS
from patience import until
from storm_setup import VEHICLES, Setup

Fault = Callable[[Setup, int], Callable[[], None]]
"""Begins a fault, given its number; returns a function that ends it."""

LASTS = 2.0
"""Seconds of a fault that lasts."""


def kill_vehicle(setup: Setup, number: int) -> Callable[[], None]:
    """SIGKILL of a vehicle, also while it starts."""
    vehicle = VEHICLES[number % len(VEHICLES)]
    setup.kill(setup.vehicles[vehicle], signal.SIGKILL)
    return partial(setup.start_vehicle, vehicle)


def stop_vehicle(setup: Setup, number: int) -> Callable[[], None]:
    """SIGSTOP of a vehicle, then SIGCONT."""
    process = setup.vehicles[VEHICLES[number % len(VEHICLES)]]
    process.signal(signal.SIGSTOP)
    return partial(process.signal, signal.SIGCONT)


def kill_recorder(setup: Setup, number: int) -> Callable[[], None]:
    """SIGKILL of the recorder while it records."""
    until(setup.recording, 'a recording', setup.patience)
    setup.kill(setup.recorder, signal.SIGKILL)
    setup.recorded('SIGKILL')
    return setup.start_recorder


def fill_disk(setup: Setup, number: int) -> Callable[[], None]:
    """No more space for the recording."""
    until(setup.recording, 'a recording', setup.patience)
    limit = setup.recorded_bytes() + 1000
    resource.prlimit(setup.recorder.pid, resource.RLIMIT_FSIZE, (limit, limit))

    def ended() -> None:
        recorder = setup.recorder
        if not recorder.wait(setup.patience):
            setup.recorded('full disk', 'the recorder goes on without space')
        else:
            log = setup.log_of(recorder)
            said = [line for line in log.splitlines() if 'File too large' in line]
            problem = ''
            if recorder.returncode != 1 or len(said) != 1 or 'Traceback' in log:
                problem = f'the recorder ended with code {recorder.returncode} and said {said}'
            setup.recorded('full disk', problem)
        setup.group.stop([recorder])
        setup.start_recorder()

    return ended


def kill_sender(setup: Setup, number: int) -> Callable[[], None]:
    """SIGKILL of the sender of all sweeps."""
    setup.sender.kill()
    return setup.sender.start


def step_clock(seconds: float, setup: Setup, number: int) -> Callable[[], None]:
    """The ego's stamps jump by so many seconds, and back."""
    setup.sender.order(f'offset {seconds}')
    return partial(setup.sender.order, 'offset 0')


def freeze(setup: Setup, number: int) -> Callable[[], None]:
    """The ego's LiDAR repeats its last sweep."""
    setup.sender.order('frozen 1')
    return partial(setup.sender.order, 'frozen 0')


def invent(setup: Setup, number: int) -> Callable[[], None]:
    """A neighbour sends vehicles that do not exist."""
    setup.inventor.start()
    return setup.inventor.stop


def flood(kind: str, setup: Setup, number: int) -> Callable[[], None]:
    """A flood of the V2X link."""
    process = setup.flooder(kind, LASTS)

    def ended() -> None:
        try:
            process.wait(setup.patience)
        finally:
            process.kill()
            process.wait()

    return ended


FAULTS: dict[str, Fault] = {
    'vehicle killed': kill_vehicle,
    'vehicle stopped for 2 s': stop_vehicle,
    'recorder killed': kill_recorder,
    'disk full': fill_disk,
    'sender killed': kill_sender,
    # By no multiple of the period, so that no stamp comes twice.
    'clock 10 s ahead and back': partial(step_clock, 10.05),
    'clock back by 1 s': partial(step_clock, -1.05),
    'own LiDAR frozen': freeze,
    'invented vehicles': invent,
    **{f'flood: {kind}': partial(flood, kind) for kind in FLOODS},
}
