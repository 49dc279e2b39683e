# SPDX-License-Identifier: Apache-2.0
"""The parts of the packaging that pyproject.toml cannot express: generated messages and files for ROS tools.

The environment variable `DIFFKD_ROS_MSGS` selects whether `diffkd_ros.msg` is built: `1` builds it or
fails, `0` leaves it out; unset, it is built if the rosidl generators can be imported. An editable
installation never contains it: run `python build_tools/build_messages.py` afterwards.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

PROJECT = Path(__file__).resolve().parent
sys.path.insert(0, str(PROJECT / 'build_tools'))

from build_messages import PACKAGE_NAME, build_messages, generators_available  # noqa: E402

SHARE = f'share/{PACKAGE_NAME}'


def messages_wanted() -> bool:
    """Returns whether this build includes `diffkd_ros.msg`."""
    choice = os.environ.get('DIFFKD_ROS_MSGS', '')
    if choice not in {'', '0', '1'}:
        raise SystemExit(f'DIFFKD_ROS_MSGS must be 0, 1 or unset, not {choice!r}')
    return choice == '1' or (choice == '' and generators_available())


class BuildWithMessages(build_py):
    """Copies the modules of the package and adds the generated messages."""

    def run(self) -> None:
        """Build into `build_lib`; an editable installation is not copied and gets no messages."""
        if self.editable_mode:
            super().run()
            return
        # An earlier build may have left modules here that no longer exist in the sources.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if messages_wanted():
            build_messages(Path(self.build_lib) / PACKAGE_NAME, PROJECT / 'build' / 'messages')


class MessageDistribution(Distribution):
    """Marks a wheel with compiled messages as specific to this platform and Python."""

    def has_ext_modules(self) -> bool:
        """Returns whether the wheel contains compiled code."""
        return messages_wanted()


def shared_files() -> list[tuple[str, list[str]]]:
    """(folder below the prefix, files) that ROS tools and `diffkd_ros.share` look for."""
    folders: dict[str, list[str]] = {
        'share/ament_index/resource_index/packages': [f'resource/{PACKAGE_NAME}'],
        f'lib/{PACKAGE_NAME}': sorted(str(path) for path in Path('scripts').iterdir()),
        SHARE: ['package.xml'],
    }
    for top in ('config', 'launch', 'models', 'msg'):
        for path in sorted(Path(top).rglob('*')):
            if path.is_file() and '__pycache__' not in path.parts:
                folders.setdefault(f'{SHARE}/{path.parent}', []).append(str(path))
    return list(folders.items())


# All build output goes to build/, which git ignores.
Path('build').mkdir(exist_ok=True)
setup(
    cmdclass={'build_py': BuildWithMessages},
    distclass=MessageDistribution,
    data_files=shared_files(),
    options={'egg_info': {'egg_base': 'build'}},
)
