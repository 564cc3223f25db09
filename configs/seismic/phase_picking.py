"""Arrival times of P and S: probabilities of both, and of noise, at every sample.

python -m experiments.train --config=configs/seismic/phase_picking.py:tiny \
  --workdir=runs/p --config.data.num_train=64 --config.pretrained=runs/c

`pretrained` is a run of contrastive.py of the same size, for `masked_` of masked.py.
`streaming` sees no future. `data.second` adds picked records, `data.noise` noise.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

UNET = dict(kind="unet", pools=(4, 4), expansion=1, bidirectional="fused")
LAYERS = dict(kind="sequential", num_heads=4, bidirectional="fused", dropout=0.0)
SEISLM = dict(kind="transformer", num_layers=6, num_heads=12, mlp_dim=3072, dropout=0.0)
MASKS = dict(feature_mask_prob=0.2, feature_mask_length=10, mask_channel_prob=0.0)
# Width of the frames and, unless masked, of the convolutions; backbone.
SIZES: dict = {
    "tiny": (48, 48, UNET | dict(num_blocks=1)),
    "small": (64, 64, UNET | dict(num_blocks=2, expansion=2)),
    "base": (256, 256, UNET | dict(num_blocks=2)),
    "large": (256, 256, UNET | dict(num_blocks=2, expansion=2)),
    "seislm": (240, 256, SEISLM | dict(normalize_first=True)),
    "masked_tiny": (64, None, LAYERS | dict(num_blocks=3)),
    "masked_base": (256, None, LAYERS | dict(num_blocks=6)),
    "masked_large": (256, None, LAYERS | dict(num_blocks=12)),
    "streaming": (64, None, dict(num_layers=4, num_heads=4, head_channels=16)),
}


def get_config(size="base"):
    embed_dim, width, backbone = SIZES[size]
    tiny = size in ("tiny", "masked_tiny", "streaming")
    encoder: dict = dict(kind="bidir_autoreg", mask_token="learned", dropout=0.1)
    if width is not None:
        encoder = dict(kind="conv_down", conv_channels=(width,) * 2, dilation=1)
        padding = "valid" if size == "seislm" else "same"
        encoder |= dict(padding=padding, feature_projection="dense")
    model: dict = dict(backbone, kind="streaming")
    if size != "streaming":
        model = dict(kind="picker", encoder=encoder, head=dict(head_channels=(32, 32)))
        model |= dict(backbone=backbone | dict(remat=not tiny))
    model |= dict(embed_dim=embed_dim, param_dtype="float32")
    source: dict = dict(dataset="synthetic_motions", data_dir=placeholder(str))
    records = dict(num_records=4000 if tiny else 50_000, num_held_out=256)
    source |= dict(synthetic=records, train_split="train", eval_split="validation")
    source |= dict(num_train=placeholder(int), min_snr=placeholder(float))
    noise = dict(dataset=placeholder(str), train_split="train", share=0.3)
    second = dict(dataset=placeholder(str), train_split="train", share=0.5)
    source |= dict(augment=True, instruments=dict(town=0.0), second=second, noise=noise)
    signal: dict = dict(sampling_rate=100.0, channels=3, sigma=20.0, shape="gaussian")
    signal |= dict(num_samples=2048 if tiny else 4096, highpass=placeholder(float))
    signal |= dict(normalization="std", per_component=True, fill="zeros")
    policy = dict(on_bad_record="stop", max_bad_fraction=0.001, num_threads=2)
    num_steps = 2000 if tiny else 30_000
    rate: dict = dict(learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0, freeze=())
    rate |= dict(warmup_steps=num_steps // 10, schedule="cosine", end_fraction=0.0)
    nonfinite = dict(nonfinite_in_a_row=10, nonfinite_per_thousand=100)
    return ConfigDict(
        dict(
            experiment="phase_picking",
            seed=0,
            pretrained=placeholder(str),
            model=model | dict(dtype="float32" if tiny else "bfloat16"),
            data=source | signal | policy | dict(batch_size=16 if tiny else 128),
            loss=MASKS | dict(mask_channel_length=10),
            optimizer=dict(name="adamw", microbatches=1, ema_decay=0.0) | rate,
            eval=dict(num_batches=16),
            num_steps=num_steps,
            log_every=20 if tiny else 100,
            eval_every=250 if tiny else 2000,
            save_every=250 if tiny else 2000,
            limits=dict(hang_seconds=1800.0, compile_seconds=3600.0, **nonfinite),
            mesh=dict(data=-1, fsdp=1, model=1, seq=1),
        )
    )


def sweep():
    yield from ({"data.num_train": labels} for labels in (16, 64, 256))
