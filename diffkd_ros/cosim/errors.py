# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between us and a CARLA server, each by its name."""

from __future__ import annotations

from diffkd_ros.errors import DiffkdError


class CosimError(DiffkdError):
    """Co-simulation cannot go on as it is; the message says what to change."""


class ClientMissingError(CosimError):
    """CARLA's Python client is not installed."""


class ServerAbsentError(CosimError):
    """Nobody answers at the address."""


class VersionMismatchError(CosimError):
    """Server and client are of different releases."""


class ServerLostError(CosimError):
    """The server has stopped answering."""


class UnknownCallError(CosimError):
    """The server does not know a call of the client, or refused it."""


class SecondTickerError(CosimError):
    """Another client ticks the world that we tick."""


class NobodyTicksError(CosimError):
    """The world that another client is to tick stands still."""


class RotationMismatchError(CosimError):
    """A LiDAR does not turn just once in a step of the world."""


class VehicleMissingError(CosimError):
    """There is no vehicle with the ego's role name, or no place to spawn one."""


class BlueprintMissingError(CosimError):
    """The server has no such blueprint, or the blueprint no such attribute."""


class SweepTimeoutError(CosimError):
    """The ego's LiDAR does not deliver."""
