import json
import math
import time

import numpy as np
import pytest

from experiments.benchmarks import (
    attention_forms,
    compare,
    decoding,
    google_scheme,
    linear_attention,
    measure,
    reference,
    report,
    training_step,
)
from experiments.benchmarks.compare import Case, Contender
from experiments.benchmarks.measure import Prepared, Sample
from jaxmodels.layers.attention import KeyValueCache
from jaxmodels.models.performer import DecodingState

SMALL = attention_forms.Problem(
    length=11, num_heads=2, head_dim=4, num_features=6, chunk_size=4
)
JAX_FORMS = ("ours", "google", "jax-softmax")


def textbook(query, key, value, projection=None):
    """Causal attention with all weights in memory; the kernel's where W is given."""
    if projection is None:
        logits = np.einsum("bthk,bshk->bhts", query, key) * query.shape[-1] ** -0.5
        weights = np.exp(logits)
    else:

        def features(x):
            x = x * x.shape[-1] ** -0.25
            half_square = (x * x).sum(-1, keepdims=True) / 2
            return np.exp(x @ projection.T - half_square)

        weights = np.einsum("bthm,bshm->bhts", features(query), features(key))
    weights = np.tril(weights)
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhts,bshd->bthd", weights, value)


# The harness.


def test_rounds_interleave_and_start_with_another_contender_each():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    samples = measure.interleave(runs, {"a": 3, "b": 3, "c": 2}, pause=0)
    assert "".join(order) == "abc" + "bca" + "ab"
    assert {name: len(own) for name, own in samples.items()} == {"a": 3, "b": 3, "c": 2}


def test_a_sample_tells_waiting_from_working():
    slept = measure.sample(lambda: time.sleep(0.05))
    assert slept.wall >= 0.05 > slept.cpu


def test_the_ratio_is_a_median_within_rounds():
    """A slow round of both leaves no trace, though it moves the ratio of medians."""
    ours = [Sample(1.0, 1.0), Sample(10.0, 1.0), Sample(12.0, 1.0)]
    other = [Sample(2.0, 3.0), Sample(20.0, 3.0), Sample(25.0, 3.0)]
    assert measure.median_ratio(other, ours) == 2.0
    assert measure.median_ratio(other[:1], ours) == 2.0
    assert measure.median_ratio(other, ours, "cpu") == 3.0


def test_rounds_fill_their_share_within_bounds():
    assert measure.num_rounds(1.0, 5.0) == 5
    assert measure.num_rounds(100.0, 5.0) == 2
    assert measure.num_rounds(0.0, 5.0) == 11


def test_exponents_and_crossovers_have_closed_forms():
    assert measure.exponent([(4, 3 * 4**1.5), (64, 3 * 64**1.5)]) == pytest.approx(1.5)
    assert measure.exponent([(4, 1.0)]) is None
    # A quadratic time over a linear one: 1 at 1,000.
    ratios = [(n, n / 1000) for n in (256, 512, 2048, 4096)]
    assert measure.crossover(ratios) == pytest.approx(1000)
    assert measure.crossover([(256, 1.5), (512, 2.0)]) == 256
    assert measure.crossover([(256, 0.5), (512, 0.9)]) is None


def test_peak_memory_sees_what_was_freed_again():
    growth, peak = measure.peak_growth(lambda: np.ones(8_000_000).sum())
    if growth is None:
        pytest.skip("this system keeps no peak of resident memory")
    assert 60e6 < growth < 200e6 and peak > growth
    assert measure.peak_growth(lambda: None)[0] < 20e6


def test_a_fresh_process_answers_in_json_or_says_why_not():
    with pytest.raises(RuntimeError, match="failed: .*No module named"):
        measure.fresh_process("experiments.benchmarks.absent", [], timeout=60)
    with pytest.raises(RuntimeError, match="took more than 0 s"):
        measure.fresh_process("json.tool", [], timeout=0.01)


class Bench:
    """Contenders of known cost, on a clock that only they move."""

    def __init__(self, seconds, growth=1e6):
        self.now, self.seconds, self.growth = 0.0, seconds, growth
        self.ran = []

    def prepare(self, name, case):
        return Prepared(lambda: self.ran.append((name, case.length)))

    def probe(self, name, case, timeout):
        seconds = self.seconds[name] * case.length
        self.now += seconds
        if seconds > timeout:
            raise RuntimeError(f"took more than {timeout:.0f} s in one run")
        growth = self.growth * case.length
        return dict(seconds=seconds, growth=growth, peak=growth, temporaries=None)

    def compare(self, contenders, lengths, budget=1000.0, memory_limit=1e12):
        budget = measure.Budget(budget, clock=lambda: self.now)
        return compare.compare(
            contenders,
            [Case(length, "forward") for length in lengths],
            compare.Settings(budget, memory_limit, seconds=0.01, most=2),
            base="ours",
            prepare=self.prepare,
            probe=self.probe,
            check=lambda name, case, result: {"error": 0.0},
        )


def test_what_will_not_fit_in_memory_is_foreseen_and_named():
    bench = Bench({"ours": 0.0, "other": 0.0})
    contenders = {"ours": Contender(), "other": Contender(memory_power=2.0)}
    found = bench.compare(contenders, [10, 40], memory_limit=100e6)
    assert [(r["name"], r["length"]) for r in found.rows] == [
        ("ours", 10),
        ("other", 10),
        ("ours", 40),
    ]
    (entry,) = found.skipped
    assert (entry["name"], entry["length"]) == ("other", 40)
    assert entry["reason"] == "needs about 0.1 GiB, above the limit of 0.1 GiB"
    assert ("other", 40) not in bench.ran


def test_what_takes_too_long_is_left_out_and_the_budget_holds():
    bench = Bench({"ours": 0.0, "other": 1.0})
    contenders = {"ours": Contender(), "other": Contender(time_power=2.0)}
    found = bench.compare(contenders, [10, 40, 80], budget=200.0)
    assert [r["length"] for r in found.rows if r["name"] == "ours"] == [10, 40, 80]
    assert [r["length"] for r in found.rows if r["name"] == "other"] == [10]
    assert found.skipped[0]["reason"] == (
        "would take about 646 s with 190 s of the budget left"
    )
    assert bench.now <= 200.0


def test_rows_hold_ratios_within_rounds_error_and_the_yardstick():
    bench = Bench({"ours": 0.0, "other": 0.0})
    found = bench.compare({"other": Contender(), "ours": Contender()}, [10])
    ours = next(row for row in found.rows if row["name"] == "ours")
    assert ours["ratio"] == ours["cpu_ratio"] == 1.0
    for row in found.rows:
        assert row["rounds"] == 2 and row["error"] == 0.0
        assert row["dot_flops"] > 1e8


# What is compared.


@pytest.mark.parametrize("name", ["positive", "softmax"])
def test_the_float64_references_are_the_textbook_form(name, monkeypatch):
    monkeypatch.setattr(reference, "CHUNK", 4)
    arrays = SMALL.arrays()
    (out,) = reference.evaluate(name, arrays, SMALL.projection(), backward=False)
    projection = None if name == "softmax" else SMALL.projection().astype(float)
    expected = textbook(*(x.astype(float) for x in arrays[:3]), projection)
    np.testing.assert_allclose(out, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "name, mode",
    [("ours", "forward")] + [(name, "forward+backward") for name in JAX_FORMS],
)
def test_every_form_computes_its_function(name, mode):
    prepared = attention_forms.prepare(name, SMALL, mode)
    found = attention_forms.to_numpy(prepared.run())
    function = attention_forms.FORMS[name].function
    expected = reference.evaluate(
        function, SMALL.arrays(), SMALL.projection(), backward=len(found) > 1
    )
    assert len(found) == (1 if mode == "forward" else 4)
    for ours, theirs in zip(found, expected, strict=True):
        assert reference.relative_error(ours, theirs) < 1e-5
    assert prepared.temporaries >= 0


def test_the_transcribed_scheme_lets_a_late_key_change_the_past():
    """Its stabilizer is the maximum over all keys; with an epsilon, that leaks."""
    query, key, value, _ = SMALL.arrays()
    changed = key.copy()
    changed[:, -1] *= 100
    before, after = (
        np.asarray(google_scheme.attend(query, x, value, SMALL.projection()))
        for x in (key, changed)
    )
    assert np.abs(before - after)[:, :-1].max() > 0.1


def test_an_error_is_relative_to_the_whole_array():
    assert reference.relative_error([3.0, 4.0], np.array([3.0, 4.0])) == 0.0
    assert reference.relative_error([0.0, 4.0], np.array([3.0, 4.0])) == 0.6


def test_operations_are_counted_from_the_products():
    """172 k a token and head at the sizes of the published comparison."""
    problem = attention_forms.Problem(length=4096)
    assert problem.model_flops() == 4096 * 8 * 172_032
    assert problem.published_features() == 266


@pytest.mark.parity
@pytest.mark.parametrize("name", ["performer-pytorch", "torch-sdpa"])
def test_every_peer_computes_its_function(name):
    pytest.importorskip("torch", reason="torch is not installed: make test-parity")
    if name == "performer-pytorch":
        reason = "performer-pytorch is not installed: make test-parity"
        pytest.importorskip("performer_pytorch", reason=reason)
    problem = SMALL._replace(length=160, head_dim=8)
    prepared = attention_forms.prepare(name, problem, "forward+backward")
    found = attention_forms.to_numpy(prepared.run())
    function = attention_forms.FORMS[name].function
    expected = reference.evaluate(
        function, problem.arrays(), problem.projection(), backward=True
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert reference.relative_error(ours, theirs) < 2e-5


@pytest.mark.parity
def test_the_softmax_peer_of_the_training_step_is_causal():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from experiments.benchmarks.torch_transformer import SoftmaxLM

    torch.manual_seed(0)
    model = SoftmaxLM(vocab_size=7, embed_dim=8, num_heads=2, mlp_dim=16, num_layers=2)
    tokens = torch.arange(6)[None] % 7
    changed = tokens.clone()
    changed[0, 4] = 0
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


# The programs.


def fake_probe(module, words, *, timeout):
    return dict(seconds=0.01, growth=2_000_000, peak=9_000_000, temporaries=1_000)


def test_the_attention_benchmark_writes_numbers_a_table_and_a_plot(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(measure, "fresh_process", fake_probe)
    sizes = "--heads=1 --width=4 --features=6 --chunk_size=4".split()
    words = ["--names=ours,google", "--lengths=8,16", "--mode=forward+backward"]
    words += [f"--output={tmp_path}", *sizes]
    assert linear_attention.main(words) == 0
    content = json.loads((tmp_path / "linear_attention.json").read_text())
    assert len(content["rows"]) == 4 and content["skipped"] == []
    for row in content["rows"]:
        assert row["error"] < 1e-5 and row["seconds"] > 0
        assert row["gradient_error"] < 1e-4
    text = (tmp_path / "README.md").read_text()
    assert "| 16 google |" in text and "Nothing was left out." in text
    assert text.strip() in capsys.readouterr().out
    assert (tmp_path / "linear_attention.png").stat().st_size > 10_000


def test_a_probe_prints_memory_and_time_of_one_implementation(capsys):
    sizes = "--heads=1 --width=4 --features=6 --chunk_size=4".split()
    request = json.dumps(["ours", 8, "forward+backward", None])
    assert linear_attention.main([*sizes, "--probe", request]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"seconds", "growth", "peak", "temporaries"}
    assert found["temporaries"] > 0


@pytest.mark.parametrize("program", [linear_attention, training_step])
def test_unknown_names_are_refused_with_the_known_ones(program, capsys):
    with pytest.raises(SystemExit):
        program.main(["--names=ours,theirs"])
    assert "unknown theirs; known: ours" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program.main(["--lengths=long"])
    assert "give integers such as 1024,4096" in capsys.readouterr().err


def test_exponents_leave_out_short_lengths_and_single_points():
    rows = [
        dict(name=n, mode="forward", length=t, seconds=s, temporaries=m, growth=None)
        for n, t, s, m in (
            ("a", 1024, 9.0, 10),
            ("a", 4096, 1.0, 10),
            ("a", 16384, 4.0, 160),
            ("b", 4096, 1.0, 10),
        )
    ]
    (found,) = report.scaling(rows, ["forward"])
    assert found["name"] == "a" and (found["from"], found["to"]) == (4096, 16384)
    assert found["time"] == pytest.approx(1) and found["memory"] == pytest.approx(2)


def test_the_share_of_the_loop_is_a_median_of_rounds():
    found = training_step.loop_figures([(2.0, 1.9), (9.0, 1.8), (2.0, 1.8)])
    assert found["share_outside"] == pytest.approx(0.1)
    assert found["update_seconds"] == 2.0


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "-"),
        (0.0, "0.00"),
        (12.345, "12.3"),
        (1234.5, "1,234"),
        (2e-7, "2.00e-07"),
    ],
)
def test_figures_have_three_digits(value, text):
    assert report.number(value) == text


def test_a_filled_cache_holds_as_many_tokens_in_every_layer():
    slots = np.zeros((3, 2, 12, 1, 4), np.float32)  # layers B N H K
    read = np.broadcast_to(np.arange(12) < 3, slots.shape[:3])
    cache = KeyValueCache(slots, slots, read, np.full(3, 3))
    short = DecodingState({"attention": cache}, np.full(2, 3))
    filled = decoding.filled(short, 9)
    np.testing.assert_array_equal(filled.position, [9, 9])
    found = filled.layers["attention"]
    np.testing.assert_array_equal(found.length, [9, 9, 9])
    np.testing.assert_array_equal(
        found.valid, np.broadcast_to(np.arange(12) < 9, read.shape)
    )
    assert found.key.shape == found.value.shape == slots.shape


@pytest.mark.slow
def test_decoding_and_training_step_run_to_their_tables(tmp_path):
    words = "--size=tiny --contexts=8,32 --steps=2 --rounds=2".split()
    assert decoding.main([*words, f"--output={tmp_path}"]) == 0
    rows = json.loads((tmp_path / "decoding.json").read_text())["rows"]
    assert len(rows) == 4
    assert len({r["state_bytes"] for r in rows if r["kind"] == "causal_linear"}) == 1
    words = "--size=tiny --names=ours --lengths=64 --loop_rounds=1 --loop_steps=2"
    assert training_step.main([*words.split(), f"--output={tmp_path}"]) == 0
    found = json.loads((tmp_path / "training_step.json").read_text())
    assert math.isfinite(found["rows"][0]["loss"])
    assert found["loop"]["update_seconds"] > 0
