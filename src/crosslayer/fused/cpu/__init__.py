"""What the C++ passes share: headers, the compiler, and tensors as C functions take them."""
