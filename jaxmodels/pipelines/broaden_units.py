"""Records in counts or any unit of acceleration as records in m/s^2.

Shapes use T samples, C components.
"""

import math

import numpy as np

from jaxmodels.data import instrument_response
from jaxmodels.data.records import first_line
from jaxmodels.data.seismic_records import optional
from jaxmodels.data.units import ACCELERATION, COUNTS, plain
from jaxmodels.pipelines import broaden_formats as formats
from jaxmodels.train.errors import ConfigError

REMOVED = "response removed"
SHOWN = "m/s^2, cm/s^2, gal, nm/s^2, g, 1e-6 g, counts"
STRONGEST = 100.0  # m/s^2; three times the strongest ground motion ever recorded


def check_flags(units, sensitivity, inventory):
    """Raises `ConfigError` where what is said of all records contradicts itself."""
    if inventory is not None and sensitivity is not None:
        raise ConfigError("give --inventory or --sensitivity, not both")
    if units is None:
        return
    _check_known(plain(units))
    _check_counts(plain(units), sensitivity, inventory)


def acceleration(record, *, units=None, sensitivity=None, inventory=None):
    """A record in m/s^2, and how it came to be that.

    Args:
        record: `formats.Record`.
        units: of the record, one of `units.ACCELERATION` or "counts"; None for what
            the file says.
        sensitivity: counts a m/s^2, of an instrument that records acceleration.
        inventory: path of StationXML, whose response is removed.

    Returns:
        float64 [T, C] and a text.

    Raises:
        ConfigError: the units are unknown or impossible, or nothing tells the size of
            counts.
    """
    stated = units or record.units
    stated = None if stated is None else plain(stated)
    if stated not in (None, formats.UNKNOWN):
        _check_known(stated)
        _check_counts(stated, sensitivity, inventory)
    if sensitivity is None and inventory is None and stated == COUNTS:
        sensitivity = record.sensitivity
        inventory = record.inventory if sensitivity is None else None
    if inventory is not None:
        return _without_response(record, inventory), REMOVED
    if sensitivity is not None:
        if not (math.isfinite(sensitivity) and sensitivity != 0):
            raise ConfigError(f"sensitivity {sensitivity} must be finite and not 0")
        text = f"counts / {sensitivity:g}"
        return _plausible(record.waveform / sensitivity, text), text
    if stated == COUNTS:
        raise ConfigError(
            "the samples are counts: give --inventory (StationXML) or --sensitivity "
            "(counts a m/s^2), or say with --units what they are"
        )
    if stated == formats.UNKNOWN:
        raise ConfigError(
            "the file does not say what its samples are (SAC: IDEP); give --units "
            f"({SHOWN}), --sensitivity or --inventory"
        )
    text = stated or "taken as m/s^2"
    factor = ACCELERATION[stated or "m/s^2"]
    return _plausible(record.waveform * factor, text), text


def _check_known(units):
    if units in formats.MOTIONS:
        raise ConfigError(
            f"the file says that its samples are a {units}, not an acceleration; "
            f"differentiate it, or say with --units ({SHOWN}) what it is"
        )
    if units != COUNTS and units not in ACCELERATION:
        raise ConfigError(f"units {units!r} are none of {SHOWN}")


def _check_counts(units, sensitivity, inventory):
    if units == COUNTS:
        return
    if sensitivity is not None or inventory is not None:
        flag = "--sensitivity" if sensitivity is not None else "--inventory"
        raise ConfigError(
            f"{flag} is for counts, and the samples are in {units}; leave it out, or "
            "give --units counts"
        )


def _plausible(waveform, text):
    peak = np.nanmax(np.abs(waveform))
    if peak > STRONGEST:
        raise ConfigError(
            f"a peak of {peak:.3g} m/s^2 (samples: {text}) is above {STRONGEST:g}, so "
            "no ground motion; give --inventory, --sensitivity or --units"
        )
    return waveform


def _without_response(record, inventory):
    obspy = optional("obspy")
    known = formats.inventory_of(inventory)
    start = obspy.UTCDateTime(ns=record.start or 0)
    columns = []
    for channel, samples in zip(record.channels, record.waveform.T, strict=True):
        trace = obspy.Trace(samples.copy())
        trace.stats.update(
            dict(
                network=record.network,
                station=record.station,
                location=record.location,
                channel=channel,
                starttime=start,
                sampling_rate=record.sampling_rate,
            )
        )
        try:
            instrument_response.without_response(trace, known)
        except Exception as error:  # ObsPy raises bare Exception and ValueError
            raise ConfigError(
                f"the response of {trace.id} cannot be removed: "
                f"{first_line(error)}; check --inventory"
            ) from None
        columns.append(trace.data)
    return _plausible(np.stack(columns, axis=1), REMOVED)
