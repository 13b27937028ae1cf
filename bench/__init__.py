"""Benchmarks: `python -m bench` for training steps beside the peers, `pytest bench` for kernels."""
