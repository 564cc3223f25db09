"""Performer encoder and decoder that summarize (Choromanski et al., 2021).

python -m experiments.train --config=configs/performer/summarization.py:tiny \
  --workdir=runs/docstrings

`tiny` writes the first docstring line of the Python standard library's functions;
`small` summarizes bills, `medium` many articles, `large` one, at the named sizes.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SIZES = {
    "tiny": dict(embed_dim=128, num_layers=2, num_heads=4, mlp_dim=512),
    "small": dict(embed_dim=256, num_layers=4, num_heads=4, mlp_dim=1024),
    "medium": dict(embed_dim=512, num_layers=6, num_heads=8, mlp_dim=2048),
    "large": dict(embed_dim=1024, num_layers=12, num_heads=16, mlp_dim=4096),
}
CODE = dict(dataset="python_docstrings", source_field="code", target_field="summary")
BYTES = dict(vocabulary="bytes", batch_size=16, source_length=512, target_length=80)
BILLS = dict(dataset="billsum", source_field="text", target_field="summary")
BILLS |= dict(train_split="train[:95%]", eval_split="train[95%:]")  # has no other
EVENTS = dict(dataset="multi_news", source_field="document", target_field="summary")
NEWS = dict(dataset="cnn_dailymail", source_field="article", target_field="highlights")
# Tokens start at 0.5 / sqrt(embed_dim), far below the sinusoids that they are added to.
EMBED_SCALES = {"tiny": 16.0, "small": 23.0, "medium": 32.0, "large": 45.0}
PAIRS = {"tiny": CODE, "small": BILLS, "medium": EVENTS, "large": NEWS}


def favor(kind):
    return dict(kind=kind, feature_map="favor_plus", num_features=placeholder(int))


def get_config(size="small"):
    tiny = size == "tiny"
    cross = dict(cross_attention=favor("linear"))
    kinds = dict(activation="geglu", normalization="layer_norm", tie_embeddings=True)
    model = dict(
        vocab_size=256 if tiny else 16_000,
        encoder=SIZES[size] | dict(attention=favor("linear")),
        decoder=SIZES[size] | cross | dict(attention=favor("causal_linear")),
        max_length=4096,
        dropout=0.1,
        positions="sinusoidal_rotary",
        **kinds,
        embed_scale=EMBED_SCALES[size],
        remat=not tiny,
        dtype="float32" if tiny else "bfloat16",
        param_dtype="float32",
    )
    rows = dict(vocabulary="sentencepiece", eval_split="validation", num_threads=2)
    policy = dict(train_split="train", on_bad_record="skip", max_bad_fraction=0.001)
    shape = dict(batch_size=64, source_length=4096, target_length=512)
    schedule = dict(schedule="cosine", end_fraction=0.1, clip_norm=1.0, ema_decay=0.0)
    rate = dict(learning_rate=2e-3 if tiny else 5e-4, weight_decay=0.1)
    rate |= dict(warmup_steps=100 if tiny else 4000, microbatches=1)
    loss = dict(feature_redraw_interval=1000, label_smoothing=0.0 if tiny else 0.1)
    bad_steps = dict(nonfinite_in_a_row=10, nonfinite_per_thousand=100)
    return ConfigDict(
        dict(
            experiment="performer_seq2seq",
            seed=0,
            model=model,
            data=rows | shape | policy | PAIRS[size] | (BYTES if tiny else {}),
            loss=loss,
            optimizer=dict(name="adamw", **rate, **schedule),
            eval=dict(num_batches=8),
            num_steps=1000 if tiny else 100_000,
            log_every=20 if tiny else 100,
            eval_every=100 if tiny else 2000,
            save_every=100 if tiny else 2000,
            limits=dict(hang_seconds=1800.0, compile_seconds=3600.0, **bad_steps),
            mesh=dict(data=-1, fsdp=1, model=1, seq=1),
        )
    )


def sweep():
    for learning_rate in (1e-3, 2e-3):
        yield {"optimizer.learning_rate": learning_rate}
