# SPDX-License-Identifier: Apache-2.0
"""Whether what neighbours say agrees with what the ego and other neighbours see."""
