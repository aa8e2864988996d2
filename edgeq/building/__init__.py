"""Build: `edgeq.toml` to bundles of every model for every target, of which a second run redoes only what changed."""

from edgeq.building.run import build

__all__ = ["build"]
