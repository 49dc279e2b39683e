# SPDX-License-Identifier: Apache-2.0
"""What nodes publish or write: detections in several message types, markers, recordings."""
