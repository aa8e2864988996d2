"""From the store to a runtime's own format: capture once, then one package per format."""
