# SPDX-License-Identifier: Apache-2.0
"""Attacks from inside sessions and over HTTP. A package, so that its files may be named as those of tests/e2e."""
