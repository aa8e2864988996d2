"""Tests of edgeq.bundle."""
