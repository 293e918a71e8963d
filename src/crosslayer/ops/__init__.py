"""Arithmetic without parameters: pure functions, each one equation in plain PyTorch."""
