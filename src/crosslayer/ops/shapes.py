"""The legend of letters for the whole project: what every tensor's axes are called.

`batch` images, `channels`, map `height` × `width`, `heads` = channels / channels per head, `layers` stored so far.
"""

from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch colours image_height image_width"]
"""Normalised images, in colour as a rule."""
Map = Float[Tensor, "batch channels height width"]
"""Feature map."""
Prefix = Float[Tensor, "batch prefix channels"]
"""Tokens that are no part of a map: a class token, registers."""
Tokens = Float[Tensor, "batch tokens channels"]
"""Prefix tokens, then a map's positions row by row."""
Vector = Float[Tensor, "batch channels"]
"""One number per image and channel: a pooled map, a query, a gate, a context."""
ChannelScale = Float[Tensor, "#batch channels"]
"""One number per channel, for each image or for all alike."""
History = Float[Tensor, "batch layers channels"]
"""One vector for each layer stored so far: keys, gates."""
LongerHistory = Float[Tensor, "batch _ channels"]
"""The same with one layer more."""
HeadWeights = Float[Tensor, "batch heads layers"]
"""Attention of one block's query on every stored layer, per head."""
GrowingWeights = Float[Tensor, "batch heads _"]
"""The same for a series of blocks, each with one layer more than the last."""
PositionWeight = Float[Tensor, "batch 1 height width"]
"""One number for each image and position: a logit, a weight of one source in a sum over depth."""
Heads = Float[Tensor, "batch heads tokens head_channels"]
"""Queries, keys or values of multi-head attention, or what its heads put out."""
Scores = Float[Tensor, "batch heads tokens _"]
"""Every token's scores, before or after the softmax: for all tokens, and for whatever else a row ends with."""
HeadGate = Float[Tensor, "batch heads"]
"""One gate per head."""
Kernel = Float[Tensor, "channels 1 rows columns"]
"""Depth-wise convolution kernel."""
InputMap = Float[Tensor, "batch in_channels in_height in_width"]
"""What a block or a stage is given; its output may have other channels and a smaller map."""
ReadMap = Float[Tensor, "batch read_channels in_height in_width"]
"""What a block's first convolution sees."""
Inner = tuple[Float[Tensor, "batch _ _ _"], ...]
"""A block's inner activations."""
