"""Tests of edgeq.quantization."""
