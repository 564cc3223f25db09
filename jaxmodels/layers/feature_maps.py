"""Feature maps of linear attention: kernels written as inner products.

A feature map is a callable pytree, `features(x)`, made by a constructor of this
file: it maps vectors [..., K] to the pair

    values [..., M], log_scale [...] or None,

which stands for the features `values * exp(log_scale)`. The scale is kept apart
so that no exponential overflows: attention combines scales as online softmax
does. Any `jax.tree_util.Partial` with this contract serves as well.

Shapes use K head width, M features, R rows of the random projection.
"""

import difflib
import math

import jax
import jax.numpy as jnp

Partial = jax.tree_util.Partial


def orthogonal_projection(rng, num_features, head_dim, *, ortho_scaling=1.0):
    """Draws the directions of random features, orthogonal in blocks of `head_dim`.

    Each block is a Haar-distributed orthogonal matrix: the Q of a Gaussian matrix
    whose R has a positive diagonal (Mezzadri, 2007). With the signs that QR leaves,
    the kernel estimate is biased by more than ten percent for inputs with a mean.

    Args:
        rng: PRNG key.
        num_features: R, the rows drawn.
        head_dim: K.
        ortho_scaling: 1.0 gives every row the norm sqrt(K), which has the lower
            error; 0.0 the norm of a Gaussian vector of its own, which makes the
            estimate unbiased (Choromanski et al., 2021).

    Returns:
        float32 [R, K].

    Raises:
        ValueError: a size below 1, or another `ortho_scaling`.
    """
    if num_features < 1 or head_dim < 1:
        raise ValueError(
            f"a projection of {num_features} x {head_dim} is empty: num_features "
            "and head_dim must be at least 1"
        )
    if ortho_scaling not in (0.0, 1.0):
        raise ValueError(
            f"ortho_scaling is {ortho_scaling}; choose 1.0 (equal norms) or 0.0 "
            "(Gaussian norms)"
        )
    square_rng, norm_rng = jax.random.split(rng)
    num_blocks = -(-num_features // head_dim)
    square = jax.random.normal(square_rng, (num_blocks, head_dim, head_dim))
    rows = _orthonormalize(square).reshape(-1, head_dim)[:num_features]
    if ortho_scaling == 1.0:
        return rows * head_dim**0.5
    gaussian = jax.random.normal(norm_rng, (num_features, head_dim))
    return rows * jnp.linalg.norm(gaussian, axis=-1, keepdims=True)


def _orthonormalize(rows):
    """Gram-Schmidt, each row twice (Giraud et al., 2005); [N, K, K] to the same.

    In JAX itself rather than by LAPACK's QR: that one hands its batch to the threads
    that run the other devices of a host, which may all be waiting for this one.
    """

    def step(index, rows):
        earlier = (jnp.arange(rows.shape[1]) < index)[:, None]
        basis = jnp.where(earlier, rows, 0.0)
        row = rows[:, index]
        for _ in range(2):
            along = jnp.sum(basis * row[:, None], axis=-1)
            row -= jnp.sum(along[..., None] * basis, axis=1)
        row /= jnp.linalg.norm(row, axis=-1, keepdims=True)
        return rows.at[:, index].set(row)

    return jax.lax.fori_loop(0, rows.shape[1], step, rows)


def favor_plus(projection):
    """Positive features of the softmax kernel exp(q.k / sqrt(K)).

    phi(x) = R^-1/2 exp(W x' - |x'|^2 / 2) with x' = x K^-1/4 (Choromanski et al.,
    2021, lemma 1). M = R.

    Args:
        projection: [R, K], from `orthogonal_projection`.
    """
    return Partial(_favor_plus, _needed(projection, "favor_plus"))


def favor_plus_queries(projection, *, epsilon):
    """`favor_plus` of queries whose keys have the features of `favor_plus_keys`.

    Args:
        projection: [R, K].
        epsilon: added to each feature divided by exp(peak), where the peak of a query
            is the largest entry of its W x'.
    """
    projection = _needed(projection, "favor_plus_queries")
    return Partial(_favor_plus_queries, projection, epsilon)


def favor_plus_keys(projection, *, epsilon):
    """`favor_plus` of keys, relative to one peak for all of them; M = R.

    Published implementations add epsilon so, and weights trained with it expect it
    (1e-4 in performer-pytorch). As every key changes the peak, a causal order is none.

    Args:
        projection: [R, K].
        epsilon: added to each feature divided by exp(peak).

    Returns:
        The map of what `append_peak` gives, [..., K + 1].
    """
    projection = _needed(projection, "favor_plus_keys")
    return Partial(_favor_plus_keys, projection, epsilon)


def append_peak(projection, key, mask=None):
    """Keys with the largest entry of W x' over all of them as one more channel.

    Args:
        projection: [R, K].
        key: [B, S, H, K].
        mask: bool [B, S], True for keys that count; None is all.

    Returns:
        [B, S, H, K + 1], float32 or wider; the peak is a constant under
        differentiation.
    """
    constant = jax.lax.stop_gradient(_scaled(key))

    def largest(row):
        logits = jnp.einsum("BSHK,K->BSH", constant, row.astype(constant.dtype))
        if mask is not None:
            logits = jnp.where(mask[..., None], logits, jnp.finfo(logits.dtype).min)
        return jnp.max(logits, axis=1, keepdims=True)

    # A few directions at a time: [B, S, H, R] would grow with the length.
    peak = jax.lax.map(largest, jax.lax.stop_gradient(projection), batch_size=16)
    peak = jnp.broadcast_to(jnp.max(peak, axis=0), key.shape[:-1])
    return jnp.concatenate([key.astype(peak.dtype), peak[..., None]], axis=-1)


def favor_hyperbolic(projection):
    """Positive features that use each direction with both signs; M = 2 R.

    phi(x) = (2 R)^-1/2 exp(-|x'|^2 / 2) [exp(W x'), exp(-W x')] (Choromanski et
    al., 2021, lemma 1): the variance of `favor_plus` or less, from half the rows.
    """
    return Partial(_favor_hyperbolic, _needed(projection, "favor_hyperbolic"))


def trigonometric(projection):
    """Random Fourier features of the softmax kernel; M = 2 R.

    phi(x) = R^-1/2 exp(|x'|^2 / 2) [sin(W x'), cos(W x')]. The only map here with
    negative values, so a normalizer may vanish; kept for comparison.
    """
    return Partial(_trigonometric, _needed(projection, "trigonometric"))


def relu(projection=None, *, epsilon=1e-3):
    """relu(W x') + epsilon, the generalized attention of Performer.

    Args:
        projection: [R, K], M = R; None applies the function to x' itself, M = K.
        epsilon: keeps every normalizer positive; 1e-3 is Performer's.
    """
    return Partial(_relu, projection, epsilon)


def elu_plus_one(projection=None):
    """elu(x) + 1 (Katharopoulos et al., 2020, eq. 7), M = K.

    Args:
        projection: None applies it to x, as published; [R, K] to W x', M = R.
    """
    return Partial(_elu_plus_one, projection)


def exponential(projection=None):
    """exp(x), M = K: a softmax of each query over its channels.

    With keys that are a softmax over the length in each channel, this is efficient
    attention (Shen et al., 2021, eq. 4); it takes no projection.

    Raises:
        ValueError: a projection is given.
    """
    if projection is not None:
        raise ValueError("exponential takes no projection; leave it None")
    return Partial(_exponential)


FEATURE_MAPS = {
    "favor_plus": favor_plus,
    "favor_hyperbolic": favor_hyperbolic,
    "relu": relu,
    "elu_plus_one": elu_plus_one,
    "trigonometric": trigonometric,
    "exponential": exponential,
}


def feature_map(name):
    """The constructor of a feature map: `feature_map("favor_plus")(projection)`.

    Raises:
        ValueError: no map has that name.
    """
    if name not in FEATURE_MAPS:
        close = difflib.get_close_matches(str(name), FEATURE_MAPS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(
            f"unknown feature map {name!r}{hint} Known: {', '.join(FEATURE_MAPS)}"
        )
    return FEATURE_MAPS[name]


def projection_rows(name, num_features):
    """Rows R of the projection that gives map `name` its M = `num_features`.

    Raises:
        ValueError: no map has that name, a map that uses each row twice is asked for
            an odd number, or one without a projection for any.
    """
    feature_map(name)
    if name == "exponential":
        raise ValueError(
            f"exponential has one feature a channel and no projection: num_features "
            f"{num_features} must be None"
        )
    if name not in ("favor_hyperbolic", "trigonometric"):
        return num_features
    if num_features % 2:
        raise ValueError(
            f"{name} makes two features of each row: num_features {num_features} "
            "is odd; choose an even number"
        )
    return num_features // 2


def _needed(projection, name):
    if projection is None:
        raise ValueError(
            f"{name} needs a projection [rows, head_dim]; draw one with "
            "orthogonal_projection(rng, num_features, head_dim)"
        )
    return projection


def _scaled(x):
    """x' = x K^-1/4 in float32 or wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)) * x.shape[-1] ** -0.25


def _project(projection, x):
    if jnp.ndim(projection) != 2 or projection.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"a projection of shape {jnp.shape(projection)} does not fit vectors of "
            f"width {x.shape[-1]}; it must be [rows, {x.shape[-1]}]"
        )
    return jnp.einsum("...K,RK->...R", x, projection.astype(x.dtype))


def _half_square(x):
    return 0.5 * jnp.sum(x * x, axis=-1)


def _favor_plus(projection, x):
    x = _scaled(x)
    logits = _project(projection, x)
    # The scale is a choice, not a quantity: what it adds here it removes there.
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    rows = logits.shape[-1]
    log_scale = peak - _half_square(x) - 0.5 * math.log(rows)
    return jnp.exp(logits - peak[..., None]), log_scale


def _favor_plus_queries(projection, epsilon, x):
    values, log_scale = _favor_plus(projection, x)
    # |x'|^2 / 2 stays with the features: what is added does not shrink with it.
    values *= jnp.exp(-_half_square(_scaled(x)))[..., None]
    return values + epsilon, None


def _favor_plus_keys(projection, epsilon, x):
    x, peak = _scaled(x[..., :-1]), x[..., -1]
    exponents = _project(projection, x) - (_half_square(x) + peak)[..., None]
    return jnp.exp(exponents) + epsilon, None


def _favor_hyperbolic(projection, x):
    x = _scaled(x)
    logits = _project(projection, x)
    peak = jax.lax.stop_gradient(jnp.max(jnp.abs(logits), axis=-1))
    both = jnp.concatenate([logits, -logits], axis=-1)
    log_scale = peak - _half_square(x) - 0.5 * math.log(both.shape[-1])
    return jnp.exp(both - peak[..., None]), log_scale


def _trigonometric(projection, x):
    x = _scaled(x)
    angles = _project(projection, x)
    values = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return values, _half_square(x) - 0.5 * math.log(angles.shape[-1])


def _relu(projection, epsilon, x):
    x = _scaled(x)
    x = x if projection is None else _project(projection, x)
    return jax.nn.relu(x) + jnp.asarray(epsilon, x.dtype), None


def _elu_plus_one(projection, x):
    if projection is None:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    else:
        x = _project(projection, _scaled(x))
    return jax.nn.elu(x) + 1, None


def _exponential(x):
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    peak = jax.lax.stop_gradient(jnp.max(x, axis=-1))
    return jnp.exp(x - peak[..., None]), peak
