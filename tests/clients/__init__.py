# SPDX-License-Identifier: Apache-2.0
"""Clients as their makers publish them, unmodified, against a real bivouacd."""
