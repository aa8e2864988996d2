"""Tests of edgeq.reports."""
