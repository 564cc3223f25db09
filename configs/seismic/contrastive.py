"""Contrastive pretraining on seismograms without labels, as wav2vec 2.0 on speech.

python -m experiments.train --config=configs/seismic/contrastive.py:tiny --workdir=c

`tiny` learns windows of 10 s of synthetic records in minutes on two CPU cores. `small`,
`base` and `large` have mLSTM U-Nets of 3.5, 10.7 and 53.9 M parameters; `seislm` is the
transformer of SeisLM-base (Liu et al., 2024). `data.dataset` and `data.second.dataset`
may be folders of SeisBench files. Pickers start from it: --config.pretrained=c.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

UNET = dict(kind="unet", pools=(4, 4), expansion=1, bidirectional="fused")
BASE = UNET | dict(num_blocks=2)
SEISLM = dict(kind="transformer", num_layers=6, num_heads=12, mlp_dim=3072, dropout=0.0)
# Width of the frames, of the convolutions and projections; codes a group; backbone.
SIZES = {
    "tiny": (48, 48, 32, UNET | dict(num_blocks=1)),
    "small": (64, 64, 64, BASE | dict(expansion=2)),
    "base": (256, 256, 320, BASE),
    "large": (256, 256, 320, BASE | dict(expansion=2)),
    "seislm": (240, 256, 320, SEISLM | dict(normalize_first=True)),
}
# Updates, windows, samples, learning rate: full runs are 40 epochs of eight data sets.
FULL, LARGE = (1_200_000, 112, 4096, 5e-4), (700_000, 192, 4096, 1e-3)
RUNS = {"tiny": (1000, 16, 1024, 1.5e-3), "small": (50_000, 64, 4096, 1e-3)}


def get_config(size="base"):
    embed_dim, width, codes, backbone = SIZES[size]
    full = LARGE if size == "large" else FULL
    num_steps, batch_size, num_samples, learning_rate = RUNS.get(size, full)
    tiny, seislm = size == "tiny", size == "seislm"
    encoder: dict = dict(kind="conv_down", conv_channels=(width, width), dilation=1)
    encoder |= dict(padding="valid" if seislm else "same", feature_projection="dense")
    quantizer: dict = dict(num_groups=2, num_codes=codes, code_dim=width)
    model: dict = dict(embed_dim=embed_dim, encoder=encoder, projection_dim=width)
    model |= dict(quantizer=quantizer | dict(scale_logits=seislm), feature_dropout=0.0)
    model |= dict(backbone=backbone | dict(remat=not tiny), param_dtype="float32")
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
    loss: dict = dict(temperature=0.1, num_negatives=100, perplexity_over="masked")
    loss |= dict(mask_rule="wav2vec2", mask_prob=0.65, mask_length=10, min_masks=2)
    loss |= dict(mask_channel_prob=0.0, mask_channel_length=10, diversity_weight=0.1)
    loss |= dict(gumbel_schedule="cosine", gumbel_start=2.0, gumbel_end=0.5)
    loss |= dict(gumbel_decay=0.999995)  # of gumbel_schedule "exponential", a step
    rate: dict = dict(learning_rate=learning_rate, weight_decay=0.0, clip_norm=1.0)
    rate |= dict(warmup_steps=num_steps // 5, schedule="cosine", end_fraction=0.0)
    nonfinite = dict(nonfinite_in_a_row=10, nonfinite_per_thousand=100)
    return ConfigDict(
        dict(
            experiment="contrastive",
            seed=0,
            model=model | dict(dtype="float32" if tiny else "bfloat16"),
            data=source | signal | policy,
            loss=loss,
            optimizer=dict(name="adamw", microbatches=1, ema_decay=0.0) | rate,
            eval=dict(num_batches=8),
            num_steps=num_steps,
            log_every=20 if tiny else 100,
            eval_every=200 if tiny else 5000,
            save_every=200 if tiny else 5000,
            limits=dict(hang_seconds=1800.0, compile_seconds=3600.0, **nonfinite),
            mesh=dict(data=-1, fsdp=1, model=1, seq=1),
        )
    )


def sweep():
    for over in ("masked", "valid"):
        yield {"loss.perplexity_over": over}
