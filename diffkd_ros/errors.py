# SPDX-License-Identifier: Apache-2.0
"""Errors of this package. The command line prints them in one line (`diffkd_ros.cli.verbs`)."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

NOT_STARTED = 2
"""Exit code of a node that cannot start; starting it again does not help."""


class DiffkdError(Exception):
    """An error that the user can correct. The message says what was found, what was expected and where."""


class MissingExtra(DiffkdError):  # noqa: N818
    """A package that belongs to an optional extra is not installed.

    Args:
        name: of the module that cannot be imported.
        extra: of this package, which installs it.
    """

    def __init__(self, name: str, extra: str) -> None:
        super().__init__(name, extra)

    def __str__(self) -> str:
        name, extra = self.args
        try:
            distribution('diffkd-ros')
        except PackageNotFoundError:
            # Built by colcon, where this package has no extras.
            return f'{name} is missing: rosdep or pip installs {_DISTRIBUTIONS.get(name, name)}'
        return f"{name} is missing: pip install 'diffkd-ros[{extra}]'"


_EXTRAS = {
    'carla': 'carla msgpack',
    'cluster': 'distributed',
    'data': 'lz4 mcap pypcd4 rosbags zstandard',
    'report': 'PIL jinja2 matplotlib scipy',
    'ros': 'ament_index_python builtin_interfaces diagnostic_msgs geometry_msgs lifecycle_msgs nav_msgs '
    'rcl_interfaces rclpy rosgraph_msgs sensor_msgs std_msgs visualization_msgs',
    'signing': 'cryptography',
    'sparse': 'spconv',
    'train': 'lightning onnx onnxscript safetensors tensorboard torch',
}
# Where a distribution is not named as its module.
_DISTRIBUTIONS = {'PIL': 'pillow'}
EXTRA_OF = {module: extra for extra, modules in _EXTRAS.items() for module in modules.split()}
"""The extra in `pyproject.toml` that installs a top-level module."""


def missing_extra(error: ModuleNotFoundError) -> MissingExtra | None:
    """The same error naming the extra to install; None if the module belongs to none."""
    name = (error.name or '').partition('.')[0]
    return MissingExtra(name, EXTRA_OF[name]) if name in EXTRA_OF else None


def require(*modules: str) -> None:
    """Check that modules of extras can be imported, without importing them.

    Raises:
        MissingExtra: for the first one that cannot.
    """
    for name in modules:
        if find_spec(name) is None:
            raise MissingExtra(name, EXTRA_OF[name])
