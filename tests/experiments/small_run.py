"""A run that takes seconds: a small config file over a folder of a few texts."""

CONFIG = """
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SIZES = {"tiny": dict(embed_dim=8), "wide": dict(embed_dim=16)}


def get_config(size="tiny"):
    attention = dict(kind="causal_linear", num_features=placeholder(int), chunk_size=4)
    model = dict(
        vocab_size=256, num_heads=2, mlp_dim=16, num_layers=2, max_length=8,
        attention=attention, **SIZES[size],
    )
    return ConfigDict(
        dict(
            experiment="performer_lm",
            seed=0,
            model=model,
            data=dict(
                dataset="TEXTS", batch_size=8, length=8, eval_split="validation",
                num_threads=0,
            ),
            loss=dict(feature_redraw_interval=0),
            optimizer=dict(
                name="adamw", learning_rate=1e-2, warmup_steps=0, microbatches=1
            ),
            eval=dict(num_batches=2),
            num_steps=4,
            log_every=2,
            eval_every=4,
            save_every=2,
            limits=dict(nonfinite_in_a_row=3, nonfinite_per_thousand=10),
            mesh=dict(data=-1, fsdp=1, model=1, seq=1),
        )
    )


def sweep():
    for learning_rate in (1e-2, 1e-3):
        yield {"optimizer.learning_rate": learning_rate}
"""


def write_texts(folder):
    """Fills a folder with texts."""
    for index in range(6):
        lines = [f"line {n} of text {index}: {n * index}\n" for n in range(20)]
        (folder / f"{index}.txt").write_text("".join(lines))
    return folder


def write_config(folder, texts):
    """Writes the config file and returns the --config of it."""
    path = folder / "small.py"
    path.write_text(CONFIG.replace("TEXTS", str(texts)))
    return f"--config={path}"
