"""Taking the response of an instrument off its record, by a StationXML inventory."""

LONGEST_TAPER = 5.0  # seconds at each end, as `broadband.Preprocessing` tapers at most
USUAL_TAPER = 0.05  # share of a record that both ends have together


def without_response(trace, inventory):
    """An ObsPy trace as acceleration in m/s^2 above 0.02 Hz, changed in place.

    The division by the response needs tapered ends. ObsPy's own taper grows with the
    record and would take the onset or the coda of a long one, so it is limited.

    Args:
        trace: `obspy.Trace` in counts.
        inventory: of ObsPy.

    Returns:
        The trace.

    Raises:
        Exception: the inventory lacks the channel or the time; ObsPy raises it bare.
    """
    rate = trace.stats.sampling_rate
    seconds = max(len(trace) / rate, 1 / rate)
    nyquist = rate / 2
    return trace.remove_response(
        inventory=inventory,
        output="ACC",
        pre_filt=(0.01, 0.02, 0.9 * nyquist, nyquist),
        taper_fraction=min(USUAL_TAPER, 2 * LONGEST_TAPER / seconds),
    )
