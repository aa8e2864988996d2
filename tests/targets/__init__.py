"""Tests of `edgeq.targets`."""
