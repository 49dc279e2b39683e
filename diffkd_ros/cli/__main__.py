# SPDX-License-Identifier: Apache-2.0
"""`python -m diffkd_ros.cli`."""

from diffkd_ros.cli import main

if __name__ == '__main__':
    main()
