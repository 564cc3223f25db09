"""Classification with a Performer encoder: ListOps of the Long Range Arena.

python -m experiments.train --config=configs/performer/classify.py:tiny --workdir=runs/c

`tiny` learns short ListOps expressions in minutes on two CPU cores; `small`, `medium`
and `large` are the named sizes of the Performer seed document, on expressions of 501 to
1999 tokens. `data.dataset` may also be a .tsv or .jsonl file, such as ./rows.tsv, or a
TFDS data set; either needs a vocabulary, its size and the number of classes:

python -m experiments.train --config=configs/performer/classify.py:small \
  --workdir=runs/imdb --config.data.dataset=imdb_reviews \
  '--config.data.train_split=train[:90%]' '--config.data.eval_split=train[90%:]' \
  --config.data.vocabulary=bytes --config.model.vocab_size=256 \
  --config.model.num_classes=2
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SIZES = {
    "tiny": dict(embed_dim=64, num_layers=2, num_heads=4, mlp_dim=128),
    "small": dict(embed_dim=256, num_layers=4, num_heads=4, mlp_dim=1024),
    "medium": dict(embed_dim=512, num_layers=6, num_heads=8, mlp_dim=2048),
    "large": dict(embed_dim=1024, num_layers=12, num_heads=16, mlp_dim=4096),
}
LONG = dict(max_depth=10, max_args=10, min_tokens=501, max_tokens=1999)
SHORT = dict(max_depth=3, max_args=5, min_tokens=6, max_tokens=31)


def get_config(size="small"):
    tiny = size == "tiny"
    model = dict(
        vocab_size=16,
        num_classes=10,
        max_length=32 if tiny else 2000,
        dropout=0.0 if tiny else 0.1,
        attention=dict(kind="linear", num_features=placeholder(int)),
        activation="geglu",
        normalization="layer_norm",
        pooling="mean",
        positions="learned",
        remat=not tiny,
        dtype="float32" if tiny else "bfloat16",
        param_dtype="float32",
    )
    size_of_batch = dict(batch_size=64 if tiny else 32, length=32 if tiny else 2000)
    drawn = dict(num_train=20_000 if tiny else 96_000, num_held_out=2000, seed=0)
    source = dict(dataset="listops", listops=(SHORT if tiny else LONG) | drawn)
    fields = dict(text_field="text", label_field="label", vocabulary="listops")
    splits = dict(train_split="train", eval_split="validation")
    policy = dict(on_bad_record="stop", max_bad_fraction=0.001, num_threads=2)
    schedule = dict(schedule="cosine", end_fraction=0.1, clip_norm=1.0, ema_decay=0.0)
    rate = dict(learning_rate=2e-3 if tiny else 3e-4, weight_decay=0.1)
    rate |= dict(warmup_steps=100 if tiny else 1000, microbatches=1)
    nonfinite = dict(nonfinite_in_a_row=10, nonfinite_per_thousand=100)
    return ConfigDict(
        dict(
            experiment="performer_classify",
            seed=0,
            model=model | SIZES[size],
            data=source | fields | splits | size_of_batch | policy,
            loss=dict(feature_redraw_interval=1000, label_smoothing=0.0),
            optimizer=dict(name="adamw", **rate, **schedule),
            eval=dict(num_batches=16 if tiny else 64),
            num_steps=3000 if tiny else 50_000,
            log_every=100,
            eval_every=500,
            save_every=500,
            limits=dict(hang_seconds=1800.0, compile_seconds=3600.0, **nonfinite),
            mesh=dict(data=-1, fsdp=1, model=1, seq=1),
        )
    )


def sweep():
    for learning_rate in (1e-3, 2e-3, 4e-3):
        yield {"optimizer.learning_rate": learning_rate}
