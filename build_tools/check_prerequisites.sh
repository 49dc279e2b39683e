#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks the prerequisites of `make` and prints the path of the Python to use.
# Each missing item is reported in one line on standard error, with the package to install; the exit status is then 1.
# PYTHON, CC and CXX in the environment override the defaults.

missing=0
lacks() {
    echo "make: $1" >&2
    missing=1
}

# Runs the command, because version managers put commands on the PATH that only print an error.
runs() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

makes_environments() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

has_headers() {
    "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")))'
}

python=
for candidate in ${PYTHON:-python3.12 python3.11 python3.10 python3}; do
    if runs "$candidate"; then
        # The first that runs, or a later one if only that one has everything installed.
        python=${python:-$candidate}
        if makes_environments "$candidate" && has_headers "$candidate"; then
            python=$candidate
            break
        fi
    fi
done

if [ -z "$python" ]; then
    lacks "no Python 3.10 or newer runs as: ${PYTHON:-python3.12, python3.11, python3.10, python3}; install python3 (Debian, Ubuntu: apt install python3 python3-venv python3-dev) or name one: make PYTHON=/path/to/python3"
else
    makes_environments "$python" ||
        lacks "$python lacks the modules venv and ensurepip; install them (Debian, Ubuntu: apt install python3-venv)"
    has_headers "$python" ||
        lacks "$python lacks Python.h, needed to compile the ROS messages; install it (Debian, Ubuntu: apt install python3-dev)"
fi
# Unquoted because CC may hold several words, such as `ccache gcc`.
command -v ${CC:-cc} >/dev/null ||
    lacks "no C compiler (${CC:-cc}), needed to compile the ROS messages; install one (Debian, Ubuntu: apt install build-essential)"
command -v ${CXX:-c++} >/dev/null ||
    lacks "no C++ compiler (${CXX:-c++}), needed to compile the ROS messages; install one (Debian, Ubuntu: apt install build-essential)"

[ "$missing" -eq 0 ] && "$python" -c 'import sys; print(sys.executable)'
