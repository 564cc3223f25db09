"""Performer language model: causal FAVOR+ attention (Choromanski et al., 2021).

python -m experiments.train --config=configs/performer/lm.py:tiny --workdir=runs/lm

`tiny` learns the Python standard library byte by byte in minutes on two CPU cores;
`small`, `medium` and `large` are the named sizes of the Performer seed document.
`data.dataset` may be a prepared TFDS data set or a folder of text, such as ./texts.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SIZES = {
    "tiny": dict(embed_dim=128, num_layers=2, num_heads=4, mlp_dim=512),
    "small": dict(embed_dim=256, num_layers=4, num_heads=4, mlp_dim=1024),
    "medium": dict(embed_dim=512, num_layers=6, num_heads=8, mlp_dim=2048),
    "large": dict(embed_dim=1024, num_layers=12, num_heads=16, mlp_dim=4096),
}


def get_config(size="small"):
    tiny = size == "tiny"
    attention = dict(kind="causal_linear", feature_map="favor_plus")
    model = dict(
        vocab_size=256,
        max_length=256 if tiny else 1024,
        dropout=0.0,
        attention=dict(num_features=placeholder(int), chunk_size=64, **attention),
        activation="geglu",
        normalization="layer_norm",
        positions="rotary",
        tie_embeddings=True,
        remat=not tiny,
        dtype="float32" if tiny else "bfloat16",
        param_dtype="float32",
    )
    source = dict(dataset="python_source", text_field="text", vocabulary="bytes")
    splits = dict(train_split="train", eval_split="validation")
    size_of_batch = dict(batch_size=16, length=256)
    if not tiny:
        size_of_batch = dict(batch_size=64, length=1024)
    policy = dict(on_bad_record="stop", max_bad_fraction=0.001)
    schedule = dict(schedule="cosine", end_fraction=0.1)
    limits = dict(nonfinite_in_a_row=10, nonfinite_per_thousand=100)
    return ConfigDict(
        dict(
            experiment="performer_lm",
            seed=0,
            model=model | SIZES[size],
            data=dict(num_threads=2, **source, **splits, **size_of_batch, **policy),
            loss=dict(feature_redraw_interval=1000),
            optimizer=dict(
                name="adamw",
                learning_rate=3e-3 if tiny else 6e-4,
                warmup_steps=50 if tiny else 1000,
                weight_decay=0.1,
                clip_norm=1.0,
                ema_decay=0.0,
                microbatches=1,
                **schedule,
            ),
            eval=dict(num_batches=16 if tiny else 64),
            num_steps=500 if tiny else 100_000,
            log_every=20 if tiny else 100,
            eval_every=100 if tiny else 2000,
            save_every=100 if tiny else 2000,
            limits=dict(hang_seconds=1800.0, compile_seconds=3600.0, **limits),
            mesh=dict(data=-1, fsdp=1, model=1, seq=1),
        )
    )


def sweep():
    for learning_rate in (1e-3, 3e-3, 1e-2):
        yield {"optimizer.learning_rate": learning_rate}
