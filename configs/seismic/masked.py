"""Pretraining by filling in three quarters of a seismogram, in spans of 10 frames.

python -m experiments.train --config=configs/seismic/masked.py:tiny --workdir=runs/m

`tiny` learns windows of 10 s of synthetic records in minutes on two CPU cores; `base`
and `large` have 6 and 12 bidirectional mLSTM layers of width 256. What is predicted is
the waveform of a hidden frame in the unit of its own patch (`loss.target` "raw"), or
what the encoder makes of it, with ("tokens") or without ("tokens_sg") a gradient; the
encoder learns to make all "tokens" alike. Hidden frames are a learned vector: those of
zeros (`model.encoder.mask_token` "zero") get nothing from the first layer. What is
learned is the start of configs/seismic/phase_picking.py:masked_tiny, masked_base and
masked_large, with --config.pretrained=runs/m.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# Width, layers; updates, windows, samples, learning rate.
SIZES = {
    "tiny": (64, 3, 1500, 16, 1024, 1.5e-3),
    "base": (256, 6, 500_000, 112, 4096, 5e-4),
    "large": (256, 12, 500_000, 112, 4096, 5e-4),
}


def get_config(size="base"):
    embed_dim, num_blocks, num_steps, batch_size, num_samples, peak = SIZES[size]
    tiny = size == "tiny"
    backbone: dict = dict(kind="sequential", num_blocks=num_blocks, num_heads=4)
    backbone |= dict(bidirectional="fused", dropout=0.0, remat=not tiny)
    encoder = dict(kind="bidir_autoreg", mask_token="learned", dropout=0.0)
    model: dict = dict(embed_dim=embed_dim, encoder=encoder, backbone=backbone)
    model |= dict(dtype="float32" if tiny else "bfloat16", param_dtype="float32")
    source: dict = dict(dataset="synthetic_motions", data_dir=placeholder(str))
    records = dict(num_records=4000 if tiny else 200_000, num_held_out=256)
    source |= dict(synthetic=records, train_split="train", eval_split="validation")
    noise = dict(dataset=placeholder(str), train_split="train", share=0.3)
    second = dict(dataset=placeholder(str), train_split="train", share=0.5)
    source |= dict(augment=True, second=second, noise=noise)
    signal: dict = dict(sampling_rate=100.0, channels=3, num_samples=num_samples)
    signal |= dict(normalization="std", per_component=True, fill="copy")
    signal |= dict(highpass=placeholder(float), batch_size=batch_size)
    policy = dict(on_bad_record="stop", max_bad_fraction=0.001, num_threads=2)
    loss: dict = dict(target="raw", mask_rule="exact", mask_prob=0.75, mask_length=10)
    rate: dict = dict(learning_rate=peak, weight_decay=0.0, clip_norm=1.0)
    rate |= dict(warmup_steps=num_steps // 10, schedule="cosine", end_fraction=0.0)
    nonfinite = dict(nonfinite_in_a_row=10, nonfinite_per_thousand=100)
    return ConfigDict(
        dict(
            experiment="masked",
            seed=0,
            model=model,
            data=source | signal | policy,
            loss=loss,
            optimizer=dict(name="adamw", microbatches=1, ema_decay=0.0) | rate,
            eval=dict(num_batches=8),
            num_steps=num_steps,
            log_every=20 if tiny else 100,
            eval_every=250 if tiny else 5000,
            save_every=250 if tiny else 5000,
            limits=dict(hang_seconds=1800.0, compile_seconds=3600.0, **nonfinite),
            mesh=dict(data=-1, fsdp=1, model=1, seq=1),
        )
    )


def sweep():
    for target in ("raw", "tokens_sg", "tokens"):
        yield {"loss.target": target}
