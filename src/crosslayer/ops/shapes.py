"""The legend of letters for the whole project: what every tensor's axes are called.

`batch` images, `channels`, map `height` × `width`, `heads` = channels / channels per head, `layers` stored so far.
"""

from jaxtyping import Float
from torch import Tensor

Map = Float[Tensor, "batch channels height width"]
"""Feature map."""
Vector = Float[Tensor, "batch channels"]
"""One number per image and channel: a pooled map, a query, a gate, a context."""
History = Float[Tensor, "batch layers channels"]
"""One vector for each layer stored so far: keys, gates."""
HeadWeights = Float[Tensor, "batch heads layers"]
"""Attention of one block's query on every stored layer, per head."""
HeadGate = Float[Tensor, "batch heads"]
"""One gate per head."""
Kernel = Float[Tensor, "channels 1 rows columns"]
"""Depth-wise convolution kernel."""
