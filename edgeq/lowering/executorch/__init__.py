"""ExecuTorch: a `.pte` whose quantized weights XNNPACK reads as they are."""
