import os
import stat

import pytest

from xai_onnx.errors import OutputFileError
from xai_onnx.output_file import replacing


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_the_file_appears_whole_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "out.bin"
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".bin"
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["out.bin"]


def test_an_old_file_is_replaced(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old and longer")
    with replacing(os.fspath(path)) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old and longer"
    assert path.read_bytes() == b"new"


def test_the_file_gets_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "out") as temporary:
            temporary.write_bytes(b"x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_block_leaves_everything_as_it_was(tmp_path, error):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    block = replacing(path)
    block.__enter__().write_bytes(b"half")
    assert block.__exit__(error, error(), None) is False
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


def test_a_full_disk_is_named(tmp_path):
    path = tmp_path / "out"
    message = f"^{path}: can't be written: No space left on device$"
    with pytest.raises(OutputFileError, match=message), replacing(path):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_an_error_without_a_number_keeps_its_text(tmp_path):
    with pytest.raises(OutputFileError, match=r"encoder gave up"), replacing(tmp_path / "out"):
        raise OSError("encoder gave up")


def test_a_missing_folder(tmp_path):
    path = tmp_path / "absent" / "out"
    with pytest.raises(OutputFileError, match="No such file or directory; give another place"):
        replacing(path).__enter__()
    assert names(tmp_path) == []


@pytest.mark.parametrize("path", ["folder", "."])
def test_a_folder_is_refused(tmp_path, path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputFileError, match="is a folder or a device"):
        replacing(tmp_path / path).__enter__()


def test_a_device_is_refused_not_replaced():
    with pytest.raises(OutputFileError, match="/dev/null: is a folder or a device"):
        replacing("/dev/null").__enter__()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_the_error_is_an_os_error_too(tmp_path):
    with pytest.raises(OSError, match="is a folder"):
        replacing(tmp_path).__enter__()
