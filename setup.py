# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say of the packaging: the generated messages and the files for ROS tools.

Whether `diffkd_ros.msg` is built follows the environment variable `DIFFKD_ROS_MSGS`: `1` builds it or fails,
`0` leaves it out; unset, it is built where the rosidl generators can be imported. An editable installation
never holds it: run `python build_tools/build_messages.py` after it.
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
    """Tell whether this build makes `diffkd_ros.msg`."""
    choice = os.environ.get('DIFFKD_ROS_MSGS', '')
    if choice not in {'', '0', '1'}:
        raise SystemExit(f'DIFFKD_ROS_MSGS must be 0, 1 or unset, not {choice!r}')
    return choice == '1' or (choice == '' and generators_available())


class BuildWithMessages(build_py):
    """Copies the package's modules and adds the generated messages."""

    def run(self) -> None:
        """Build into `build_lib`; an editable installation takes no copy and gets no messages."""
        if self.editable_mode:
            super().run()
            return
        # An earlier build in this checkout may have left modules here that are gone from the sources.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if messages_wanted():
            build_messages(Path(self.build_lib) / PACKAGE_NAME, PROJECT / 'build' / 'messages')


class MessageDistribution(Distribution):
    """Marks the wheel as bound to this platform and Python when it holds the compiled messages."""

    def has_ext_modules(self) -> bool:
        """Tell setuptools whether there is compiled code."""
        return messages_wanted()


def shared_files() -> list[tuple[str, list[str]]]:
    """List (folder under the prefix, files) of what ROS tools and `diffkd_ros.share` look for there."""
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


# Everything a build leaves behind goes under build/, which git ignores.
Path('build').mkdir(exist_ok=True)
setup(
    cmdclass={'build_py': BuildWithMessages},
    distclass=MessageDistribution,
    data_files=shared_files(),
    options={'egg_info': {'egg_base': 'build'}},
)
