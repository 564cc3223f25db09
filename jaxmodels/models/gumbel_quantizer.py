"""Product quantization whose choice of codes is learned with Gumbel noise.

Baevski et al. (2020), section 2 (quantization module) and eq. 1; the straight-through
estimator of Jang et al. (2017).

Shapes use B batch, T frames, F feature width, G groups, V codes a group, C width of a
code of a group, D width of all groups together.
"""

import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

SCHEDULES = ("cosine", "exponential")


@flax.struct.dataclass
class Quantized:
    """What a quantizer makes of features.

    Attributes:
        values: [B, T, D], the chosen codes of all groups side by side.
        codes: int32 [B, T, G], which ones these are.
        probabilities: float32 [B, T, G, V], of the codes; in training those without
            noise and temperature, otherwise 1 for the chosen code.
    """

    values: jax.Array
    codes: jax.Array
    probabilities: jax.Array


class GumbelVectorQuantizer(nn.Module):
    """Replaces each feature by one code of each group.

    In training the codes are drawn: the largest of logits plus Gumbel noise. The output
    is exactly the chosen code, and the gradient that of the softmax at the temperature.
    Otherwise the codes of the largest logits are taken.

    First values are those of wav2vec 2.0: a normal projection of unit variance and a
    codebook uniform in [0, 1).

    Attributes:
        num_groups: G.
        num_codes: V.
        code_dim: D, divisible by `num_groups`.
        scale_logits: divides the logits by sqrt(F), as SeisLM (Liu et al., 2024) does.

    Raises:
        ValueError: sizes that do not fit each other, one line each.
    """

    num_groups: int = 2
    num_codes: int = 320
    code_dim: int = 256
    scale_logits: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        sizes = ("num_groups", "num_codes", "code_dim")
        problems = [
            f"{name} {getattr(self, name)} must be at least 1"
            for name in sizes
            if getattr(self, name) < 1
        ]
        if not problems and self.code_dim % self.num_groups:
            near = -(-self.code_dim // self.num_groups) * self.num_groups
            problems.append(
                f"code_dim {self.code_dim} is not divisible by num_groups "
                f"{self.num_groups}; try code_dim {near}"
            )
        if problems:
            raise ValueError("\n".join(problems))
        super().__post_init__()

    @nn.nowrap
    def noise_shape(self, batch_size, num_frames):
        """Shape of the `gumbel` that training takes."""
        return batch_size, num_frames, self.num_groups, self.num_codes

    @nn.compact
    def __call__(self, features, *, gumbel=None, temperature=None, train=False):
        """`Quantized` of features.

        Args:
            features: [B, T, F].
            gumbel: [B, T, G, V], noise such as `jax.random.gumbel` draws.
            temperature: tau > 0 of the gradient, a float or float32 [].
            train: draws codes with `gumbel` and gives a gradient at `temperature`; both
                are without effect otherwise.

        Raises:
            ValueError: training without noise or temperature, or noise of another
                shape.
        """
        logits = self._logits(features)  # B T G V
        shape = self.num_groups, self.num_codes, self.code_dim // self.num_groups
        codebook = self.param(
            "codebook", nn.initializers.uniform(1.0), shape, jnp.dtype(self.param_dtype)
        ).astype(self.dtype)
        if not train:
            codes = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            values = codebook[jnp.arange(self.num_groups), codes]  # B T G C
            hard = jax.nn.one_hot(codes, self.num_codes, dtype=jnp.float32)
            return Quantized(_side_by_side(values), codes, hard)
        if gumbel is None or temperature is None:
            raise ValueError(
                "train=True wants gumbel noise and a temperature; draw the noise as "
                "jax.random.gumbel(rng, quantizer.noise_shape(batch_size, num_frames))"
            )
        if gumbel.shape != logits.shape:
            raise ValueError(
                f"gumbel has shape {list(gumbel.shape)}, and the logits "
                f"{list(logits.shape)}"
            )
        noisy = (logits + gumbel.astype(jnp.float32)) / temperature
        codes = jnp.argmax(noisy, axis=-1).astype(jnp.int32)
        soft = jax.nn.softmax(noisy, axis=-1)
        hard = jax.nn.one_hot(codes, self.num_codes, dtype=jnp.float32)
        # In this order the forward value is `hard` to the bit: what is added is 0.
        choice = (hard + (soft - jax.lax.stop_gradient(soft))).astype(self.dtype)
        values = jnp.einsum("BTGV,GVC->BTGC", choice, codebook)
        return Quantized(_side_by_side(values), codes, jax.nn.softmax(logits, axis=-1))

    def _logits(self, features):
        """[B, T, F] to float32 [B, T, G, V]."""
        x = nn.Dense(
            self.num_groups * self.num_codes,
            kernel_init=nn.initializers.normal(1.0),
            dtype=jnp.dtype(self.dtype),
            param_dtype=jnp.dtype(self.param_dtype),
            name="weight_projection",
        )(features)
        x = x.astype(jnp.float32)
        if self.scale_logits:
            x *= features.shape[-1] ** -0.5
        return x.reshape(*x.shape[:-1], self.num_groups, self.num_codes)


def temperature_at(
    step, num_steps, *, start=2.0, end=0.5, schedule="cosine", decay=0.999995
):
    """The temperature of a training step.

    Args:
        step: an int or int32 [], from 0 on.
        num_steps: of the training; with schedule "cosine" alone.
        start, end: temperatures, both above 0.
        schedule: "cosine" reaches `end` at `num_steps` along half a period of a cosine;
            "exponential" multiplies by `decay` a step and stops at `end` (Baevski et
            al., 2020, section 4.2).
        decay: in (0, 1].

    Returns:
        float32 [].

    Raises:
        ValueError: no such schedule, or numbers out of their range.
    """
    if schedule not in SCHEDULES:
        raise ValueError(
            f"unknown schedule {schedule!r}; choose one of {', '.join(SCHEDULES)}"
        )
    if not (start > 0.0 and end > 0.0):
        raise ValueError(f"temperatures {start} and {end} must be above 0")
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay {decay} must be above 0 and at most 1")
    step = jnp.asarray(step, jnp.float32)
    if schedule == "exponential":
        return jnp.maximum(start * jnp.exp(step * math.log(decay)), end)
    share = jnp.clip(step / max(num_steps, 1), 0.0, 1.0)
    return end + 0.5 * (start - end) * (1.0 + jnp.cos(jnp.pi * share))


def _side_by_side(values):
    """[B, T, G, C] to [B, T, D]."""
    return values.reshape(*values.shape[:-2], -1)
