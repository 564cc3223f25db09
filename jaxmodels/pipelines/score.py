"""Scores what a trained sequence-to-sequence model generates by itself.

python -m jaxmodels.pipelines.score --checkpoint runs/reverse --split test

Prints a table and writes it with examples to `score.json` in the folder of the run.
BLEU and chrF are those of sacrebleu, ROUGE that of rouge-score (the extra `text`).

Shapes use B sources, N new tokens.
"""

import json
import sys

import jax
import numpy as np
import tqdm
from etils import epath

from jaxmodels.data import (
    builder,
    generated,
    language,
    pairs,
    pipeline,
    records,
    tokens,
)
from jaxmodels.pipelines import generate, text_models, text_scores
from jaxmodels.train import model_file
from jaxmodels.train.errors import INTERRUPTED, ConfigError, RunError, StorageError

FILE = "score.json"
EXAMPLES = 10  # pairs that score.json shows


def open_dataset(name, data_dir=None):
    """Opens the data set that `preprocessing["dataset"]` names, with its version.

    A generated one is made again where it is not there.

    Raises:
        ConfigError: it is not there.
    """
    path, _, version = name.rpartition("/")
    if generated.is_generated(name):
        size = path.partition("/")[2].partition("-")[0]
        made = generated.prepare(f"{name.partition('/')[0]}/{size}", data_dir)
        if made.info.full_name == name:
            return made
    return builder.open_prepared(f"{path}:{version}", data_dir)


def read_pairs(prepared, split, fields, limit=None):
    """Texts of a split, at most `limit` pairs, spread evenly over all of it.

    Args:
        fields: the entries of source and target.

    Returns:
        [(source, target)], and how many of the pairs looked at are left out because a
        text of theirs is bad.

    Raises:
        ConfigError: there is no such split, or no good pair in it.
    """
    for label, field in zip(("source_field", "target_field"), fields, strict=True):
        language.check_field(prepared, field, label)

    def texts_of(record):
        return tuple(tokens.text_of(record, field) for field in fields)

    # All may be bad: that is told after all were looked at.
    policy = dict(on_bad_record="skip", max_bad_fraction=1.0)
    files = builder.RecordFiles(prepared, split)
    checked = records.CheckedRecords(files, texts_of, **policy)
    chosen = pipeline.spread(len(checked), limit).tolist()
    found = [pair for pair in map(checked.read, chosen) if pair is not None]
    if not found:
        raise ConfigError(
            f"{prepared.info.full_name} {split} has no good pair among {len(chosen)}"
        )
    return found, len(chosen) - len(found)


def generate_all(model, variables, form, sources, *, batch_size, seed=0, **settings):
    """The target of each source, int32 [B, N]; `settings` as in `generate_targets`."""
    rng, rows = jax.random.key(seed), []
    starts = range(0, len(sources), batch_size)
    for start in tqdm.tqdm(starts, "generating", disable=None, leave=False):
        part = sources[start : start + batch_size]
        # A last batch of another size would be compiled once more.
        filled = part + part[:1] * (batch_size - len(part))
        new = text_models.generate_targets(
            model, variables, form, filled, jax.random.fold_in(rng, start), **settings
        )
        rows.append(new[: len(part), 0])
    return np.concatenate(rows)


def token_scores(new, targets, end_id):
    """Scores that compare ids.

    Args:
        new: int [B, N], as `generate_all` returns them.
        targets: B sequences of ids, without the end, whole however long they are.

    Returns:
        token_accuracy: share of the targets' tokens, each with its end, that stand in
        the same place of what was generated. exact_match: share of the rows in which
        all do, the end as well.
    """
    right = total = exact = 0
    for row, target in zip(np.asarray(new), targets, strict=True):
        whole = np.append(np.asarray(target, np.int64), end_id)
        # Past its end a row is filled, and nothing was generated.
        ends = np.flatnonzero(row == end_id)
        made = int(ends[0]) + 1 if ends.size else row.size
        size = min(whole.size, made)
        matches = int(np.sum(row[:size] == whole[:size]))
        right, total = right + matches, total + whole.size
        exact += matches == whole.size
    return {"token_accuracy": right / total, "exact_match": exact / len(targets)}


def score(
    workdir,
    *,
    split="test",
    num_examples=None,
    batch_size=32,
    names=text_scores.NAMES,
    dataset=None,
    data_dir=None,
    seed=0,
    **settings,
):
    """Generates the targets of a split and compares them with the true ones.

    Args:
        workdir: folder of a run on pairs of texts.
        split: of the data set of the run, or a part such as "test[:10%]".
        num_examples: at most so many, spread evenly; None for all.
        batch_size: sources that are decoded at once.
        names: scores to take beside those of `token_scores`, of `text_scores.NAMES`.
        dataset: another data set than the run's, as in `pairs.pair_data`.
        data_dir: folder of TFDS data sets.
        seed: of the draws, where the settings draw.
        settings: as in `text_models.generate_targets`; greedy without any.

    Returns:
        What `score.json` holds: `metrics` by name, how they were taken, and `examples`.

    Raises:
        ConfigError: no such run, data set, split or score, or a library is missing.
    """
    check_numbers(num_examples, batch_size)
    compare = text_scores.load(names)
    model, variables, form = text_models.load(workdir)
    if not isinstance(form, text_models.PairFormat):
        raise ConfigError(
            f"{workdir} holds a language model, which has no sources to score; name "
            "the run of a sequence-to-sequence model, or use experiments.evaluate"
        )
    settings = dict(settings)
    if settings.get("beam_size", 1) == 1:
        settings.setdefault("temperature", 0.0)
    _, preprocessing = model_file.read(workdir)
    fields = preprocessing["source_field"], preprocessing["target_field"]
    if dataset is None:
        prepared = open_dataset(preprocessing["dataset"], data_dir)
    else:
        prepared = pairs.open_dataset(dataset, data_dir, fields[0])
    found, num_bad = read_pairs(prepared, split, fields, num_examples)
    sources, references = map(list, zip(*found, strict=True))
    new = generate_all(
        model, variables, form, sources, batch_size=batch_size, seed=seed, **settings
    )
    vocabulary = form.vocabulary
    targets = [
        text_models.encode(vocabulary, text, f"target {place}")
        for place, text in enumerate(references)
    ]
    texts = [vocabulary.decode(row) for row in new]
    read = [text_models.encode(form.source_vocabulary, x, "source") for x in sources]
    values, signatures = compare(texts, references)
    return {
        "dataset": prepared.info.full_name,
        "split": split,
        "num_examples": len(found),
        "num_bad": num_bad,
        "sources_cut": sum(ids.size > form.source_length for ids in read),
        "targets_too_long": sum(ids.size + 1 > new.shape[1] for ids in targets),
        "settings": {**settings, "max_tokens": new.shape[1], "seed": seed},
        "metrics": token_scores(new, targets, vocabulary.end_id) | values,
        "signatures": signatures,
        "examples": [
            {"source": source, "target": target, "generated": text}
            for source, target, text in zip(sources, references, texts, strict=True)
        ][:EXAMPLES],
    }


def check_numbers(num_examples, batch_size):
    """Raises ConfigError for a number that is out of its range."""
    for name, value in (("num_examples", num_examples), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} {value} must be at least 1")


def parser():
    """The command line."""
    flags = generate.Parser(
        prog="python -m jaxmodels.pipelines.score",
        description=__doc__.split("\n")[0],
    )
    flags.add_argument("--checkpoint", required=True, help="folder of a run")
    flags.add_argument("--split", default="test", help="or a part, as test[:10%%]")
    flags.add_argument("--num_examples", type=int, help="spread evenly; default all")
    flags.add_argument("--batch_size", type=int, default=32)
    flags.add_argument(
        "--scores",
        default=",".join(text_scores.NAMES),
        help="beside the accuracies, with commas between; may be empty",
    )
    flags.add_argument("--dataset", help="another one than that of the run")
    flags.add_argument("--data_dir", help="folder of TFDS data sets")
    generate.add_search_flags(flags)
    return flags


def write(workdir, content):
    """Writes `score.json`, whole or not at all, and returns its path.

    Raises:
        StorageError: it cannot be written.
    """
    path = epath.Path(workdir) / FILE
    unfinished = path.parent / f".{FILE}"
    try:
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        return unfinished.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from None


def lines(content):
    """The table that is printed."""
    metrics = content["metrics"]
    width = max(map(len, metrics))
    yield (
        f"{content['dataset']} {content['split']}: {content['num_examples']} generated"
    )
    for name, text in (
        ("num_bad", "bad pairs left out"),
        ("sources_cut", "sources longer than the model reads"),
        ("targets_too_long", "targets longer than what is generated"),
    ):
        if content[name]:
            yield f"  {content[name]} {text}"
    for name, value in metrics.items():
        number = (
            "undefined: the texts are too short" if value is None else f"{value:.4f}"
        )
        yield f"  {name:{width}}  {number:>8}"


def main(argv=None):
    """Prints and writes the scores; returns the exit code."""
    try:
        flags = parser().parse_args(argv)
        settings = generate.search_settings(flags)
        names = tuple(name for name in flags.scores.split(",") if name)
        content = score(
            flags.checkpoint,
            split=flags.split,
            num_examples=flags.num_examples,
            batch_size=flags.batch_size,
            names=names,
            dataset=flags.dataset,
            data_dir=flags.data_dir,
            seed=flags.seed,
            **settings,
        )
        path = write(flags.checkpoint, content)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    print("\n".join(lines(content)))
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
