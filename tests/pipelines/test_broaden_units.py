import numpy as np
import pytest

from jaxmodels.pipelines import broaden_files, broaden_formats, broaden_units
from jaxmodels.train.errors import ConfigError


def test_units_and_sensitivities_are_those_that_are_given_or_the_files_own():
    (record,) = broaden_files.embedded("ridgecrest", "CI.TOW2")
    x = record.waveform

    def peak(record=record, **options):
        return broaden_units.acceleration(record, **options)[0].max() / x.max()

    assert peak() == pytest.approx(1.0)
    assert peak(units="cm/s^2") == pytest.approx(0.01)
    assert peak(record._replace(units="1e-6 g")) == pytest.approx(9.80665e-6)
    counts = record._replace(units="counts", sensitivity=4.0)
    assert peak(counts) == pytest.approx(0.25)
    assert peak(counts, sensitivity=2.0) == pytest.approx(0.5)
    assert peak(counts, units="gal") == pytest.approx(0.01)


def test_units_are_known_by_any_spelling():
    (record,) = broaden_files.embedded("ridgecrest", "CI.TOW2")
    x = record.waveform
    spellings = {"m/s**2": 1.0, "Gal": 0.01, "cm/s2": 0.01, "nm/s^2": 1e-9}
    for units, factor in spellings.items():
        broaden_units.check_flags(units, None, None)
        made = broaden_units.acceleration(record, units=units)[0]
        np.testing.assert_allclose(made, factor * x)


def test_counts_are_known_in_any_case():
    (record,) = broaden_files.embedded("ridgecrest", "CI.TOW2")
    given = record._replace(units="Counts")
    made = broaden_units.acceleration(given, sensitivity=2.0)[0]
    np.testing.assert_allclose(made, record.waveform / 2)


def test_a_text_tells_units_that_nobody_stated():
    (record,) = broaden_files.embedded("ridgecrest", "CI.TOW2")
    assert broaden_units.acceleration(record)[1] == "m/s^2"
    unstated = record._replace(units=None)
    assert broaden_units.acceleration(unstated)[1] == "taken as m/s^2"


@pytest.mark.parametrize(
    "units, options, message",
    [
        ("m/s^2", {"sensitivity": 100.0}, "--sensitivity is for counts, and the sam"),
        ("g", {"inventory": "x.xml"}, "--inventory is for counts"),
        (None, {"units": "g", "sensitivity": 2.0}, "or give --units counts"),
        ("velocity", {}, "its samples are a velocity, not an acceleration"),
        ("displacement", {"sensitivity": 2.0}, "are a displacement"),
        (broaden_formats.UNKNOWN, {}, "does not say what its samples are"),
        ("furlong", {}, "units 'furlong' are none of m/s"),
    ],
)
def test_what_cannot_be_the_size_of_a_motion_is_refused(units, options, message):
    (record,) = broaden_files.embedded("ridgecrest", "CI.TOW2")
    with pytest.raises(ConfigError, match=message):
        broaden_units.acceleration(record._replace(units=units), **options)


def test_a_flag_says_what_a_file_leaves_open():
    (record,) = broaden_files.embedded("ridgecrest", "CI.TOW2")
    x = record.waveform
    unknown = record._replace(units=broaden_formats.UNKNOWN)
    for options, factor in (({"units": "m/s^2"}, 1.0), ({"sensitivity": 2.0}, 0.5)):
        made = broaden_units.acceleration(unknown, **options)[0]
        np.testing.assert_allclose(made, factor * x)
    velocity = record._replace(units="velocity")
    made = broaden_units.acceleration(velocity, units="m/s^2")[0]
    np.testing.assert_array_equal(made, x)
