"""Performer encoder and decoder: toy tasks and translation (Choromanski et al., 2021).

python -m experiments.train --config=configs/performer/seq2seq.py:tiny --workdir=runs/r

`tiny` learns to reverse letters in minutes on two CPU cores; its sweep also copies them
and writes numbers as words. `small` translates TED talks, `medium` and `large` news.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SIZES = {
    "tiny": dict(embed_dim=64, num_layers=2, num_heads=4, mlp_dim=256),
    "small": dict(embed_dim=256, num_layers=4, num_heads=4, mlp_dim=1024),
    "medium": dict(embed_dim=512, num_layers=6, num_heads=8, mlp_dim=2048),
    "large": dict(embed_dim=1024, num_layers=12, num_heads=16, mlp_dim=4096),
}
TED = dict(dataset="ted_hrlr_translate/pt_to_en", source_field="pt", target_field="en")
NEWS = dict(dataset="wmt14_translate/de-en", source_field="de", target_field="en")
REVERSE = dict(dataset="reverse", source_field="source", target_field="target")
BYTES = dict(vocabulary="bytes", batch_size=64, source_length=24, target_length=25)
PAIRS = {"tiny": REVERSE, "small": TED, "medium": NEWS, "large": NEWS}
# Of the longest source, and of the longest target with its end.
LENGTHS = {"copy": (24, 25), "reverse": (24, 25), "number_to_words": (6, 65)}
VOCABULARIES = {"tiny": 256, "small": 8192, "medium": 32_000, "large": 32_000}


def favor(kind):
    return dict(kind=kind, feature_map="favor_plus", num_features=placeholder(int))


def get_config(size="small"):
    tiny = size == "tiny"
    cross = dict(cross_attention=favor("linear"))
    kinds = dict(activation="geglu", normalization="layer_norm", positions="learned")
    model = dict(
        vocab_size=VOCABULARIES[size],
        source_vocab_size=placeholder(int),
        encoder=SIZES[size] | dict(attention=favor("linear")),
        decoder=SIZES[size] | cross | dict(attention=favor("causal_linear")),
        max_length=256,
        dropout=0.0 if tiny else 0.1,
        **kinds,
        tie_embeddings=True,
        remat=size == "large",
        dtype="float32" if tiny else "bfloat16",
        param_dtype="float32",
    )
    rows = dict(vocabulary="sentencepiece", source_vocabulary=placeholder(str))
    rows |= dict(train_split="train", eval_split="validation", num_threads=2)
    policy = dict(on_bad_record="skip", max_bad_fraction=0.001)
    shape = dict(batch_size=256, source_length=128, target_length=128)
    schedule = dict(schedule="cosine", end_fraction=0.1, clip_norm=1.0, ema_decay=0.0)
    rate = dict(learning_rate=3e-3 if tiny else 5e-4, weight_decay=0.01)
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
            eval=dict(num_batches=8 if tiny else 16),
            num_steps=1500 if tiny else 100_000,
            log_every=20 if tiny else 100,
            eval_every=250 if tiny else 2000,
            save_every=250 if tiny else 2000,
            limits=dict(hang_seconds=1800.0, compile_seconds=3600.0, **bad_steps),
            mesh=dict(data=-1, fsdp=1, model=1, seq=1),
        )
    )


def sweep():
    for dataset, (source, target) in LENGTHS.items():
        lengths = {"data.source_length": source, "data.target_length": target}
        yield {"data.dataset": dataset, **lengths}
