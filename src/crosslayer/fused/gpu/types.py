import torch
import triton.language as tl

TRITON_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
"""What kernels compute in."""
