"""Tests of the Core ML drivers, the interpreter and its operations."""
