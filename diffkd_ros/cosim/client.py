# SPDX-License-Identifier: Apache-2.0
"""Connects to a CARLA server and names its errors. `carla` is imported only here, when connecting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from diffkd_ros.cosim.errors import (
    ClientMissingError,
    CosimError,
    ServerAbsentError,
    ServerLostError,
    UnknownCallError,
    VersionMismatchError,
)

_RELEASE = re.compile(r'\d+\.\d+\.\d+')


def carla_module() -> ModuleType:
    """CARLA's Python client.

    Raises:
        ClientMissingError: if it is not installed.
    """
    try:
        import carla
    except ImportError as error:
        raise ClientMissingError(
            f"CARLA's Python client cannot be imported ({error}): pip install carla==<the server's version>; "
            'its wheels are for Linux on x86-64, 0.9.16 for Python 3.10 to 3.12'
        ) from error
    return carla


@contextmanager
def named_errors(address: str) -> Iterator[None]:
    """Turn the client's RuntimeError into one of our errors; only its text distinguishes them.

    Raises:
        ServerLostError: if the server did not answer in time.
        UnknownCallError: if the server does not know the call.
        CosimError: for every other error.
    """
    try:
        yield
    except CosimError:
        raise
    except RuntimeError as error:
        text = str(error)
        if 'time-out' in text:
            raise ServerLostError(f'the CARLA server at {address} has stopped answering: {text}') from error
        if 'rpc_error' in text:
            raise UnknownCallError(
                f'the CARLA server at {address} does not know a call of this client: {text}'
            ) from error
        raise CosimError(f'the CARLA server at {address} refused: {text}') from error


def _check_versions(address: str, server: str, client: str, source_build: bool) -> None:
    """Compare the versions of server and client; the suffix of a build of a release is ignored.

    Raises:
        VersionMismatchError: if they differ, unless one is built from source and `source_build` is set.
    """
    releases = [match and match[0] for match in map(_RELEASE.match, (server, client))]
    if server == client or (releases[0] and releases[0] == releases[1]):
        return
    found = f'the CARLA server at {address} is {server}, the Python client {client}'
    if all(map(_RELEASE.fullmatch, (server, client))):
        raise VersionMismatchError(f'{found}: pip install carla=={server}')
    if not source_build:
        raise VersionMismatchError(
            f'{found}, which may be of another release. Use the client that was built with the server or, if '
            'both are of one release, set source_build to true'
        )


def connect(host: str, port: int, timeout: float, source_build: bool = False) -> tuple[Any, Any]:
    """Connect to a server and check its version.

    The client crashes the process in `get_world` if the server is of another release, because its list of
    sensors is compiled in. Therefore the versions are compared first.

    Args:
        host: name or address.
        port: RPC port; CARLA's default is 2000.
        timeout: of every call, seconds.
        source_build: accept different versions if one of them is not that of a release: a server or client
            built from source reports a commit.

    Returns:
        `carla.Client` and `carla.World`.

    Raises:
        ClientMissingError: if `carla` is not installed.
        ServerAbsentError: if no server answers in time.
        VersionMismatchError: if server and client are of different releases.
        CosimError: see `named_errors`.
    """
    carla = carla_module()
    address = f'{host}:{port}'
    client = carla.Client(host, port)
    client.set_timeout(timeout)
    try:
        with named_errors(address):
            server = client.get_server_version()
    except ServerLostError as error:
        raise ServerAbsentError(
            f'no CARLA server answers at {address} within {timeout:g} s: start it, or set host and port'
        ) from error
    _check_versions(address, server, client.get_client_version(), source_build)
    with named_errors(address):
        return client, client.get_world()
