# SPDX-License-Identifier: Apache-2.0
"""Builds `diffkd_ros.msg` from `msg/*.msg` without CMake, with the rosidl generators of the running Python.

`setup.py` calls it for `pip install`. For an editable installation the Makefile calls it as a command:

    python build_tools/build_messages.py            # into site-packages of this environment
"""

import argparse
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE_NAME = 'diffkd_ros'
MESSAGE_DEPENDENCIES = ('std_msgs', 'geometry_msgs', 'builtin_interfaces')
GENERATORS = (
    'rosidl_adapter',
    'rosidl_generator_type_description',
    'rosidl_generator_c',
    'rosidl_generator_py',
    'rosidl_typesupport_c',
    'rosidl_typesupport_fastrtps_c',
    'rosidl_typesupport_introspection_c',
)


def generators_available() -> bool:
    """Returns whether the running Python can import all rosidl generators that the build needs."""
    return all(find_spec(generator) is not None for generator in GENERATORS)


def build_messages(destination: Path, scratch: Path) -> None:
    """Generate and compile the messages, and copy the importable part into `destination`.

    Args:
        destination: folder of the package `diffkd_ros`, where `msg/` and one extension module are written. An
            existing `__init__.py` is kept.
        scratch: folder for the generated sources and objects; emptied first.
    """
    # Imported here because they need ROS packages and NumPy, which a build without messages may lack.
    from message_extension import compile_extension
    from message_sources import MessagePackage, generate_sources

    package = MessagePackage(PACKAGE_NAME, PROJECT, MESSAGE_DEPENDENCIES)
    generate_sources(package, scratch)
    extension = compile_extension(package, scratch)

    shutil.rmtree(destination / 'msg', ignore_errors=True)
    shutil.copytree(
        scratch / 'python' / PACKAGE_NAME / 'msg',
        destination / 'msg',
        ignore=shutil.ignore_patterns('*.c', '*.o'),
    )
    shutil.copy2(extension, destination)


def main() -> None:
    """Build the messages into the running environment, or into the folder `--into`."""
    parser = argparse.ArgumentParser(description='Generate and compile diffkd_ros.msg.')
    parser.add_argument(
        '--into',
        type=Path,
        default=Path(sysconfig.get_paths()['platlib']) / PACKAGE_NAME,
        help='folder of the package diffkd_ros (default: %(default)s)',
    )
    destination = parser.parse_args().into.resolve()
    build_messages(destination, PROJECT / 'build' / 'messages')
    print(f'{PACKAGE_NAME}.msg built into {destination}')


if __name__ == '__main__':
    main()
