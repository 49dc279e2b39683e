#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sources ROS and, if it has been built, this package; then runs the command.
set -e

# shellcheck source=/dev/null
source "/opt/ros/${ROS_DISTRO}/setup.bash"
if [[ -f /ws/install/local_setup.bash ]]; then
  # shellcheck source=/dev/null
  source /ws/install/local_setup.bash
fi

# The nodes run in the Python of the environment, `ros2` and the launch files in that of the system.
for folder in /opt/venv/lib/python3*/site-packages; do
  export PYTHONPATH="${PYTHONPATH:+${PYTHONPATH}:}${folder}"
done

# The CUDA libraries of ONNX Runtime's wheel are not on the loader's default path.
for folder in /opt/venv/lib/python3*/site-packages/nvidia/*/lib; do
  if [[ -d "${folder}" ]]; then
    export LD_LIBRARY_PATH="${folder}${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}}"
  fi
done

# Another user than the image's has no home folder, where ROS keeps its logs.
if [[ ! -w "${HOME}" ]]; then
  export ROS_LOG_DIR="${ROS_LOG_DIR:-${TMPDIR:-/tmp}/ros}"
fi

exec "$@"
