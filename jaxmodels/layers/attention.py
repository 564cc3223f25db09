"""Multi-head attention: exact softmax, and linear in the length by feature maps.

Both modules project to heads, mix, and project back; they share the names and the
shapes of their kernels and the same five methods:

    module(x, context=None, ...)      self-attention, or cross-attention to `context`
    module.prefill(x, state=None)     causal self-attention that returns its state
    module.step(state, x)             one more token
    module.remember(context)          what cross-attention keeps of `context`
    module.recall(memory, x)          cross-attention to what was kept

Shapes use B batch, T query length, S key length, D width, H heads, K head width,
M features, N slots of a cache.
"""

import dataclasses

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import feature_maps, heads
from jaxmodels.layers.feature_attention import LinearAttention, check_epsilon

KINDS = ("causal_linear", "linear", "softmax")


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Which attention a block uses.

    Attributes:
        kind: "causal_linear" (decoders), "linear" (encoders, cross-attention) or
            "softmax" (exact, quadratic, either).
        feature_map: of the linear kinds, a name in `feature_maps.FEATURE_MAPS`.
            Without order, "exponential" takes the softmax of the keys over the length.
        num_features: M; None is int(K ln K), the number that Choromanski et al.
            (2021), theorem 4, asks for, or the next even one for the maps that take
            each row twice; "elu_plus_one" and "exponential" have K without a
            projection.
        chunk_size: tokens that the causal scan takes at once.
        query_key_norm: normalizes each head's queries and keys to unit mean square
            times a trained scale. Random features approximate the softmax well only
            while queries and keys stay small.
        epsilon: added to each feature of "favor_plus" (for weights trained so, and
            without causal order) or "relu"; None is the map's own, 0 and 1e-3.

    Raises:
        ValueError: a name that is not known, a size below 1, or an epsilon that the
            kind or the map cannot have.
    """

    kind: str = "causal_linear"
    feature_map: str = "favor_plus"
    num_features: int | None = None
    chunk_size: int = 64
    query_key_norm: bool = False
    epsilon: float | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(
                f"unknown attention kind {self.kind!r}; "
                f"choose one of {', '.join(KINDS)}"
            )
        for name in ("num_features", "chunk_size"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"attention {name} {size} must be at least 1")
        feature_maps.feature_map(self.feature_map)
        if self.num_features is not None:
            feature_maps.projection_rows(self.feature_map, self.num_features)
        if self.kind == "softmax" and self.epsilon is not None:
            raise ValueError(
                f"attention epsilon {self.epsilon} is added to features, which kind "
                "'softmax' has none of; leave it None"
            )
        check_epsilon(self.feature_map, self.epsilon, self.kind == "causal_linear")


@flax.struct.dataclass
class KeyValueCache:
    """What softmax attention remembers of the tokens it has seen.

    Attributes:
        key, value: [B, N, H, K].
        valid: bool [B, N], the slots that hold a token to attend to.
        length: int32 [], the slots written.
    """

    key: jax.Array
    value: jax.Array
    valid: jax.Array
    length: jax.Array


def dot_product_attention(query, key, value, mask=None):
    """Softmax attention (Vaswani et al., 2017, eq. 1), with float32 logits.

    Args:
        query: [B, T, H, K].
        key, value: [B, S, H, K].
        mask: bool, broadcastable to [B, H, T, S]; True attends.

    Returns:
        [B, T, H, K] in the dtype of `value`; zero where `mask` leaves no key.
    """
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum(
        "BTHK,BSHK->BHTS", query, key, preferred_element_type=jnp.float32
    )
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    greatest = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    weights = jnp.exp(logits - greatest)
    if mask is not None:
        weights = jnp.where(mask, weights, 0.0)
    total = weights.sum(axis=-1).swapaxes(1, 2)[..., None]
    out = jnp.einsum(
        "BHTS,BSHK->BTHK",
        weights.astype(value.dtype),
        value,
        preferred_element_type=jnp.float32,
    )
    if mask is not None:
        total = jnp.where(total == 0.0, 1.0, total)
    # Dividing last is T x K numbers, not T x S, and its gradient sums over K, not S.
    return (out / total).astype(value.dtype)


def softmax_mask(
    length, *, causal=False, mask=None, segment_ids=None, prefix_lengths=None
):
    """Joins what self-attention over `length` tokens may see into one mask.

    Args:
        causal: row t sees the columns s <= t.
        mask: bool [B, S] keys to keep, or broadcastable to [B, H, T, S].
        segment_ids: int [B, T]; tokens see their own segment.
        prefix_lengths: int [B]; the first columns that every row sees all the same.

    Returns:
        bool, broadcastable to [B, H, T, S], or None where all is seen.

    Raises:
        ValueError: the mask has 1, 3 or more than 4 dimensions.
    """
    seen = None if mask is None else key_mask(mask)
    if causal:
        index = jnp.arange(length)
        past = (index <= index[:, None])[None, None]
        if prefix_lengths is not None:
            past |= index < prefix_lengths[:, None, None, None]
        seen = past if seen is None else seen & past
    if segment_ids is not None:
        same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
        seen = same if seen is None else seen & same
    return seen


def key_mask(mask):
    """A key mask [B, S] as [B, 1, 1, S]; four dimensions stay as they are."""
    if mask.ndim not in (2, 4):
        raise ValueError(
            f"a mask of shape {mask.shape} is neither [B, S], keys to keep, nor "
            "broadcastable to [B, H, T, S]; give it 2 or 4 dimensions"
        )
    return mask if mask.ndim == 4 else mask[:, None, None, :]


class Attention(nn.Module):
    """Softmax attention over heads.

    Attributes:
        embed_dim: D, divisible by `num_heads` unless `head_dim` is given.
        head_dim: K; None is embed_dim / num_heads.
        causal: a token sees itself and the tokens before it.
        rotary: turns queries and keys by their positions.
        query_key_norm: as in `AttentionSpec`.
        use_bias: of all four projections.
        out_scale: variance of the initial `out` kernel, relative to 1 / D; 0 is zeros.
        cache_length: N, the tokens that `prefill` and `step` can hold.
        query_key_start, out_bias: as in `heads.projections`.
    """

    embed_dim: int
    num_heads: int
    causal: bool = False
    rotary: bool = False
    query_key_norm: bool = False
    use_bias: bool = False
    out_scale: float = 1.0
    head_dim: int | None = None
    cache_length: int | None = None
    query_key_start: float = heads.QUERY_KEY_START
    out_bias: bool | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        self.query, self.key, self.value, self.out = heads.projections(
            self, self.query_key_start, self.out_bias
        )
        if self.query_key_norm:
            self.query_norm, self.key_norm = heads.norm(self), heads.norm(self)

    def __call__(
        self,
        x,
        context=None,
        *,
        positions=None,
        mask=None,
        segment_ids=None,
        prefix_lengths=None,
    ):
        """Mixes [B, T, D] with itself, or with `context` [B, S, D].

        Args:
            positions: int [B, T], needed by rotary attention.
            mask, segment_ids, prefix_lengths: as in `softmax_mask`.
        """
        if context is not None:
            return self.recall(self.remember(context, mask), x)
        query, key, value = heads.project(self, x, positions)
        key, value = heads.silence(key, mask), heads.silence(value, mask)
        seen = softmax_mask(
            x.shape[1],
            causal=self.causal,
            mask=mask,
            segment_ids=segment_ids,
            prefix_lengths=prefix_lengths,
        )
        return self.out(dot_product_attention(query, key, value, seen))

    def remember(self, context, mask=None):
        return heads.remember(self, context, mask)

    def recall(self, memory, x):
        query = heads.project_query(self, x)
        mask = None if memory.mask is None else key_mask(memory.mask)
        return self.out(dot_product_attention(query, memory.key, memory.value, mask))

    def prefill(self, x, state=None, *, positions=None, mask=None, prefix_lengths=None):
        """Causal attention of [B, T, D] to itself and to what `state` holds.

        Args:
            state: `KeyValueCache`, or None for an empty one.
            positions: int [B, T].
            mask: bool [B, T], the tokens to attend to and to remember.
            prefix_lengths: int [B]; the first columns of x, which all of x sees.

        Returns:
            [B, T, D], NaN once the cache has overflowed; and the state.

        Raises:
            ValueError: `cache_length` is not set or below T.
        """
        batch, length, _ = x.shape
        if self.cache_length is None or length > self.cache_length:
            raise ValueError(
                f"softmax attention cannot decode {length} tokens with a cache of "
                f"{self.cache_length}: set a larger max_length (cache_length), or use "
                "kind 'causal_linear', whose state does not grow"
            )
        query, key, value = heads.project(self, x, positions)
        if state is None:
            state = _empty_cache(key, value, self.cache_length)
        mask = jnp.ones((batch, length), bool) if mask is None else mask
        key, value = heads.silence(key, mask), heads.silence(value, mask)
        # Counted from the first column of x: what came before it is negative.
        slots = jnp.arange(state.key.shape[1]) - state.length
        seen = (slots <= jnp.arange(length)[:, None])[None, None]
        if prefix_lengths is not None:
            seen |= slots < prefix_lengths[:, None, None, None]
        state = _append(state, key, value, mask)
        seen &= state.valid[:, None, None]
        out = dot_product_attention(query, state.key, state.value, seen)
        out = jnp.where(state.length <= slots.size, out, jnp.nan)
        return self.out(out), state

    def step(self, state, x, *, positions=None):
        """`prefill` of one token, x [B, 1, D]."""
        return self.prefill(x, state, positions=positions)


def make_attention(spec, *, causal, cache_length=None, **fields):
    """The module that `spec` describes; `fields` are those that both modules have.

    Raises:
        ValueError: the kind contradicts `causal`.
    """
    fields["query_key_norm"] = spec.query_key_norm
    if spec.kind == "softmax":
        return Attention(causal=causal, cache_length=cache_length, **fields)
    if causal != (spec.kind == "causal_linear"):
        raise ValueError(
            f"attention kind {spec.kind!r} in a block that is "
            f"{'causal' if causal else 'bidirectional'}; use "
            f"{'causal_linear' if causal else 'linear'!r} or 'softmax'"
        )
    return LinearAttention(
        feature_map=spec.feature_map,
        num_features=spec.num_features,
        chunk_size=spec.chunk_size,
        epsilon=spec.epsilon,
        causal=causal,
        **fields,
    )


def _empty_cache(key, value, slots):
    def buffer(x):
        return jnp.zeros((x.shape[0], slots, *x.shape[2:]), x.dtype)

    valid = jnp.zeros((key.shape[0], slots), bool)
    return KeyValueCache(buffer(key), buffer(value), valid, jnp.zeros((), jnp.int32))


def _append(cache, key, value, mask):
    def write(buffer, new):
        return jax.lax.dynamic_update_slice_in_dim(buffer, new, cache.length, axis=1)

    return KeyValueCache(
        key=write(cache.key, key),
        value=write(cache.value, value),
        valid=write(cache.valid, mask),
        length=cache.length + key.shape[1],
    )
