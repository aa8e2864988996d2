"""The nouns: frozen dataclasses over numpy arrays, with no I/O and no framework."""
