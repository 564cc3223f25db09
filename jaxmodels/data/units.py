"""Units of ground motion as they are written, in any case, and what they are in SI."""

STANDARD_GRAVITY = 9.80665  # m/s^2
COUNTS = "counts"
# What is written for a unit -> m/s^2 of acceleration, or m/s of velocity.
ACCELERATION = {
    **dict.fromkeys(("m/s^2", "m/s**2", "m/s2", "m/s/s", "mps2", "m s^-2"), 1.0),
    **dict.fromkeys(("cm/s^2", "cm/s**2", "cm/s2", "cm/s/s", "gal"), 0.01),
    "g": STANDARD_GRAVITY,
    "nm/s^2": 1e-9,
    "1e-6 g": 1e-6 * STANDARD_GRAVITY,
}
VELOCITY = {
    **dict.fromkeys(("m/s", "mps", "m s^-1"), 1.0),
    **dict.fromkeys(("cm/s",), 0.01),
    **dict.fromkeys(("nm/s",), 1e-9),
}


def plain(unit):
    """A unit as the tables have it; "unknown" for None and for an empty text."""
    return (unit or "").strip().lower() or "unknown"
