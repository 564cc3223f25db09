import json

import numpy as np
import pytest

from jaxmodels.pipelines import broaden_score_summary, broaden_scores
from jaxmodels.pipelines.broaden_score_table import number
from jaxmodels.signal import filters
from jaxmodels.train.errors import ConfigError, StorageError

RATE, CORNER, LENGTH = 50.0, 1.0, 400


def window(index, channels=3, length=LENGTH):
    rng = np.random.default_rng(index)
    shape = np.sin(np.linspace(0, np.pi, length))[:, None] ** 2
    observed = rng.standard_normal((length, channels)) * shape
    condition = filters.zero_phase_lowpass(observed, RATE, CORNER)
    return f"record {index}", f"event {index // 2}", observed, condition, CORNER, RATE


class Truth:
    """A system that makes the observed records, each times some factors."""

    def __init__(self, windows, *log_factors):
        self.windows, self.log_factors, self.seeds = windows, log_factors, []

    def __call__(self, condition, seed):
        self.seeds.append(seed)
        observed = next(w[2] for w in self.windows if w[3] is condition)
        return np.stack([np.exp(factor) * observed for factor in self.log_factors])


@pytest.fixture(scope="module")
def windows():
    return [window(index) for index in range(3)]


@pytest.fixture(scope="module")
def result(windows):
    systems = {
        "perfect": Truth(windows, 0.0),
        "louder": Truth(windows, 0.5),
        "uncertain": Truth(windows, 0.1, 0.5),
    }
    return broaden_scores.evaluate(windows, systems, report=lambda line: None)


@pytest.fixture(scope="module")
def summaries(result):
    return broaden_scores.summarize(result)


def test_the_truth_gets_the_best_scores(summaries):
    perfect = summaries["perfect"]
    best = {
        "fas_error": 0, "lsd": 0, "pga": 0, "psa_0.2s": 0, "envelope_correlation": 1,
        "anderson": 10, "eg": 10, "pg": 10, "em": 0, "pm": 0,
    }  # fmt: skip
    for name, value in best.items():
        assert perfect["measures"][name]["mean"] == pytest.approx(value), name
    assert perfect["crps"] == perfect["psa_bias"] == perfect["psa_sigma"] == 0
    assert perfect["frechet"] == pytest.approx(0)


def test_a_louder_system_is_off_by_its_factor_everywhere(summaries):
    louder = summaries["louder"]
    for name in ("fas_error", "lsd", "pga", "pgv", "cav", "fas_1_5hz"):
        assert louder["measures"][name]["mean"] == pytest.approx(0.5), name
        assert louder["measures"][name]["sd"] == pytest.approx(0, abs=1e-9), name
    assert louder["measures"]["arias"]["mean"] == pytest.approx(1)
    for kind in ("fas", "psa"):
        np.testing.assert_allclose(louder[kind]["bias"], 0.5)
        np.testing.assert_allclose(louder[kind]["sd"], 0, atol=1e-9)
    assert louder["psa_bias"] == pytest.approx(0.5)
    assert louder["crps"] == pytest.approx(0.5)
    # The means of all frequencies are off, their deviations are not.
    frequencies = len(louder["fas"]["bias"])
    assert louder["frechet"] == pytest.approx(0.25 * frequencies)


def test_samples_of_a_record_are_pooled_and_their_spread_compared_with_the_error(
    summaries,
):
    uncertain = summaries["uncertain"]
    assert uncertain["measures"]["pga"]["mean"] == pytest.approx(0.3)
    assert uncertain["measures"]["pga"]["sd"] == pytest.approx(0.2)
    assert uncertain["psa_sigma"] == pytest.approx(0.2)
    # |FAS err| is that of single samples, not of their mean.
    assert uncertain["measures"]["fas_error"]["mean"] == pytest.approx(0.3)
    assert uncertain["spread_skill"] == pytest.approx(0.2 * np.sqrt(2) / 0.3)
    assert uncertain["crps"] == pytest.approx(0.3 - 0.4 / 2)
    assert summaries["perfect"]["spread_skill"] is None


def test_periods_go_together_as_the_samples_say(summaries):
    uncertain, louder = summaries["uncertain"], summaries["louder"]
    # Its two samples differ by one factor at all periods.
    np.testing.assert_allclose(uncertain["spread_correlation"], 1)
    np.testing.assert_allclose(uncertain["psa_correlation"], 1)
    # The error of their mean is the same for all records, and has no correlation.
    assert uncertain["correlation_error"] is None
    assert louder["spread_correlation"] is None
    assert np.isnan(louder["psa_correlation"]).all()


def test_samples_like_the_record_have_the_correlations_of_their_error():
    """Records and samples whose ln PSA are one draw for all periods, or one each."""
    errors = {}
    for name in ("one", "each"):
        rng = np.random.default_rng(0)
        draws = rng.standard_normal((400, 4, 3))
        if name == "one":
            draws[:, 1:] = draws[:, 1:, :1]
        residuals = draws[:, 1:] - draws[:, :1]
        found = broaden_score_summary._correlations(residuals)
        errors[name] = found["correlation_error"]
    assert errors["each"] < 0.1
    # Samples that are too much alike among periods: 1 is compared with 1 / 4.
    assert errors["one"] == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize("low_pass", [dict(order=2), dict(causal=True)], ids=str)
def test_the_truth_has_its_condition_by_any_low_pass(low_pass):
    name, event, observed, *_ = window(0)
    condition = filters.lowpass(observed, RATE, CORNER, **low_pass)
    windows = [(name, event, observed, condition, CORNER, RATE)]
    settings = broaden_scores.Settings(**low_pass)
    systems = {"perfect": Truth(windows, 0.0)}
    result = broaden_scores.evaluate(windows, systems, settings, report=lambda x: None)
    assert result.systems["perfect"][0]["measures"]["lf_snr"] == np.inf


def test_every_system_gets_the_same_seed_of_a_record(windows):
    systems = {"a": Truth(windows, 0.0), "b": Truth(windows, 0.0)}
    settings = broaden_scores.Settings(seed=7)
    broaden_scores.evaluate(windows, systems, settings, report=lambda line: None)
    assert systems["a"].seeds == systems["b"].seeds == [7, 8, 9]


def test_progress_is_told(windows, monkeypatch):
    monkeypatch.setattr(broaden_scores, "REPORT_SECONDS", 0)
    lines = []
    systems = {"a": Truth(windows, 0.0)}
    broaden_scores.evaluate(windows[:1], systems, report=lines.append)
    assert "scored 1 records" in lines[0] and "last record 0" in lines[0]
    assert "scored 1 records by 1 systems" in lines[-1]


def test_folds_combine_to_the_evaluation_of_all_records(windows, result):
    folds = []
    for part in (windows[:1], windows[1:]):
        systems = {"perfect": Truth(part, 0.0), "louder": Truth(part, 0.5)}
        systems["uncertain"] = Truth(part, 0.1, 0.5)
        folds.append(broaden_scores.evaluate(part, systems, report=lambda line: None))
    combined = broaden_scores.combine(folds)
    assert broaden_scores.content(combined) == broaden_scores.content(result)
    other = {"perfect": Truth(windows, 0.0)}
    other = broaden_scores.evaluate(windows, other, report=lambda line: None)
    with pytest.raises(ConfigError, match="other systems, .* cannot be combined"):
        broaden_scores.combine([combined, other])


@pytest.fixture(scope="module")
def written(tmp_path_factory, result):
    """Text of the table, and the files by name."""
    folder = tmp_path_factory.mktemp("scores") / "new"
    text = broaden_scores.write(
        folder, result, title="Three records", notes=["made by a test"]
    )
    return text, {path.name: path for path in folder.iterdir()}


def test_write_leaves_table_numbers_and_small_figures(written):
    text, files = written
    assert set(files) == {
        "table.md", "scores.json", "fas_bias.png", "psa_residual.png", "example.png"
    }  # fmt: skip
    for name, path in files.items():
        if name.endswith(".png"):
            assert path.read_bytes().startswith(b"\x89PNG")
            assert path.stat().st_size < 150_000
    assert files["table.md"].read_text() == text
    assert text.startswith("# Three records\n\nmade by a test\n\n3 records.\n")
    assert "| louder | 0.500 | 0.500 | 1.000 |" in text
    assert "| uncertain | 2 | 0.94 | 0.100 | – |" in text
    assert "| perfect | 1 | – | 0.000 | – |" in text


def test_numbers_hold_every_measure_of_every_record(written):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = written[1]["scores.json"].read_text()
    numbers = json.loads(text, parse_constant=refuse)
    records = numbers["records"]["uncertain"]
    assert [record["name"] for record in records] == [f"record {i}" for i in range(3)]
    assert [record["event"] for record in records] == ["event 0", "event 0", "event 1"]
    assert records[0]["measures"]["pga"] == pytest.approx(0.3)
    assert records[0]["spread"]["pga"] == pytest.approx(0.2 * np.sqrt(2), rel=1e-4)
    assert len(records[0]["fas"]) == len(numbers["frequencies"])
    assert "spread" not in numbers["records"]["perfect"][0]
    assert numbers["settings"]["spread_period"] == 0.2
    assert numbers["summaries"]["louder"]["crps"] == pytest.approx(0.5)


def test_one_record_of_one_component_is_scored():
    windows = [window(0, channels=1)]
    result = broaden_scores.evaluate(
        windows, {"perfect": Truth(windows, 0.0)}, report=lambda line: None
    )
    summary = broaden_scores.summarize(result)["perfect"]
    assert summary["measures"]["lsd"]["mean"] == 0
    assert summary["frechet"] is None


def test_refuses_what_it_cannot_score(windows, result, tmp_path):
    def evaluate(windows, systems=None, **options):
        systems = {"a": Truth(windows, 0.0)} if systems is None else systems
        settings = broaden_scores.Settings(**options)
        broaden_scores.evaluate(windows, systems, settings, report=lambda line: None)

    with pytest.raises(ConfigError, match="no window to score"):
        evaluate([])
    with pytest.raises(ConfigError, match="no system to score"):
        evaluate(windows, {})
    with pytest.raises(ConfigError, match=r"record 5 has shape \(300, 3\).*\(400, 3\)"):
        evaluate([windows[0], window(5, length=300)])
    with pytest.raises(ConfigError, match="spread_period 0.21 s is not among"):
        evaluate(windows, spread_period=0.21)
    with pytest.raises(ConfigError, match=r"bad made \(400, 3\) of record 0"):
        evaluate(windows, {"bad": lambda condition, seed: condition})
    with pytest.raises(ConfigError, match="bad on record 0: .* not finite"):
        evaluate(windows, {"bad": lambda condition, seed: condition[None] * np.nan})
    silent = (*windows[0][:2], windows[0][2] * [1, 0, 1], *windows[0][3:])
    with pytest.raises(ConfigError, match="record 0: component 1 is zero"):
        evaluate([silent])
    with pytest.raises(ConfigError, match="no system 'c' was scored; choose of perf"):
        broaden_scores.write(tmp_path, result, title="x", system="c")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        broaden_scores.write(tmp_path / "file", result, title="x")


def test_numbers_have_no_negative_zero():
    assert number(-0.001) == "0.00"
    assert number(-0.01) == "-0.01"
    assert number(None) == "–"
