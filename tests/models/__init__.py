"""Tests of edgeq.models."""
