import json
import struct

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from temper.errors import DataError
from temper.models.tensorfile import TensorReader, TensorWriter, mapped, read_header

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.float64)


def _tensor(dtype, shape=(5, 3)):
    return torch.arange(1, 1 + torch.tensor(shape).prod().item()).reshape(shape).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_written_whole_is_read_by_safetensors(tmp_path, dtype):
    tensor = _tensor(dtype)
    with TensorWriter(tmp_path / "a.safetensors", {"x": (dtype, (5, 3))}) as writer:
        writer.write("x", tensor)
    assert torch.equal(load_file(tmp_path / "a.safetensors")["x"], tensor)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_saved_by_safetensors_is_mapped(tmp_path, dtype):
    save_file({"x": _tensor(dtype), "y": _tensor(torch.float32)}, tmp_path / "a.safetensors")
    assert torch.equal(mapped(tmp_path / "a.safetensors")["x"], _tensor(dtype))


def test_blocks_of_rows_in_turns_make_whole_tensors(tmp_path):
    a, b = _tensor(torch.bfloat16, (6, 2)), _tensor(torch.float32, (4, 3, 2))
    shapes = {"a": (torch.bfloat16, (6, 2)), "b": (torch.float32, (4, 3, 2))}
    with TensorWriter(tmp_path / "t.safetensors", shapes) as writer:
        writer.write_rows("a", a[:1])
        writer.write_rows("b", b[:3])
        writer.write_rows("a", a[1:])
        writer.write_rows("b", b[3:])
    found = mapped(tmp_path / "t.safetensors")
    assert torch.equal(found["a"], a) and torch.equal(found["b"], b)


def test_a_tensor_that_is_not_contiguous_is_written_in_row_order(tmp_path):
    tensor = _tensor(torch.float32).T
    with TensorWriter(tmp_path / "t.safetensors", {"x": (torch.float32, (3, 5))}) as writer:
        writer.write("x", tensor)
    assert torch.equal(mapped(tmp_path / "t.safetensors")["x"], tensor)


def test_every_tensor_starts_at_a_multiple_of_its_width(tmp_path):
    shapes = {"odd": (torch.uint8, (3,)), "wide": (torch.float64, (2,)), "half": (torch.bfloat16, (3,))}
    with TensorWriter(tmp_path / "t.safetensors", shapes) as writer:
        for name, (dtype, shape) in shapes.items():
            writer.write(name, torch.ones(shape, dtype=dtype))
    places, _ = read_header(tmp_path / "t.safetensors")
    assert all(place.start % place.dtype.itemsize == 0 for place in places.values())


def test_scalars_and_empty_tensors_survive(tmp_path):
    with TensorWriter(tmp_path / "t.safetensors", {"s": (torch.float32, ()), "e": (torch.bfloat16, (0, 4))}) as writer:
        writer.write("s", torch.tensor(2.5))
        writer.write("e", torch.empty(0, 4, dtype=torch.bfloat16))
    found = mapped(tmp_path / "t.safetensors")
    assert found["s"].item() == 2.5 and found["e"].shape == (0, 4)


def test_a_file_of_empty_tensors_is_mapped(tmp_path):
    save_file({"e": torch.empty(0, 4)}, tmp_path / "t.safetensors")
    assert mapped(tmp_path / "t.safetensors")["e"].shape == (0, 4)


def test_metadata_is_kept_in_the_header(tmp_path):
    with TensorWriter(tmp_path / "t.safetensors", {"x": (torch.float32, (1,))}, {"format": "pt"}) as writer:
        writer.write("x", torch.ones(1))
    with safe_open(tmp_path / "t.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    assert read_header(tmp_path / "t.safetensors")[1] == {"format": "pt"}


def test_writing_into_a_mapped_tensor_leaves_the_file_as_it_was(tmp_path):
    save_file({"x": torch.ones(4)}, tmp_path / "t.safetensors")
    before = (tmp_path / "t.safetensors").read_bytes()
    mapped(tmp_path / "t.safetensors")["x"].zero_()
    assert (tmp_path / "t.safetensors").read_bytes() == before
    assert mapped(tmp_path / "t.safetensors")["x"].sum() == 4


def test_a_mapped_tensor_outlives_its_dictionary_and_its_file(tmp_path):
    save_file({"x": torch.ones(4), "y": torch.zeros(4)}, tmp_path / "t.safetensors")
    x = mapped(tmp_path / "t.safetensors")["x"]
    (tmp_path / "t.safetensors").unlink()
    assert x.sum() == 4


def test_a_tensor_that_is_not_aligned_in_its_file_is_read(tmp_path):
    header = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    header += b" " * (3 - len(header) % 8 if len(header) % 8 <= 3 else 11 - len(header) % 8)
    (tmp_path / "t.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.5, -2.0))
    assert mapped(tmp_path / "t.safetensors")["x"].tolist() == [1.5, -2.0]


def test_a_tensor_left_out_is_an_error_on_leaving(tmp_path):
    shapes = {"a": (torch.float32, (1,)), "b": (torch.float32, (4,))}
    message = "1 of 2 tensors are not complete; 'b' has 8 of 16 bytes"
    with pytest.raises(DataError, match=message), TensorWriter(tmp_path / "t.safetensors", shapes) as writer:
        writer.write("a", torch.ones(1))
        writer.write_rows("b", torch.ones(2))


def test_an_error_inside_the_block_is_not_hidden_by_what_is_missing(tmp_path):
    with pytest.raises(KeyError), TensorWriter(tmp_path / "t.safetensors", {"a": (torch.float32, (1,))}):
        raise KeyError


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: w.write("y", torch.ones(4, 2)), "'y' was not announced. Announced are: x"),
        (lambda w: w.write("x", torch.ones(4, 2, dtype=torch.float64)), "'x' is torch.float64, announced was torch.float32"),
        (lambda w: w.write("x", torch.ones(2, 4)), r"'x' has shape \[2, 4\], announced was \[4, 2\]"),
        (lambda w: (w.write("x", torch.ones(4, 2)), w.write("x", torch.ones(4, 2))), "'x' is written twice"),
        (lambda w: w.write_rows("x", torch.ones(1, 3)), r"rows of shape \[1, 3\] do not fit 'x' of shape \[4, 2\]"),
        (lambda w: w.write_rows("x", torch.ones(5, 2)), "'x' gets more than the 4 rows announced"),
    ],
)
def test_what_does_not_fit_the_header_is_refused(tmp_path, call, message):
    with (
        pytest.raises(DataError, match=message),
        TensorWriter(tmp_path / "t.safetensors", {"x": (torch.float32, (4, 2))}) as writer,
    ):
        call(writer)


def test_writing_outside_the_block_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not open"):
        TensorWriter(tmp_path / "t.safetensors", {"x": (torch.float32, (1,))}).write("x", torch.ones(1))


def test_an_existing_file_is_not_written_over(tmp_path):
    (tmp_path / "t.safetensors").touch()
    with pytest.raises(FileExistsError), TensorWriter(tmp_path / "t.safetensors", {}):
        pass


def test_a_dtype_without_a_name_in_the_format_is_refused(tmp_path):
    with pytest.raises(DataError, match="'x' is torch.complex128, which a safetensors file cannot hold"):
        TensorWriter(tmp_path / "t.safetensors", {"x": (torch.complex128, (1,))})


def test_a_file_larger_than_memory_is_mapped(tmp_path):
    rows = psutil.virtual_memory().total * 3 // 2 // 4096
    header = json.dumps({"x": {"dtype": "BF16", "shape": [rows, 2048], "data_offsets": [0, rows * 4096]}}).encode()
    header += b" " * (-len(header) % 8)
    with (tmp_path / "t.safetensors").open("wb") as handle:
        handle.write(struct.pack("<Q", len(header)) + header)
        handle.truncate(8 + len(header) + rows * 4096)  # a hole: it takes no room on the disk
    assert mapped(tmp_path / "t.safetensors")["x"][-1].sum() == 0


@pytest.mark.parametrize("content", [b"", b"\x05", b"\xff" * 8, struct.pack("<Q", 4) + b"{no}", struct.pack("<Q", 10**9)])
def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "t.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="is no safetensors file"):
        mapped(tmp_path / "t.safetensors")


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    save_file({"x": torch.ones(100)}, tmp_path / "t.safetensors")
    whole = (tmp_path / "t.safetensors").read_bytes()
    (tmp_path / "t.safetensors").write_bytes(whole[:-8])
    with pytest.raises(DataError, match="'x' should be torch.float32"):
        mapped(tmp_path / "t.safetensors")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        mapped(tmp_path / "t.safetensors")


def test_a_reader_gives_each_tensor_memory_of_its_own_and_survives_the_file(tmp_path):
    stored = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "none": torch.empty(0, 3)}
    save_file(stored, tmp_path / "f.safetensors")
    reader = TensorReader(tmp_path / "f.safetensors")
    (tmp_path / "f.safetensors").unlink()
    assert set(reader) == set(stored) and len(reader) == 3 and "a" in reader and "c" not in reader
    assert all(torch.equal(reader[name], value) and reader[name].dtype == value.dtype for name, value in stored.items())
    reader["a"].zero_()
    assert torch.equal(reader["a"], stored["a"])


def test_a_reader_of_a_missing_file_names_it(tmp_path):
    with pytest.raises(DataError, match=r"f.safetensors: no such file"):
        TensorReader(tmp_path / "f.safetensors")
