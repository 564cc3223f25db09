"""What an encoder of waveforms gives to a backbone.

Shapes use B batch, T frames, F feature width, D width.
"""

import flax
import jax


@flax.struct.dataclass
class EncoderOutput:
    """Frames of a waveform, before and after hiding some of them.

    Attributes:
        features: [B, T, F], of which nothing is hidden: what a target is made of.
        hidden: [B, T, D], what the backbone reads, hidden frames replaced.
    """

    features: jax.Array
    hidden: jax.Array
