import numpy as np
import pytest

from jaxmodels.pipelines import broaden_figure
from tests.pipelines import broadening_runs as runs
from tests.pipelines.broadening_runs import FAST, SUFFIXES, command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return runs.package(tmp_path_factory.mktemp("packaged"))


@pytest.fixture
def no_figure(monkeypatch):
    """Drawing takes longer than all else here; one test draws."""

    def draw(path, **arrays):
        shapes = {k: np.shape(x) for k, x in arrays.items()}
        with open(path, "w") as file:
            file.write(str(shapes))

    monkeypatch.setattr(broaden_figure, "draw", draw)


def test_a_folder_goes_on_past_bad_records_and_lists_them(
    checkpoint, tmp_path, capsys, no_figure
):
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "a.npz").write_bytes(b"broken")
    runs.write_npz(folder / "b.npz", runs.ground_motion() * [1, 0, 1] + 0.0)
    runs.write_npz(folder / "c.npz")
    (folder / "readme.txt").write_text("about")
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out", *FAST
    code, lines, err = command(capsys, folder, *options)
    assert code == 1 and "c: 3 component" in lines[2]
    assert lines[1] == "1 files that are no records by their names are left alone"
    assert err[-3] == "2 of 3 records failed:"
    assert "a.npz cannot be read" in err[-2]
    assert "b: component 1 is 0 throughout" in err[-1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"c.{suffix}" for suffix in SUFFIXES
    ]


def test_one_wrong_name_in_a_list_stops_no_other(
    checkpoint, tmp_path, capsys, no_figure
):
    path = runs.write_npz(tmp_path / "a.npz")
    (tmp_path / "empty").mkdir()
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out", *FAST
    names = "ridgecrest:CI.XYZ", tmp_path / "empty", path
    code, _, err = command(capsys, *names, *options)
    assert code == 1 and err[2] == "2 of 3 records failed:"
    assert (tmp_path / "out" / "a.npz").exists()


def test_a_record_of_several_files_tells_its_error_once(checkpoint, tmp_path, capsys):
    obspy = pytest.importorskip("obspy")
    paths = []
    for letter, column in zip("ZNE", runs.ground_motion().T, strict=True):
        header = dict(network="XX", station="ABC", channel=f"HN{letter}")
        trace = obspy.Trace(column.astype(np.float32), header)
        trace.stats.sampling_rate = runs.RATE
        paths.append(tmp_path / f"{letter}.sac")
        trace.write(str(paths[-1]), "SAC")
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out", *FAST
    code, _, err = command(capsys, *paths, *options)
    assert code == 64 and len(err) == 1
    assert "does not say what its samples are (SAC: IDEP); give --units" in err[0]


def nan(x):
    x[30, 1] = np.nan
    return x


def inf(x):
    x[30, 1] = np.inf
    return x


BAD_RECORDS = [
    (nan, {}, "sample 30 of component 1 is nan, the first of 1 that are not finite"),
    (inf, {}, "is inf"),
    (lambda x: x * [1, 0, 1] + 0.0, {}, "component 1 is 0 throughout"),
    (lambda x: x[:, :2], {}, "2 component(s), Z, N, and the model reads 3, Z, N, E;"),
    (lambda x: x[:60], {}, "a record of 3 s is shorter than the window of 4 s"),
    (lambda x: x, {"rate": 1.5}, "1.5 Hz ends at 0.75 Hz, which is not above the cor"),
    (lambda x: 1e3 * x, {}, "is above 100, so no ground motion; give --inventory"),
    (lambda x: x, {"units": "furlong"}, "units 'furlong' are none of m/s^2, cm/s^2"),
]


@pytest.mark.parametrize("change, entries, message", BAD_RECORDS)
def test_a_bad_record_ends_with_one_line_that_names_it(
    checkpoint, tmp_path, capsys, change, entries, message
):
    path = runs.write_npz(tmp_path / "rec.npz", change(runs.ground_motion()), **entries)
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out", *FAST
    code, _, err = command(capsys, path, *options)
    assert code == 64 and len(err) == 1
    assert err[0].startswith("error: rec: ") and message in err[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["none.mseed"], "error: there is no file none.mseed; check the name"),
        (["--samples", "0"], "samples 0 must be 1 to 100"),
        (["--samples", "101"], "samples 101 must be 1 to 100, as location codes have"),
        (["--steps", "0"], "steps 0 must be 1 to 1000"),
        (["--sampler", "euler"], "sampler 'euler' is none of ddim"),
        (["--corner", "5"], "corner 5 Hz: the model in"),
        (["--seed", "-1"], "seed -1 must be 0 to"),
        (["--units", "furlong"], "units 'furlong' are none of m/s^2, cm/s^2"),
        (
            ["--units", "m/s^2", "--sensitivity", "100"],
            "--sensitivity is for counts, and the samples are in m/s^2; leave it out",
        ),
        (["--causal"], "--causal, but the model was trained on low-passes that run in"),
        (["--inventory", "x", "--sensitivity", "1"], "or --sensitivity, not both"),
        (["--sensitivity", "0"], "sensitivity 0.0 must be finite and not 0"),
        (["--lowpassed"], "% of the energy is above 2 Hz, twice the corner; leave it"),
        (["--checkpoint", "nowhere"], "there is no model.json in nowhere"),
        (["ridgecrest:CI.XYZ"], "ridgecrest has no CI.XYZ; it has CI.TOW2, CI.CCC"),
        (["--size", "3"], "unrecognized arguments: --size 3; see --help"),
    ],
)
def test_a_wrong_command_ends_with_one_line(
    checkpoint, tmp_path, capsys, arguments, message
):
    path = [] if not arguments[0].startswith("--") else [tmp_path / "rec.npz"]
    runs.write_npz(tmp_path / "rec.npz")
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out"
    code, _, err = command(capsys, *options, *path, *arguments)
    assert code == 64 and len(err) == 1 and message in err[0]


def test_without_a_record_the_command_explains_itself(capsys):
    code, lines, err = command(capsys)
    assert code == 64 and not lines
    assert any("--example ridgecrest" in line for line in err)


def test_an_output_that_is_a_file_is_told_before_anything_is_computed(
    checkpoint, tmp_path, capsys
):
    path = runs.write_npz(tmp_path / "a.npz")
    options = "--checkpoint", checkpoint, "--output", path / "out"
    code, lines, err = command(capsys, path, *options)
    assert code == 64 and not lines and "a.npz is a file, not a folder" in err[0]
