# SPDX-License-Identifier: Apache-2.0
# diffkd_ros, built on the official ROS image.
#
#   docker build -t diffkd_ros .                                          Jazzy, CPU
#   docker build -t diffkd_ros --build-arg ROS_DISTRO=kilted .            or humble
#   docker build -t diffkd_ros:gpu --build-arg DEVICE=gpu .               ONNX Runtime with CUDA
#   docker run --rm -it --net=host --ipc=host diffkd_ros ros2 launch diffkd_ros coop.launch.py

ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base AS dependencies

SHELL ["/bin/bash", "-o", "errexit", "-o", "pipefail", "-c"]

# Rosbag players, and Foxglove's bridge, because the image has no display.
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      python3-pip \
      python3-venv \
      "ros-${ROS_DISTRO}-foxglove-bridge" \
      "ros-${ROS_DISTRO}-ros2bag" \
      "ros-${ROS_DISTRO}-rosbag2-storage-default-plugins" \
      "ros-${ROS_DISTRO}-rosbag2-storage-mcap" \
 && rm -rf /var/lib/apt/lists/*

# Some Python packages of Ubuntu are too old, and pip may not replace them. So the package's requirements are installed in
# a virtual environment that also sees ROS's packages; the entry point adds it to the path of the system's Python. ROS's
# messages are compiled for NumPy 1.
ENV PATH=/opt/venv/bin:${PATH}
ARG DEVICE=cpu
# hadolint ignore=DL3013
RUN python3 -m venv --system-site-packages /opt/venv \
 && case "${DEVICE}" in \
      cpu) runtime='onnxruntime>=1.17' ;; \
      gpu) runtime='onnxruntime-gpu[cuda,cudnn]>=1.21' ;; \
      *) echo "DEVICE must be cpu or gpu, not ${DEVICE}" >&2; exit 1 ;; \
    esac \
 && pip install --no-cache-dir \
      'numpy>=1.26,<2' \
      "${runtime}" \
      'jinja2>=3.1' \
      'matplotlib>=3.8' \
      'numba>=0.59' \
      'pillow>=10' \
      'pydantic>=2.7' \
      'pypcd4>=1.4' \
      'pyyaml>=6' \
      'rich>=13' \
      'rosbags>=0.10' \
      'scipy>=1.12' \
      'transforms3d>=0.4' \
      'typer>=0.12'

WORKDIR /ws
COPY package.xml src/diffkd_ros/package.xml
RUN apt-get update \
 && rosdep update --rosdistro "${ROS_DISTRO}" \
 && rosdep install --from-paths src --ignore-src -y --rosdistro "${ROS_DISTRO}" \
      -t build -t buildtool -t exec \
      --skip-keys "python3-matplotlib python3-numba python3-numpy python3-onnxruntime-pip python3-pil \
                   python3-pydantic python3-rich python3-rosbags-pip python3-typer python3-yaml" \
 && rm -rf /var/lib/apt/lists/*

COPY docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]

FROM dependencies AS runtime

COPY . src/diffkd_ros
# shellcheck source=/dev/null
RUN . "/opt/ros/${ROS_DISTRO}/setup.bash" \
 && colcon build --packages-select diffkd_ros --cmake-args -DBUILD_TESTING=OFF \
 && rm -rf build log

CMD ["bash"]
