import json

import numpy as np
import pytest

from jaxmodels.pipelines import broaden_model
from tests.pipelines.broadening_runs import command


@pytest.fixture(scope="module")
def model():
    return broaden_model.load()


def test_the_packaged_model_is_small_and_says_what_it_was_trained_on(model):
    weights = broaden_model.PACKAGED / "model.safetensors"
    assert weights.stat().st_size <= 6_000_000
    assert "4,000 synthetic records" in model.describe()
    assert "no real one" in model.describe()
    card = (broaden_model.PACKAGED / "card.md").read_text()
    assert "make broaden" in card and "Data:" in card


def test_the_packaged_model_broadens_the_embedded_record(tmp_path, capsys):
    flags = "--samples", 2, "--steps", 4, "--output", tmp_path
    code, lines, _ = command(capsys, "napa", *flags)
    assert code == 0 and "was trained on 4,000 synthetic records" in lines[0]
    (path,) = tmp_path.glob("*.npz")
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    (samples,) = (x for x in arrays.values() if x.ndim == 3)
    # The observed record peaks at 3.6 m/s^2.
    assert samples.shape[0] == 2 and 1.0 < np.abs(samples).max() < 12.0
    assert json.loads(path.with_suffix(".json").read_text())["seed"] == 0
