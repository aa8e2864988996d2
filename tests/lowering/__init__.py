"""Tests of edgeq.lowering."""
