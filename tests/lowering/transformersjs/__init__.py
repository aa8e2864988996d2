"""Tests of `edgeq.lowering.transformersjs`."""
