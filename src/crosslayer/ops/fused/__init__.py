"""The fused ops: registration, gradients, and the arithmetic on all that is small.

Their passes over the maps are written twice: for CUDA in `ops.triton`, for the CPU in `ops.native`.
"""
