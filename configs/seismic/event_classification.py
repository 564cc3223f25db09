"""Classes of events from their waveforms, with a pretrained encoder and backbone.

python -m experiments.train \
  --config=configs/seismic/event_classification.py:tiny --workdir=runs/e

Where no records say otherwise, the classes are two regions of synthetic events that
differ in attenuation alone, in place of fore- and aftershocks. For a folder of
SeisBench files `data.label` names a column of its metadata. --config.pretrained=DIR
starts from a run of contrastive.py of the same size, for `masked_` sizes of masked.py.
--config.optimizer.freeze="('encoder/feature_extractor',)" leaves the convolutions as
they are, as the fine-tuning of SeisLM does (Liu et al., 2024), "('encoder',)" more.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

UNET = dict(kind="unet", pools=(4, 4), expansion=1, bidirectional="fused")
LAYERS = dict(kind="sequential", num_heads=4, bidirectional="fused", dropout=0.0)
SEISLM = dict(kind="transformer", num_layers=6, num_heads=12, mlp_dim=3072, dropout=0.0)
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
}


def get_config(size="base"):
    (embed_dim, width, backbone), tiny = SIZES[size], size.endswith("tiny")
    encoder: dict = dict(kind="bidir_autoreg", mask_token="learned", dropout=0.1)
    if width is not None:
        encoder = dict(kind="conv_down", conv_channels=(width,) * 2, dilation=1)
        padding = "valid" if size == "seislm" else "same"
        encoder |= dict(padding=padding, feature_projection="dense")
    head: dict = dict(num_classes=2, head_channels=(32, 32) if tiny else (64, 64))
    model: dict = dict(embed_dim=embed_dim, encoder=encoder)
    model |= dict(backbone=backbone | dict(remat=not tiny))
    model |= dict(head=head | dict(dropout=0.2))
    model |= dict(dtype="float32" if tiny else "bfloat16", param_dtype="float32")
    source: dict = dict(dataset="synthetic_motions", data_dir=placeholder(str))
    records = dict(num_records=2000 if tiny else 50_000, num_held_out=256)
    source |= dict(synthetic=records, train_split="train", eval_split="validation")
    source |= dict(label="region", num_train=placeholder(int), augment=True)
    signal: dict = dict(sampling_rate=100.0, channels=3, num_samples=2048)
    signal |= dict(normalization="std", per_component=True, fill="zeros")
    signal |= dict(highpass=placeholder(float), batch_size=16 if tiny else 128)
    policy = dict(on_bad_record="stop", max_bad_fraction=0.001, num_threads=2)
    num_steps = 600 if tiny else 6000
    rate: dict = dict(learning_rate=1e-3 if tiny else 4e-4, weight_decay=0.1)
    rate |= dict(warmup_steps=num_steps // 10, schedule="cosine", end_fraction=0.0)
    rate |= dict(clip_norm=1.0, freeze=())
    nonfinite = dict(nonfinite_in_a_row=10, nonfinite_per_thousand=100)
    return ConfigDict(
        dict(
            experiment="event_classification",
            seed=0,
            pretrained=placeholder(str),
            model=model,
            data=source | signal | policy,
            loss=dict(label_smoothing=0.0),
            optimizer=dict(name="adamw", microbatches=1, ema_decay=0.0) | rate,
            eval=dict(num_batches=8),
            num_steps=num_steps,
            log_every=20 if tiny else 100,
            eval_every=100 if tiny else 1000,
            save_every=100 if tiny else 1000,
            limits=dict(hang_seconds=1800.0, compile_seconds=3600.0, **nonfinite),
            mesh=dict(data=-1, fsdp=1, model=1, seq=1),
        )
    )


def sweep():
    for names in ((), ("encoder/feature_extractor",), ("encoder",)):
        yield {"optimizer.freeze": names}
