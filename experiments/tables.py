"""Aligned text tables and readable numbers for the console."""

WIDTH = 100
_METRIC = (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15))
_BINARY = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def table(rows, *, header=(), right=(), indent=0):
    """Lines of aligned columns, at most `WIDTH` wide.

    Where the rows are wider, the first column is shortened in its middle.

    Args:
        rows: sequences of text, all as long as the longest.
        header: a first row.
        right: columns aligned to the right.
        indent: spaces before every line.
    """
    rows = [list(row) for row in ([header] if header else []) + list(rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    spare = WIDTH - indent - 2 * (len(widths) - 1) - sum(widths[1:])
    widths[0] = max(min(widths[0], spare), 12)
    lines = []
    for row in rows:
        cells = [shorten(row[0], widths[0]), *row[1:]]
        aligned = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append((" " * indent + "  ".join(aligned)).rstrip())
    return lines


def shorten(text, width):
    """`text` with its middle left out where it is longer than `width`."""
    if len(text) <= width:
        return text
    tail = (width - 2) * 2 // 3
    return f"{text[: width - 2 - tail]}..{text[len(text) - tail :]}"


def quantity(number):
    """A count in three digits: 563 k, 1.24 T."""
    prefix, scale = next(
        (pair for pair in reversed(_METRIC) if abs(number) >= pair[1]), _METRIC[0]
    )
    value = number / scale
    digits = 0 if scale == 1.0 and value == int(value) else max(0, 2 - _before(value))
    return f"{value:.{digits}f} {prefix}".strip()


def memory(num_bytes):
    """Bytes in three digits and binary units: 2.15 MiB."""
    value, unit = float(num_bytes), 0
    while value >= 1000 and unit < len(_BINARY) - 1:
        value, unit = value / 1024, unit + 1
    digits = 0 if unit == 0 else max(0, 2 - _before(value))
    return f"{value:.{digits}f} {_BINARY[unit]}"


def _before(value):
    """Digits before the decimal point, less one."""
    return len(str(int(abs(value)))) - 1
