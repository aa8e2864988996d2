"""What bundles are for: profiles of devices, and what each format can hold."""
