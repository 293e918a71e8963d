"""Throughput, memory and distance from the device's limit: what `crosslayer bench` measures, and how."""
