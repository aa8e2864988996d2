"""Tests of the Core ML lowering."""
