"""Multi-head attention by a feature map, in time linear in the length.

Shapes use B batch, T query length, S key length, D width, H heads, K head width,
M features.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import (
    feature_maps,
    heads,
    linear_attention,
    linear_checks,
    linear_parallel,
)


class LinearAttention(nn.Module):
    """Attention by a feature map, in time linear in the length.

    The directions of random features are no parameters: they live in the collection
    "projections" as `projection` [rows, K], and change only when they are redrawn.

    Attributes:
        feature_map, num_features, chunk_size, query_key_norm, epsilon: as in
            `AttentionSpec`.
        head_dim, causal, rotary, use_bias, out_scale: as in `Attention`.

    Raises:
        ValueError: an epsilon that the feature map or a causal order cannot have.
    """

    embed_dim: int
    num_heads: int
    feature_map: str = "favor_plus"
    num_features: int | None = None
    chunk_size: int = 64
    causal: bool = False
    rotary: bool = False
    query_key_norm: bool = False
    use_bias: bool = False
    out_scale: float = 1.0
    head_dim: int | None = None
    epsilon: float | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        check_epsilon(self.feature_map, self.epsilon, self.causal)
        super().__post_init__()

    def setup(self):
        self.query, self.key, self.value, self.out = heads.projections(self)
        if self.query_key_norm:
            self.query_norm, self.key_norm = heads.norm(self), heads.norm(self)
        head_dim = heads.head_width(self.embed_dim, self.num_heads, self.head_dim)
        rows = num_rows(self.feature_map, self.num_features, head_dim)
        self.projection = None
        if rows is not None:
            self.projection = self.variable(
                "projections",
                "projection",
                lambda: feature_maps.orthogonal_projection(
                    self.make_rng("params"), rows, head_dim
                ),
            )

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
            mask: bool [B, S], the keys to attend to.
            segment_ids: int [B, T], causal only; tokens see their own segment.
            prefix_lengths: int [B], causal only; the first columns that every token
                sees.

        Raises:
            ValueError: a mask that a sum over keys cannot honour.
        """
        if context is not None:
            return self.recall(self.remember(context, mask), x)
        query, key, value = heads.project(self, x, positions, cut=True)
        if self.causal:
            out, _ = linear_parallel.causal_linear_attention(
                query,
                key,
                value,
                features=self._features(),
                mask=mask,
                segment_ids=segment_ids,
                prefix_lengths=prefix_lengths,
                chunk_size=self.chunk_size,
            )
            return self.out(out)
        if segment_ids is not None or prefix_lengths is not None:
            raise ValueError(
                "segment_ids and prefix_lengths need causal or softmax attention: "
                "bidirectional linear attention sums over the whole row; pad the "
                "documents into rows of their own, with a mask [B, S]"
            )
        return self.out(self._attend(self._sum(heads.Memory(key, value, mask)), query))

    def remember(self, context, mask=None):
        """The sum over the keys and values of `context`: its size has no S."""
        return self._sum(heads.remember(self, context, mask, cut=True))

    def recall(self, memory, x):
        query = heads.project_query(self, x, cut=True)
        return self.out(self._attend(memory, query))

    def prefill(self, x, state=None, *, positions=None, mask=None, prefix_lengths=None):
        """Causal attention of [B, T, D] to itself and to what `state` has summed.

        Args:
            state: of `linear_attention.initial_state`, or None for a new one.
            positions: int [B, T].
            mask: bool [B, T], the tokens to attend to and to remember.
            prefix_lengths: int [B]; the first columns of x, which all of x sees.

        Returns:
            [B, T, D] and the state, whose size does not depend on T.
        """
        query, key, value = heads.project(self, x, positions, cut=True)
        out, state = linear_parallel.causal_linear_attention(
            query,
            key,
            value,
            features=self._features(),
            mask=mask,
            prefix_lengths=prefix_lengths,
            state=state,
            chunk_size=self.chunk_size,
        )
        return self.out(out), state

    def step(self, state, x, *, positions=None):
        """`prefill` of one token, x [B, 1, D], in time that no length enters."""
        query, key, value = heads.project(self, x, positions, cut=True)
        state, out = linear_attention.linear_attention_step(
            state, query[:, 0], key[:, 0], value[:, 0], features=self._features()
        )
        return self.out(out[:, None]), state

    def _sum(self, memory):
        """The state of all keys, whatever their order."""
        key, features = memory.key, self._features()
        linear_checks.per_token(key, mask=memory.mask)
        if self.feature_map == "exponential":
            key = _log_softmax(key, memory.mask)
        elif self._adds_to_softmax():
            projection = self._directions()
            key = feature_maps.append_peak(projection, key, memory.mask)
            features = feature_maps.favor_plus_keys(projection, epsilon=self.epsilon)
        return linear_parallel.key_value_state(
            key, memory.value, features=features, mask=memory.mask
        )

    def _attend(self, state, query):
        """What each query reads of a state of `_sum`."""
        return linear_parallel.attend_to_state(state, query, features=self._features())

    def _features(self):
        """The map of queries, and of keys unless `_adds_to_softmax`."""
        options = {} if self.epsilon is None else {"epsilon": self.epsilon}
        if self._adds_to_softmax():
            return feature_maps.favor_plus_queries(self._directions(), **options)
        if self.feature_map == "relu":
            return feature_maps.relu(self._directions(), **options)
        return feature_maps.feature_map(self.feature_map)(self._directions())

    def _adds_to_softmax(self):
        """Whether features of the softmax kernel are relative to a peak."""
        return self.feature_map == "favor_plus" and bool(self.epsilon)

    def _directions(self):
        return None if self.projection is None else self.projection.value


def _log_softmax(key, mask):
    """Keys [B, S, H, K] minus the logarithm of the sum over S, float32 or wider."""
    key = key.astype(jnp.promote_types(key.dtype, jnp.float32))
    where = None if mask is None else mask[..., None, None]
    total = jax.nn.logsumexp(key, axis=1, keepdims=True, where=where)
    # Nothing reads keys that are all masked.
    return key - jnp.where(jnp.isneginf(total), 0.0, total)


def check_epsilon(feature_map, epsilon, causal):
    """Raises ValueError where a feature map or a causal order cannot have `epsilon`."""
    if epsilon is None:
        return
    if epsilon < 0:
        raise ValueError(f"attention epsilon {epsilon} must be at least 0, or None")
    if feature_map not in ("favor_plus", "relu"):
        raise ValueError(
            f"attention epsilon {epsilon} is added to the features of favor_plus or "
            f"relu alone, not to those of {feature_map!r}; leave it None"
        )
    if epsilon and causal and feature_map == "favor_plus":
        raise ValueError(
            f"attention epsilon {epsilon} in causal attention would leak the future: "
            "favor_plus adds it relative to the largest key of the whole sequence; "
            "use epsilon 0 or None"
        )


def num_rows(feature_map, num_features, head_dim):
    """Rows of the projection for `num_features`; None where there is no projection.

    `num_features` None stands for int(K ln K), made even for the maps that take each
    row twice, and for no projection in the maps that are published without one.
    """
    if num_features is None:
        if feature_map in ("elu_plus_one", "exponential"):
            return None
        num_features = max(2, int(head_dim * math.log(head_dim)))
        if feature_map in ("favor_hyperbolic", "trigonometric"):
            num_features += num_features % 2
    return feature_maps.projection_rows(feature_map, num_features)
