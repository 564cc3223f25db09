"""Low-pass seismogram to broadband, by conditional diffusion, with `SignalDiT`.

python -m experiments.train --config=configs/seismic/signal_dit.py:tiny --workdir=runs/d

`tiny` learns 20 s at 50 Hz of synthetic records in minutes on two CPU cores. `seed` is
the size of the seed document, one component of 60 s at 100 Hz; `seed_literal` sees the
condition by cross-attention alone; `base` and `large` have three components.
`data.dataset` may also be "ridgecrest", "napa" or a folder of SeisBench or miniSEED
files (in counts: `data.reader`). --init_from=DIR trains on, here without one station:

python -m experiments.train --config=configs/seismic/signal_dit.py:tiny \
  --workdir=runs/tuned/CI.TOW2 --init_from=runs/d --config.num_steps=300 \
  --config.data.dataset=ridgecrest --config.optimizer.learning_rate=1e-4 \
  --config.data.train_split=-CI.TOW2 --config.data.eval_split=CI.TOW2
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

TINY = dict(embed_dim=96, num_heads=4, mlp_dim=384, attention="full")
SEED = dict(embed_dim=300, num_heads=10, mlp_dim=512, attention="linformer")
LARGE = dict(embed_dim=384, num_heads=12, mlp_dim=1536, attention="full")
SIZES = {
    "tiny": dict(channels=3, encoder_layers=2, decoder_layers=3, **TINY),
    "seed": dict(channels=1, **SEED),
    "seed_literal": dict(channels=1, injection="cross", **SEED),
    "base": dict(channels=3, **SEED),
    "large": dict(channels=3, **LARGE),
}


def get_config(size="base"):
    tiny = size == "tiny"
    model: dict = dict(num_samples=1000 if tiny else 6000, patch_size=20)
    model |= dict(encoder_layers=4, decoder_layers=8, film="single", injection="tokens")
    model |= dict(linformer_rank=64, linformer_sharing="headwise", amplitude_head=True)
    model |= dict(num_scalars=2, time_scale=1000.0, remat=not tiny)
    model |= dict(dtype="float32" if tiny else "bfloat16", param_dtype="float32")
    source: dict = dict(dataset="synthetic_motions", data_dir=placeholder(str))
    reader: dict = dict(sensitivity=placeholder(float), inventory=placeholder(str))
    reader |= dict(unit=placeholder(str), split_by="file", missing="zeros")
    source |= dict(synthetic=dict(num_records=4000 if tiny else 200_000), reader=reader)
    source |= dict(train_split="train", eval_split="validation", min_snr=3.0)
    signal: dict = dict(sampling_rate=50.0, corner=(1.0, 1.0)) if tiny else {}
    signal = dict(sampling_rate=100.0, corner=(0.5, 5.0), causal=False) | signal
    signal |= dict(normalization="own_std", target="broadband", amplitude=True)
    signal |= dict(augment=dict(shift=True, rotate=True, polarity=True, gain=0.3))
    policy = dict(on_bad_record="stop", max_bad_fraction=0.001, num_threads=2)
    rate: dict = dict(learning_rate=1e-3 if tiny else 2e-4, weight_decay=0.01)
    rate |= dict(warmup_steps=50 if tiny else 5000, microbatches=1, clip_norm=1.0)
    rate |= dict(schedule="cosine", end_fraction=0.0)
    loss: dict = dict(process="cosine", parameterization="velocity")
    loss |= dict(loss_weight=placeholder(str), condition_dropout=0.1)
    nonfinite = dict(nonfinite_in_a_row=10, nonfinite_per_thousand=100)
    return ConfigDict(
        dict(
            experiment="signal_dit",
            seed=0,
            model=model | SIZES[size],
            data=source | signal | policy | dict(batch_size=16 if tiny else 256),
            loss=loss | dict(amplitude_scale=0.05),
            optimizer=dict(name="adamw", ema_decay=0.995 if tiny else 0.9999) | rate,
            eval=dict(num_batches=6 if tiny else 16),
            num_steps=6000 if tiny else 200_000,
            log_every=100,
            eval_every=500 if tiny else 2000,
            save_every=1000 if tiny else 2000,
            limits=dict(hang_seconds=1800.0, compile_seconds=3600.0, **nonfinite),
            mesh=dict(data=-1, fsdp=1, model=1, seq=1),
        )
    )


def sweep():
    for encoder_layers, decoder_layers in ((2, 10), (4, 8), (6, 6)):
        layers = dict(encoder_layers=encoder_layers, decoder_layers=decoder_layers)
        yield {f"model.{name}": number for name, number in layers.items()}
    yield {"model.injection": "tokens"}  # what the ablations are compared with
    yield {"model.injection": "cross"}
    yield {"model.injection": "direct", "model.encoder_layers": 0}
