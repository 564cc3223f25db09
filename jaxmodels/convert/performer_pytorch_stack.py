"""One stack of performer-pytorch: its sizes and parameters by the names it gives.

Shapes use D width, H heads, K head width, F hidden width.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.convert.weights import Weights
from jaxmodels.layers.attention import AttentionSpec
from jaxmodels.layers.positions import sinusoidal_positions
from jaxmodels.train.errors import ConfigError

FEATURE_MAPS = ("favor_plus", "relu", "exponential")
# Added to the features of the softmax kernel by the original.
EPSILON = 1e-4


@dataclasses.dataclass
class Side:
    """One stack of performer-pytorch in a set of weights.

    Attributes:
        prefix: of the names, up to the model that holds the stack.
        cross: every second block attends to a context.
    """

    weights: Weights
    prefix: str
    feature_map: str
    causal: bool
    cross: bool = False

    def __post_init__(self):
        if self.feature_map not in FEATURE_MAPS:
            raise ConfigError(
                f"unknown feature_map {self.feature_map!r} of a performer-pytorch "
                f"model; choose one of {', '.join(FEATURE_MAPS)}"
            )
        weights, layers = self.weights, f"{self.prefix}performer.net.layers."
        if f"{layers}0.0.fn.to_q.weight" not in weights:
            layers = f"{self.prefix}net.layers."
        self.layers = layers
        first, mlp = f"{layers}0.0.fn", f"{layers}0.1.fn.fn"
        name = f"{first}.fast_attention.projection_matrix"
        self.num_features, self.head_dim = weights.shape(name)
        inner_dim, self.embed_dim = weights.shape(f"{first}.to_q.weight")
        self.num_heads = inner_dim // self.head_dim
        self.mlp_dim = weights.shape(f"{mlp}.w2.weight")[1]
        self.gated = weights.shape(f"{mlp}.w1.weight")[0] == 2 * self.mlp_dim
        self.activation = "geglu" if self.gated else "gelu"
        self.normalization = self._normalization(f"{layers}0.0.")
        names = [name for name in weights.names() if name.startswith(layers)]
        self.blocks = 1 + max(int(name[len(layers) :].split(".")[0]) for name in names)
        if self.cross and self.blocks % 2:
            raise ConfigError(
                f"{self.blocks} blocks under {layers} are no pairs of self- and "
                "cross-attention; was the model made with cross_attend=True?"
            )
        ends = ("to_q.bias", "to_out.bias")
        self.has_bias = any(name.endswith(ends) for name in names)
        self.projections = {}

    def sizes(self):
        """Fields that `Stack` and every model of one stack have."""
        return dict(
            embed_dim=self.embed_dim,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            num_layers=self.blocks // 2 if self.cross else self.blocks,
            head_dim=self.head_dim,
        )

    def attention(self, cross=False):
        causal = self.causal and not cross
        plain = self.feature_map == "exponential"
        return AttentionSpec(
            kind="causal_linear" if causal else "linear",
            feature_map=self.feature_map,
            num_features=None if plain else self.num_features,
            epsilon=EPSILON
            if self.feature_map == "favor_plus" and not causal
            else None,
        )

    def params(self, use_bias, final_norm=True):
        """Parameters of the stack; fills `projections` as well."""
        if not self.cross:
            parts = self._parts("", "", range(self.blocks), use_bias)
        else:
            inner = range(0, self.blocks, 2), range(1, self.blocks, 2)
            parts = self._parts("", "self_", inner[0], use_bias)
            parts |= self._parts("cross_", "", inner[1], use_bias)
        params = {"layers": parts}
        if final_norm:
            params["final_norm"] = self._layer_norm(f"{self.prefix}norm.")
        return params

    def embedding(self):
        """Tables of the embedding, the scheme of positions and their number."""
        prefix, weights = self.prefix, self.weights
        name = f"{prefix}token_emb.weight"
        table = {"embedding": weights.take(name, *weights.shape(name))}
        learned = f"{prefix}pos_emb.emb.weight"
        if learned in weights:
            length = weights.shape(learned)[0]
            values = weights.take(learned, length, self.embed_dim)
            return table | {"position": {"embedding": values}}, "learned", length
        length = weights.shape(f"{prefix}pos_emb.emb")[0]
        for name, width in (
            ("pos_emb", self.embed_dim),
            ("layer_pos_emb", self.head_dim),
        ):
            values = weights.take(f"{prefix}{name}.emb", length, width)
            expected = sinusoidal_positions(jnp.arange(length), width)
            # Angles near the length are rounded to about length x 1e-7.
            if not np.allclose(values, expected, atol=1e-4 + 1e-6 * length):
                raise ConfigError(
                    f"{prefix}{name}.emb of {weights.source} does not hold sinusoids "
                    "of base 10000; this package has no other fixed positions"
                )
        return table, "sinusoidal_rotary", length

    def head(self):
        name = f"{self.prefix}to_out."
        size = self.weights.shape(f"{name}bias")[0]
        kernel = self.weights.take(f"{name}weight", size, self.embed_dim)
        return {"kernel": kernel.T, "bias": self.weights.take(f"{name}bias", size)}

    def _parts(self, attention, mlp, blocks, use_bias):
        """Attention and feed-forward of some blocks, stacked over them.

        Args:
            attention, mlp: what stands before the names of these parts.
        """
        mixed = [self._attention(f"{self.layers}{i}.0.", use_bias) for i in blocks]
        kernels, projections = zip(*mixed, strict=True)
        if self.feature_map == "exponential":
            # Made, saved and not read where no_projection=True.
            projections = ()
        if projections:
            layers = self.projections.setdefault("layers", {})
            layers[f"{attention}attention"] = {"projection": np.stack(projections)}
        norms = [[self._norm(f"{self.layers}{i}.{j}.") for i in blocks] for j in (0, 1)]
        return {
            f"{attention}attention_norm": _stacked(norms[0]),
            f"{attention}attention": _stacked(kernels),
            f"{mlp}mlp_norm": _stacked(norms[1]),
            f"{mlp}mlp": _stacked(
                [self._mlp(f"{self.layers}{i}.1.fn.fn.") for i in blocks]
            ),
        }

    def _attention(self, prefix, use_bias):
        """The four projections of a block, and its random one."""
        width, heads, head_dim = self.embed_dim, self.num_heads, self.head_dim
        take, inner_dim, prefix = self.weights.take, heads * head_dim, f"{prefix}fn."
        params = {}
        for name in ("query", "key", "value"):
            kernel = take(f"{prefix}to_{name[0]}.weight", inner_dim, width)
            params[name] = {"kernel": kernel.T.reshape(width, heads, head_dim)}
            if use_bias:
                bias = self._bias(f"{prefix}to_{name[0]}.bias", inner_dim)
                params[name]["bias"] = bias.reshape(heads, head_dim)
        kernel = take(f"{prefix}to_out.weight", width, inner_dim)
        params["out"] = {"kernel": kernel.T.reshape(heads, head_dim, width)}
        if use_bias:
            params["out"]["bias"] = self._bias(f"{prefix}to_out.bias", width)
        name = f"{prefix}fast_attention.projection_matrix"
        return params, take(name, self.num_features, head_dim)

    def _mlp(self, prefix):
        take, hidden = self.weights.take, self.mlp_dim
        rows = 2 * hidden if self.gated else hidden
        kernel = take(f"{prefix}w1.weight", rows, self.embed_dim).T
        bias = take(f"{prefix}w1.bias", rows)
        params = {
            "up": {"kernel": kernel[:, -hidden:], "bias": bias[-hidden:]},
            "down": {
                "kernel": take(f"{prefix}w2.weight", self.embed_dim, hidden).T,
                "bias": take(f"{prefix}w2.bias", self.embed_dim),
            },
        }
        if self.gated:
            # The first half passes through the activation.
            params["gate"] = {"kernel": kernel[:, :hidden], "bias": bias[:hidden]}
        return params

    def _norm(self, prefix):
        if self.normalization == "layer_norm":
            return self._layer_norm(f"{prefix}norm.")
        shape = () if self.normalization == "rezero" else (1,)
        return {"gain": self.weights.take(f"{prefix}g", *shape).reshape(())}

    def _layer_norm(self, prefix):
        take = self.weights.take
        return {
            "scale": take(f"{prefix}weight", self.embed_dim),
            "bias": take(f"{prefix}bias", self.embed_dim),
        }

    def _normalization(self, prefix):
        if f"{prefix}g" not in self.weights:
            return "layer_norm"
        return "scale_norm" if self.weights.shape(f"{prefix}g") else "rezero"

    def _bias(self, name, size):
        if name in self.weights:
            return self.weights.take(name, size)
        return np.zeros(size, np.float32)


def _stacked(trees):
    """Equal trees as one, each leaf stacked on axis 0."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
