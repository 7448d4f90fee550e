"""Files of arrays: what was written is read, and whatever is damaged is one kind of error."""

import contextlib
import os

import numpy as np
import pytest

from reset_keras.array_files import read_arrays, write_arrays

ARRAYS = {"numbers": np.random.default_rng(0).integers(0, 3, (40, 50)), "flags": (True, False), "text": np.array("a")}


@pytest.mark.parametrize("compressed", [True, False])
def test_arrays_are_read_as_they_were_written(tmp_path, compressed):
    path = tmp_path / "arrays.npz"
    write_arrays(path, ARRAYS, compressed)
    assert list(tmp_path.iterdir()) == [path]
    assert (path.stat().st_size < ARRAYS["numbers"].nbytes / 4) == compressed
    read = read_arrays(path)
    assert list(read) == list(ARRAYS)
    for name, array in read.items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=name != "flags")


@pytest.mark.parametrize("compressed", [True, False])
def test_whatever_byte_is_wrong_nothing_but_a_value_error_is_raised(tmp_path, compressed):
    """The decompressor, the archive and the arrays' headers each raise another kind of error."""
    write_arrays(tmp_path / "arrays.npz", ARRAYS, compressed)
    content, damaged, refused = (tmp_path / "arrays.npz").read_bytes(), tmp_path / "damaged.npz", 0
    for position in range(0, len(content), max(1, len(content) // 400)):
        damaged.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        with contextlib.suppress(ValueError):  # a few bytes, such as a time, change nothing
            read_arrays(damaged)
            refused -= 1
        refused += 1
    assert refused > 350


def test_what_is_written_is_flushed_by_a_handle_that_may_write(tmp_path, monkeypatch):
    """Windows flushes no other one."""
    written = []
    monkeypatch.setattr("os.fsync", lambda handle: written.append(os.write(handle, b"")))
    write_arrays(tmp_path / "arrays.npz", ARRAYS)
    assert written == [0]


def test_a_missing_file_and_one_of_a_single_array_are_refused(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(3))
    for name in ("one.npy", "missing.npz"):
        with pytest.raises(ValueError, match=r".+"):
            read_arrays(tmp_path / name)
