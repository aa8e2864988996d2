"""Proof that artifacts run, and that the judge tells the truth."""
