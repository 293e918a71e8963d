"""The fused ops: launches here, Triton kernels in the modules named after them, imported when first launched."""
