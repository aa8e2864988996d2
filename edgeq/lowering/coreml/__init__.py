"""Core ML: one captured graph as the functions of a `.mlpackage`."""

import logging

logging.getLogger("coremltools").setLevel(logging.ERROR)  # it warns of versions that it has not been tested with
