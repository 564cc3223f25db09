import json

import numpy as np
import pytest

from experiments.benchmarks import measure, mlstm, mlstm_forms

PROBLEM = mlstm_forms.Problem(length=12, batch_size=2, embed_dim=8, num_heads=2)
OURS = tuple(mlstm_forms.OURS)


def fake_probe(module, words, *, timeout):
    growth = 4_000_000 if "parallel" in words[-1] else 2_000_000
    return dict(
        seconds=0.01, growth=growth, peak=9_000_000, temporaries=1_000, parameters=None
    )


@pytest.mark.parametrize("name", OURS)
def test_our_contenders_compute_the_cell_of_the_reference(name):
    prepared = mlstm_forms.prepare(name, "cell", PROBLEM, backward=False)
    expected = mlstm_forms.reference(PROBLEM)
    assert expected.dtype == np.float64
    np.testing.assert_allclose(prepared.run(), expected, atol=1e-5)


def test_forward_and_backward_give_the_loss_of_the_outputs():
    forward = mlstm_forms.prepare("ours-chunkwise", "block", PROBLEM, backward=False)
    both = mlstm_forms.prepare("ours-chunkwise", "block", PROBLEM, backward=True)
    np.testing.assert_allclose(both.run(), np.square(forward.run()).sum(), rtol=1e-5)
    assert both.facts == forward.facts and forward.facts["parameters"] > 0


def test_the_benchmark_writes_numbers_tables_and_a_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "fresh_process", fake_probe)
    words = "--lengths=8,16 --width=8 --heads=2 --budget=200 --subject=cell"
    names = "--names=ours-chunkwise,ours-parallel"
    assert mlstm.main([*words.split(), names, f"--output={tmp_path}"]) == 0
    content = json.loads((tmp_path / "mlstm.json").read_text())
    assert len(content["rows"]) == 8
    assert content["skipped"] == []
    for row in content["rows"]:
        parallel = row["name"] == "ours-parallel"
        assert row["growth_ratio"] == (2.0 if parallel else 1.0)
        assert row["seconds"] > 0
        if row["mode"] == "cell forward":
            assert row["error"] < 1e-5
    text = (tmp_path / "README.md").read_text()
    assert "## Cell forward+backward" in text and "| 16 ours-parallel |" in text
    assert text.strip() in capsys.readouterr().out
    assert (tmp_path / "mlstm.png").stat().st_size > 1000


def test_unknown_names_are_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        mlstm.main(["--names=ours-chunkwise,theirs"])
    assert "unknown theirs; known: ours-chunkwise" in capsys.readouterr().err


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_peers_compute_the_same_cell_and_a_block_of_the_same_size():
    pytest.importorskip("xlstm", reason="xlstm is not installed: make test-parity")
    problem = PROBLEM._replace(length=64)
    expected = mlstm_forms.reference(problem)
    for name in mlstm_forms.CELLS:
        prepared = mlstm_forms.prepare(name, "cell", problem, backward=False)
        found = prepared.run()
        np.testing.assert_allclose(found, expected, 1e-4, 1e-4, err_msg=name)
    # The package rounds the inner width up to a multiple of 64.
    wide = problem._replace(embed_dim=64, num_heads=4)
    sizes, losses = set(), []
    for name in mlstm_forms.BLOCKS:
        prepared = mlstm_forms.prepare(name, "block", wide, backward=True)
        losses.append(prepared.run())
        sizes.add(prepared.facts["parameters"])
    assert sizes == {30_152}
    assert np.isfinite(losses).all()
