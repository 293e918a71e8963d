"""Passes over maps for the CPU, in C++, compiled when they are first needed."""
