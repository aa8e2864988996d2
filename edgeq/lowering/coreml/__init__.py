"""Core ML: one captured graph as the functions of a `.mlpackage`."""
