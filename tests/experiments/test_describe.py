import math
import re

import jax
import pytest

from experiments import describe, performer_lm
from jaxmodels.train import flops


def shown(capsys, *words):
    assert describe.main(list(words)) == 0
    source, _, text = capsys.readouterr().out.partition("\n")
    assert f"--config={source}" == words[0]
    assert max(map(len, text.splitlines())) <= 100
    return text


def bytes_of(text, name):
    """Bytes that a line of the memory table shows."""
    units = ("bytes", "KiB", "MiB", "GiB")
    number, unit = re.search(
        rf"^  {name} +([\d.]+) (\w+)$", text, re.MULTILINE
    ).groups()
    return float(number) * 1024 ** units.index(unit)


@pytest.mark.parametrize(
    "name, found",
    [
        ("v5e-256", ("TPU v5e", 256)),
        ("v5p-128", ("TPU v5p", 64)),
        ("v4-8", ("TPU v4", 4)),
        ("2xv5e-256", ("TPU v5e", 512)),
        ("h100-8", ("NVIDIA H100 80GB HBM3", 8)),
    ],
)
def test_a_topology_is_a_kind_of_device_and_a_number(name, found):
    kind, _ = describe.parse_topology(name)
    assert describe.parse_topology(name) == found
    assert flops.memory_bytes(kind) and flops.peak_flops(kind)


@pytest.mark.parametrize("name", ["v5-256", "v5e", "v5e-0", "v5p-7", "xv5e-8", "8"])
def test_a_topology_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="expected a kind|named after its cores"):
        describe.parse_topology(name)


def test_every_parameter_is_listed_with_its_count(small, parts, capsys):
    text = shown(capsys, small)
    task = performer_lm.make_task(parts)
    params = jax.eval_shape(task.init, jax.random.key(0)).params
    counts = [math.prod(leaf.shape) for leaf in jax.tree.leaves(params)]
    assert f"{sum(counts):,}" in text.split("decoder")[0]
    rows = [line for line in text.splitlines() if " float32 " in line]
    assert sorted(int(row.split()[3].replace(",", "")) for row in rows) == sorted(
        counts
    )


def test_each_parameter_shows_the_axes_that_cut_it(small, capsys):
    text = shown(capsys, small, "--devices=8", "--config.mesh.fsdp=2")
    cuts = dict(re.findall(r"^ +(\S+) .* float32 .* (?:bytes|KiB)  (.+)$", text, re.M))
    assert cuts["layers/mlp/up/kernel"] == "- fsdp -"
    assert cuts["final_norm/scale"] == "replicated"
    text = shown(
        capsys, small, "--devices=8", "--config.mesh.fsdp=2", "--config.mesh.model=2"
    )
    cuts = dict(re.findall(r"^ +(\S+) .* float32 .* (?:bytes|KiB)  (.+)$", text, re.M))
    assert cuts["layers/attention/query/kernel"] == "- fsdp model -"
    assert cuts["embedding"] == "model -"


def test_bytes_a_device_fall_with_the_mesh(small, capsys):
    alone = shown(capsys, small, "--devices=1")
    many = shown(capsys, small, "--devices=8", "--config.mesh.fsdp=8")
    for name in ("batch", "parameters", "optimizer state"):
        assert bytes_of(many, name) < bytes_of(alone, name)
    assert bytes_of(alone, "batch") == pytest.approx(8 * bytes_of(many, "batch"))
    state = bytes_of(alone, "optimizer state")
    assert state == pytest.approx(2 * bytes_of(alone, "parameters"), rel=0.02)


def test_flops_grow_with_the_layers_that_a_scan_hides(small, capsys):
    def total(*words):
        lines = shown(capsys, small, *words)
        number, unit = re.search(r"^([\d.]+) (\w)FLOP a step", lines, re.M).groups()
        return float(number) * {"k": 1e3, "M": 1e6, "G": 1e9}[unit]

    two, four, eight = (total(f"--config.model.num_layers={n}") for n in (2, 4, 8))
    assert eight - four == pytest.approx(2 * (four - two), rel=0.02)


def test_a_dimension_that_does_not_divide_is_replicated_and_listed(small, capsys):
    words = ("--devices=12", "--config.mesh.model=3", "--config.data.batch_size=4")
    text = shown(capsys, small, *words)
    assert "replicated, since it does not divide:" in text
    assert "model/embed/embedding: 256 is not divisible by model=3" in text


def test_a_topology_compares_with_the_memory_of_its_devices(small, capsys):
    text = shown(capsys, small, "--topology=v5e-8")
    assert "on 8 TPU v5e devices, mesh data 8 x fsdp 1 x model 1 x seq 1" in text
    assert re.search(r"of the 16\.0 GiB of a TPU v5e$", text, re.MULTILINE)
    assert "197 TFLOP/s a device in bfloat16" in text


def test_what_does_not_fit_the_devices_is_refused(small, capsys):
    assert describe.main([small, "--devices=16"]) == 64
    assert "batch_size 8 is not divisible by" in capsys.readouterr().err
    assert describe.main([small, "--devices=16", "--topology=v5e-8"]) == 64
    assert "give one" in capsys.readouterr().err
