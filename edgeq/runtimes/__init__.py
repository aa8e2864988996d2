"""Torch-free use of what edgeq builds; the drivers import their runtime only when something is opened."""
