import errno
import os
import stat

import pytest

from dear.files import errors_naming, read_text, write_atomically


def test_text_is_read_whole_and_in_utf_8_or_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes("\ufefffile,prompt\r\n1,é\r\n".encode())
    assert read_text(path, 100) == "file,prompt\r\n1,é\r\n"
    for data, message in [
        ("a\nb\né".encode("latin-1"), r"table.csv must be text in UTF-8, got the byte 0xe9 in line 3$"),
        ("file".encode("utf-16"), r"got the byte 0xff in line 1; it begins as UTF-16 does"),
        (bytes(101), "table.csv must be at most 100 bytes, got 101"),
    ]:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_text(path, 100)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="not a regular file"):
            read_text(tmp_path / path, 100)


def test_a_link_stays_a_link_and_permissions_stay(tmp_path):
    target, link = tmp_path / "a" / "target", tmp_path / "link"
    target.parent.mkdir()
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_atomically(link, lambda file: file.write(b"new"))
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["a", "link"] and os.listdir(target.parent) == ["target"]


def test_an_error_of_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left on device") as failed:
        write_atomically(path, write)
    assert failed.value.errno == errno.ENOSPC and failed.value.filename == str(path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]
    with pytest.raises(FileNotFoundError) as failed, errors_naming(path):
        open(tmp_path / "b").close()
    assert failed.value.filename == str(tmp_path / "b")  # of an error that names a file already
