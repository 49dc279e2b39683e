# SPDX-License-Identifier: Apache-2.0
"""Parts that every node uses: entry point, parameters, diagnostics, quality of service, subscriptions."""
