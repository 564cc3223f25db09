import pytest

from experiments import tables


def test_columns_align_left_or_right():
    rows = [("loss", "1.5"), ("bits_per_byte", "12.25")]
    assert tables.table(rows, header=("name", "value"), right=(1,), indent=2) == [
        "  name           value",
        "  loss             1.5",
        "  bits_per_byte  12.25",
    ]


def test_a_wide_table_shortens_its_first_column_in_the_middle():
    name = "decoder/layers/" + "very/" * 20 + "attention/query/kernel"
    (line,) = tables.table([(name, "x" * 40)])
    assert len(line) == tables.WIDTH
    assert line.startswith("decoder/layers/very")
    assert "/attention/query/kernel  xxx" in line


@pytest.mark.parametrize(
    "number, text",
    [(0, "0"), (12, "12"), (1000, "1.00 k"), (563234, "563 k"), (1.24e12, "1.24 T")],
)
def test_quantities_have_three_digits(number, text):
    assert tables.quantity(number) == text


@pytest.mark.parametrize(
    "size, text",
    [(0, "0 bytes"), (512, "512 bytes"), (2**20, "1.00 MiB"), (95 * 2**30, "95.0 GiB")],
)
def test_memory_has_three_digits_and_binary_units(size, text):
    assert tables.memory(size) == text
