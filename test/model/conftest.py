# SPDX-License-Identifier: Apache-2.0
from torch_threads import one_thread  # noqa: F401 - a fixture that every test here takes
