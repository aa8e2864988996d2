"""Tests of edgeq.lowering.executorch."""
