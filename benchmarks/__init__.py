"""edgeq beside its peers on the same model; run each from the checkout: python -m benchmarks.NAME."""
