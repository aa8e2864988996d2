"""Tests of edgeq.core."""
