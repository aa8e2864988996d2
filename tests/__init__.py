"""Tests of the library: fast, no network."""
