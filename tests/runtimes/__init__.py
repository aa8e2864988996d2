"""Tests of the torch-free drivers."""
