"""Textbook versions of the algorithms, in plain loops: slow, short, and right."""
