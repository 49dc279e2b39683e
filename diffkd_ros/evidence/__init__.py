# SPDX-License-Identifier: Apache-2.0
"""`diffkd evidence`: train every variant, measure all of them alike, and put them into one table."""
