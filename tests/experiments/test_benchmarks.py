import json
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
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
    training_loop,
    training_step,
)
from experiments.benchmarks.measure import Prepared
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


# What is compared.


def test_inputs_are_those_that_the_dtype_holds():
    """So that an error is that of the computation alone."""
    problem = SMALL._replace(dtype="bfloat16")
    for rounded, exact in zip(problem.arrays(), SMALL.arrays(), strict=True):
        assert rounded.dtype == np.float32
        np.testing.assert_array_equal(rounded, rounded.astype(jnp.bfloat16))
        np.testing.assert_allclose(rounded, exact, rtol=2**-8)
        assert (rounded != exact).any()


@pytest.mark.parametrize("mode", compare.MODES)
def test_temporaries_are_known_without_a_run(mode):
    found = attention_forms.temporaries("ours", SMALL, mode)
    assert found == attention_forms.prepare("ours", SMALL, mode).temporaries
    assert attention_forms.temporaries("torch-sdpa", SMALL, mode) is None


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
    request = json.dumps(["ours", 8, "forward+backward"])
    assert linear_attention.main([*sizes, "--probe", request]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"seconds", "growth", "peak", "temporaries"}
    assert found["temporaries"] > 0


def test_a_time_without_an_error_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "fresh_process", fake_probe)
    monkeypatch.setattr(reference, "LONGEST_SOFTMAX", 8)
    words = ["--names=jax-softmax", "--lengths=8,16", "--mode=forward"]
    words += "--heads=1 --width=4 --features=6 --chunk_size=4".split()
    _, arguments = linear_attention.parse(words)
    content = linear_attention.run(words, arguments)
    assert [row["error"] is None for row in content["rows"]] == [False, True]
    (entry,) = content["skipped"]
    assert (entry["name"], entry["length"]) == ("jax-softmax", 16)
    assert "its error not measured" in entry["reason"]


def test_temporaries_of_what_did_not_run_are_set_against_ours():
    rows = [dict(name="ours", mode="forward", length=8, temporaries=2_000_000)]
    skipped = [
        dict(name="google", mode="forward", length=8, temporaries=60_000_000),
        dict(name="torch-sdpa", mode="forward", length=8, temporaries=None),
    ]
    assert linear_attention._memory_lines(rows, skipped)[1] == (
        "Temporaries, forward at 8, from the compilers: ours 2.00 MB, google 60.0 MB "
        "(30.0 x)."
    )


@pytest.mark.parametrize("program", [linear_attention, training_step])
def test_unknown_names_are_refused_with_the_known_ones(program, capsys):
    with pytest.raises(SystemExit):
        program.main(["--names=ours,theirs"])
    assert "unknown theirs; known: ours" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program.main(["--lengths=long"])
    assert "give integers such as 1024,4096" in capsys.readouterr().err


@pytest.mark.parametrize(
    "program, word",
    [
        (linear_attention, "--lengths=8,0"),
        (training_step, "--lengths=-1"),
        (training_step, "--loop_steps=0"),
        (decoding, "--contexts=0"),
        (decoding, "--rounds=0"),
    ],
)
def test_numbers_below_one_are_refused(program, word, capsys):
    with pytest.raises(SystemExit):
        program.main([word])
    option, _, _ = word.partition("=")
    message = capsys.readouterr().err
    assert f"argument {option}: " in message and "must be at least 1" in message


class FakeTask(NamedTuple):
    summarize: Callable = lambda totals: {"loss": totals}


def test_intervals_of_the_loop_leave_out_its_start_and_its_end():
    """A loop of 2 s an update, 50 s of compiling, 70 s of what follows the last one."""
    now = [0.0]

    def fit(task, data, *, num_steps, log_every, eval_every, save_every, quiet):
        now[0] += 50
        for step in range(1, num_steps + 1):
            now[0] += 70 if step == num_steps else 2
            if step % log_every == 0 or step == num_steps:
                assert task.summarize(step) == {"loss": step}

    laps = training_loop.loop_laps(
        fit, FakeTask(), None, every=4, count=3, clock=lambda: now[0], quiet=True
    )
    assert laps == [2.0, 2.0, 2.0]


def test_a_slow_machine_times_fewer_intervals_of_the_loop():
    assert training_loop.intervals(200, 20, lap=0.1, seconds=1000.0) == 10
    # Intervals of 2 s: two in which the loops compile, and three times as many as 6.
    assert training_loop.intervals(200, 20, lap=0.1, seconds=40.0) == 6
    assert training_loop.intervals(200, 20, lap=10.0, seconds=40.0) == 1


def test_intervals_of_the_step_alone_are_those_of_its_updates():
    now = [0.0]

    def update():
        now[0] += 3
        return {"loss": np.zeros(())}

    laps = training_loop.step_laps(update, every=4, count=2, clock=lambda: now[0])
    assert laps == [3.0, 3.0] and now[0] == 24


def test_a_round_times_the_step_around_both_loops():
    order = []

    def step():
        order.append("step")
        return [1.0]

    def in_loop(workdir=None):
        order.append("files" if workdir else "plain")
        return [2.0 if workdir else 4.0]

    found = training_loop.one_round(step, in_loop, "folder")
    assert order == ["step", "plain", "step", "files", "step"]
    assert (found.plain, found.files) == ([4.0], [2.0])


def test_the_share_outside_the_step_is_against_the_step_just_before_and_after():
    one = training_loop.Round(
        before=[1.0], plain=[2.0, 2.0, 8.0], between=[2.0], files=[5.0], after=[3.0]
    )
    found = training_loop.figures([one])
    assert found["plain"]["share_outside"] == pytest.approx(1 - 1.5 / 2)
    assert found["plain"]["share_outside_of_all_time"] == pytest.approx(1 - 1.5 / 4)
    assert found["files"]["share_outside"] == pytest.approx(1 - 2.5 / 5)
    assert (found["step_seconds"], found["plain"]["update_seconds"]) == (2.0, 2.0)
    # Over rounds a median.
    slow = one._replace(plain=[6.0])
    found = training_loop.figures([one, slow, slow])
    assert found["plain"]["share_outside"] == pytest.approx(1 - 1.5 / 6)


def test_decoding_to_logits_that_are_not_finite_is_an_error(monkeypatch):
    def prepare(*words, **more):
        return Prepared(lambda: (None, np.array(False)))

    monkeypatch.setattr(decoding, "prepare", prepare)
    with pytest.raises(FloatingPointError, match="linear attention after 8 tokens"):
        decoding.run([], decoding.parse(["--contexts=8"]))


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
    assert found["loop"]["plain"]["update_seconds"] > 0
    assert found["loop"]["updates"] == 2 and found["loop"]["checkpoint_seconds"] > 0
    assert "metrics.jsonl and events" in (tmp_path / "README.md").read_text()
