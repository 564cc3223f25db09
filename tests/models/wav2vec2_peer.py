"""Weights of a PyTorch wav2vec 2.0, or of SeisLM, as parameters of ours."""

import numpy as np


def config_fields(**changes):
    """A small model of two strided convolutions, without anything random."""
    fields = dict(
        conv_dim=[8, 8],
        conv_kernel=[3, 3],
        conv_stride=[2, 2],
        conv_bias=True,
        num_feat_extract_layers=2,
        feat_extract_norm="layer",
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_codevector_groups=2,
        num_codevectors_per_group=5,
        codevector_dim=8,
        proj_codevector_dim=6,
        contrastive_logits_temperature=0.1,
        diversity_loss_weight=0.1,
        mask_time_prob=0.65,
        mask_feature_prob=0.0,
    )
    names = "hidden activation attention feat_proj feat_quantizer"
    fields |= {f"{name}_dropout": 0.0 for name in names.split()}
    return fields | dict(layerdrop=0.0) | changes


def params(arrays, num_heads, num_groups):
    """Our parameters, of {name: array} of PyTorch; gradients have the same form."""
    layers = [
        _layer(arrays, f"wav2vec2.encoder.layers.{i}", num_heads)
        for i in range(_number(arrays, "wav2vec2.encoder.layers"))
    ]
    convolutions = {}
    for i in range(_number(arrays, "wav2vec2.feature_extractor.conv_layers")):
        name = f"wav2vec2.feature_extractor.conv_layers.{i}"
        kernel = arrays[f"{name}.conv.weight"].transpose(2, 1, 0)
        bias = arrays[f"{name}.conv.bias"]
        convolutions[f"conv_{i}"] = {"kernel": kernel, "bias": bias}
        convolutions[f"norm_{i}"] = _norm(arrays, f"{name}.layer_norm")
    place = "wav2vec2.encoder.pos_conv_embed.conv"
    direction = arrays[f"{place}.parametrizations.weight.original1"]
    codes = arrays["quantizer.codevectors"][0]
    return {
        "encoder": {
            "feature_extractor": convolutions,
            "feature_norm": _norm(arrays, "wav2vec2.feature_projection.layer_norm"),
            "projection": _dense(arrays, "wav2vec2.feature_projection.projection"),
            "mask_embedding": arrays["wav2vec2.masked_spec_embed"],
        },
        "backbone": {
            "positions": {
                "kernel": direction.transpose(2, 1, 0),
                "gain": arrays[f"{place}.parametrizations.weight.original0"].ravel(),
                "bias": arrays[f"{place}.bias"],
            },
            "norm": _norm(arrays, "wav2vec2.encoder.layer_norm"),
            "layers": _stacked(layers),
        },
        "quantizer": {
            "weight_projection": _dense(arrays, "quantizer.weight_proj"),
            "codebook": codes.reshape(num_groups, -1, codes.shape[-1]),
        },
        "project_hidden": _dense(arrays, "project_hid"),
        "project_codes": _dense(arrays, "project_q"),
    }


def numpy_of(tensors):
    return {name: x.detach().numpy().copy() for name, x in tensors.items()}


def flat_negatives(negatives):
    """Frames of a row as rows of all frames of the batch, which the peer takes."""
    batch, frames, _ = negatives.shape
    return np.asarray(negatives) + frames * np.arange(batch)[:, None, None]


def fixed_gumbel_softmax(torch, noise):
    """In the place of torch's: the same estimator from given noise [B, T, G, V]."""

    def gumbel_softmax(logits, tau=1.0, hard=False):
        noisy = logits + torch.tensor(np.array(noise)).reshape(logits.shape)
        soft = (noisy / tau).softmax(dim=-1)
        one = torch.nn.functional.one_hot(soft.argmax(dim=-1), soft.shape[-1])
        return one - soft.detach() + soft

    return gumbel_softmax


def _layer(arrays, name, num_heads):
    def heads(part):
        weight = arrays[f"{name}.attention.{part}_proj.weight"].T
        bias = arrays[f"{name}.attention.{part}_proj.bias"]
        kernel = weight.reshape(len(weight), num_heads, -1)
        return {"kernel": kernel, "bias": bias.reshape(num_heads, -1)}

    out = _dense(arrays, f"{name}.attention.out_proj")
    width = out["kernel"].shape[-1]
    out["kernel"] = out["kernel"].reshape(num_heads, -1, width)
    return {
        "attention": {
            "query": heads("q"),
            "key": heads("k"),
            "value": heads("v"),
            "out": out,
        },
        "attention_norm": _norm(arrays, f"{name}.layer_norm"),
        "mlp": {
            "up": _dense(arrays, f"{name}.feed_forward.intermediate_dense"),
            "down": _dense(arrays, f"{name}.feed_forward.output_dense"),
        },
        "mlp_norm": _norm(arrays, f"{name}.final_layer_norm"),
    }


def _number(arrays, name):
    """How many numbered parts there are below a name."""
    below = [key.removeprefix(f"{name}.") for key in arrays if key.startswith(name)]
    return len({key.split(".")[0] for key in below})


def _dense(arrays, name):
    return {"kernel": arrays[f"{name}.weight"].T, "bias": arrays[f"{name}.bias"]}


def _norm(arrays, name):
    return {"scale": arrays[f"{name}.weight"], "bias": arrays[f"{name}.bias"]}


def _stacked(trees):
    """Equal trees as one, with an axis in front."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: _stacked([tree[name] for tree in trees]) for name in first}
    return np.stack(trees)
