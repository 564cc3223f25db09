import json

import numpy as np
import pytest

from experiments.benchmarks import measure, signal_dit, signal_dit_forms

TINY = dict(size="tiny", batch_size=2)


def fake_probe(module, words, *, timeout):
    known = dict(growth=2_000_000, peak=9_000_000, temporaries=1_000)
    return dict(seconds=0.01, parameters=844_764, **known)


@pytest.mark.slow
def test_the_contenders_of_ours_compute_the_same_loss():
    """All gates are closed at the start, so the loss is that of zeros."""
    *_, velocity = signal_dit_forms.arrays(
        signal_dit_forms.config("ours", "tiny").model, 2
    )
    for name in ("ours", "ours-remat"):
        prepared = signal_dit_forms.prepare(name, mode="forward", **TINY)
        assert prepared.run() == pytest.approx(np.mean(velocity**2), rel=1e-5)
        assert prepared.facts == {"parameters": 844_764}


@pytest.mark.slow
def test_samples_with_and_without_the_cache_are_the_same():
    drawn = [
        signal_dit_forms.prepare_sampling(name, num_steps=3, **TINY)
        for name in signal_dit_forms.SAMPLERS
    ]
    first, second = (np.asarray(prepared.run()) for prepared in drawn)
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert first.std() > 0.1


@pytest.mark.slow
def test_the_benchmark_writes_numbers_and_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "fresh_process", fake_probe)
    words = "--size=tiny --names=ours --batch=1 --sampling_steps=2 --budget=100"
    assert signal_dit.main([*words.split(), f"--output={tmp_path}"]) == 0
    content = json.loads((tmp_path / "signal_dit.json").read_text())
    modes = [(row["mode"], row["name"]) for row in content["rows"]]
    assert modes == [
        ("forward", "ours"),
        ("forward+backward", "ours"),
        ("sampling", "cached"),
        ("sampling", "uncached"),
    ]
    assert content["skipped"] == []
    assert all(row["seconds"] > 0 for row in content["rows"])
    text = (tmp_path / "README.md").read_text()
    assert "| sampling, uncached |" in text and "Nothing was left out." in text
    assert text.strip() in capsys.readouterr().out


def test_unknown_names_are_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        signal_dit.main(["--names=ours,theirs"])
    assert "unknown theirs; known: ours" in capsys.readouterr().err


@pytest.mark.parity
def test_the_peer_has_the_shape_and_about_the_size_of_ours():
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    import torch

    from experiments.benchmarks.torch_signal_dit import TorchSignalDiT

    fields = signal_dit_forms.config("ours", "tiny").model
    model = TorchSignalDiT(**{name: fields[name] for name in signal_dit_forms.SIZES})
    arrays = signal_dit_forms.arrays(fields, 2)[:4]
    noisy, time, condition, scalars = (torch.from_numpy(array) for array in arrays)
    with torch.no_grad():
        out = model(noisy, time, condition, scalars)
        other = model(noisy, time, 2 * condition, scalars)
    assert out.shape == noisy.shape and not torch.equal(out, other)
    # A patch goes through `patches` and back as it was.
    again = model.unpatch(model.patches(noisy), noisy.shape)
    assert torch.equal(again, noisy)
    count = sum(x.numel() for x in model.parameters())
    assert 0.9 < count / 844_764 < 1.0
