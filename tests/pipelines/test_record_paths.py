import pytest

from jaxmodels.pipelines import record_paths
from jaxmodels.train.errors import ConfigError


def test_of_a_folder_records_are_taken_in_order_and_other_files_left(tmp_path):
    for name in ("b.npz", "a.mseed", "readme.txt", ".hidden", "x.json", "plain"):
        (tmp_path / name).write_text("")
    (tmp_path / "empty").mkdir()
    found, passed, below = record_paths.find(tmp_path)
    assert [path.name for path in found] == ["a.mseed", "b.npz", "plain"]
    assert (passed, below) == (3, 1)
    assert record_paths.find("other.sac")[1:] == (0, 0)
    with pytest.raises(ConfigError, match="holds no records; name one that does"):
        record_paths.find(tmp_path / "empty")
    (tmp_path / "empty" / "deep").mkdir()
    with pytest.raises(ConfigError, match="the folders in it are not searched"):
        record_paths.find(tmp_path / "empty")


def test_folders_in_a_folder_are_searched_where_that_is_asked_for(tmp_path):
    archive = tmp_path / "2020" / "XX" / "ABC" / "HHZ.D"
    archive.mkdir(parents=True)
    hidden = tmp_path / ".hidden"
    hidden.mkdir()
    (archive / "XX.ABC..HHZ.D.2020.001").write_text("")
    (hidden / "a.mseed").write_text("")
    (tmp_path / "b.mseed").write_text("")
    (tmp_path / "notes.txt").write_text("")
    found, passed, below = record_paths.find(tmp_path, below=True)
    assert [path.name for path in found] == ["b.mseed", "XX.ABC..HHZ.D.2020.001"]
    assert (passed, below) == (1, 0)


def test_links_to_folders_are_followed_and_each_folder_is_searched_once(tmp_path):
    archive, disk = tmp_path / "archive", tmp_path / "disk"
    (archive / "2020").mkdir(parents=True)
    disk.mkdir()
    (archive / "2020" / "a.mseed").write_text("")
    (disk / "b.mseed").write_text("")
    (archive / "2021").symlink_to(disk, target_is_directory=True)
    (disk / "back").symlink_to(archive, target_is_directory=True)
    found, _, _ = record_paths.find(archive, below=True)
    assert [path.name for path in found] == ["a.mseed", "b.mseed"]
