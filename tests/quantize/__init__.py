"""Tests of edgeq.quantize."""
