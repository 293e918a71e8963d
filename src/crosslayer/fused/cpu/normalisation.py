"""Normalisations and incoming gradients as the C functions take them."""

import ctypes

import torch

from crosslayer.fused.batch_norm import Incoming, Norm
from crosslayer.fused.cpu.types import lying, pointer


class FloatNorm(ctypes.Structure):
    """`Norm<float>` of normalisation.h."""

    _fields_ = (("weight_bias_mean_variance_keep", ctypes.c_void_p * 5), ("epsilon", ctypes.c_float))


class DoubleNorm(ctypes.Structure):
    """`Norm<double>`."""

    _fields_ = (("weight_bias_mean_variance_keep", ctypes.c_void_p * 5), ("epsilon", ctypes.c_double))


def structure(norm: Norm) -> ctypes.Structure:
    """A normalisation as the functions take it, which must outlive the call."""
    *tensors, epsilon = norm
    places = (ctypes.c_void_p * 5)(*map(pointer, tensors))
    return _precision_of(norm)(places, epsilon)


def missing(other: Norm) -> ctypes.Structure:
    """What says that there is none, beside another normalisation."""
    return _precision_of(other)()


def _precision_of(norm: Norm) -> type[FloatNorm] | type[DoubleNorm]:
    """The structure for a normalisation's numbers."""
    return DoubleNorm if norm.mean.dtype == torch.float64 else FloatNorm


def received(gradient: Incoming) -> Incoming:
    """Laid out as the functions expect it."""
    return Incoming(lying(gradient.map), gradient.everywhere)
