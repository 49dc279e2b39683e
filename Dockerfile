# SPDX-License-Identifier: Apache-2.0
# diffkd_ros, built on the official ROS image.
#
#   docker build -t diffkd_ros .                                          Jazzy, CPU
#   docker build -t diffkd_ros --build-arg ROS_DISTRO=kilted .            or humble
#   docker build -t diffkd_ros:gpu --build-arg DEVICE=gpu .               ONNX Runtime with CUDA
#   docker run --rm -it --net=host diffkd_ros ros2 launch diffkd_ros coop.launch.py

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

# Most Python packages of Ubuntu are too old, and pip may not replace them. So what the package needs is installed in a
# virtual environment that also sees ROS's packages; the entry point adds it to the path of the system's Python.
ENV PATH=/opt/venv/bin:${PATH}
ARG DEVICE=cpu
WORKDIR /ws
COPY requirements-ros.txt package.xml src/diffkd_ros/
# hadolint ignore=DL3013
RUN python3 -m venv --system-site-packages /opt/venv \
 && pip install --no-cache-dir -r src/diffkd_ros/requirements-ros.txt \
 && case "${DEVICE}" in \
      cpu) ;; \
      gpu) pip uninstall -y onnxruntime \
           && pip install --no-cache-dir -c src/diffkd_ros/requirements-ros.txt 'onnxruntime-gpu[cuda,cudnn]>=1.21' ;; \
      *) echo "DEVICE must be cpu or gpu, not ${DEVICE}" >&2; exit 1 ;; \
    esac
RUN apt-get update \
 && rosdep update --rosdistro "${ROS_DISTRO}" \
 && rosdep install --from-paths src --ignore-src -y --rosdistro "${ROS_DISTRO}" \
      -t build -t buildtool -t exec \
      --skip-keys "$(sed -n 's/^[^#].*# //p' src/diffkd_ros/requirements-ros.txt | xargs)" \
 && rm -rf /var/lib/apt/lists/*

COPY docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]

FROM dependencies AS runtime

COPY . src/diffkd_ros
# shellcheck source=/dev/null
RUN . "/opt/ros/${ROS_DISTRO}/setup.bash" \
 && colcon build --packages-select diffkd_ros --cmake-args -DBUILD_TESTING=OFF \
 && rm -rf build log

# Not as root. What Numba compiles is kept in the image, for processors like that of the machine that builds it. A
# container that is run read-only or by another user copies it to its temporary folder.
ENV NUMBA_CACHE_DIR=/var/cache/diffkd_ros
RUN { getent passwd 1000 || useradd --create-home --shell /bin/bash --uid 1000 vehicle; } \
 && install --directory --owner=1000 "${NUMBA_CACHE_DIR}" /data
USER 1000
RUN /entrypoint.sh ros2 run diffkd_ros diffkd compile
WORKDIR /data

CMD ["bash"]
