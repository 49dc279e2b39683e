# SPDX-License-Identifier: Apache-2.0
"""Errors of a session with a CARLA server. The bridge reports and counts them by class name."""

from __future__ import annotations

from diffkd_ros.errors import DiffkdError


class CosimError(DiffkdError):
    """Co-simulation cannot continue; the message says what to change."""


class ClientMissingError(CosimError):
    """CARLA's Python client is not installed."""


class ServerAbsentError(CosimError):
    """No server answers at the address."""


class VersionMismatchError(CosimError):
    """Server and client are of different releases, or one of them does not report a release."""


class ServerLostError(CosimError):
    """The server has stopped answering."""


class UnknownCallError(CosimError):
    """The server does not know a call of the client."""


class SecondTickerError(CosimError):
    """Another client ticks the world too."""


class MapChangedError(CosimError):
    """Another client has loaded a map; a new session continues on it."""


class NobodyTicksError(CosimError):
    """No client ticks the world that this one follows."""


class RotationMismatchError(CosimError):
    """A LiDAR does not turn exactly once per step of the world."""


class VehicleMissingError(CosimError):
    """No vehicle has the ego's role name, or there is no free spawn point."""


class BlueprintMissingError(CosimError):
    """The server lacks a blueprint, or the blueprint lacks an attribute."""


class SweepTimeoutError(CosimError):
    """The ego's LiDAR delivers nothing."""
