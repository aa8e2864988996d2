"""Where a model comes from and how it runs in torch: checkpoints, tasks, roles of weights, the float reference."""
