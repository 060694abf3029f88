"""Reference implementations that are read from end to end: kernels, attention and gradient checkpointing."""
