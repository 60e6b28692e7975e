import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.models.sparse import FORMS, differing, pack, positions_shape, smallest, unpack


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_bits_are_compared_and_not_values(dtype):
    one = torch.tensor([0.0, float("nan"), 1.0, float("inf"), 2.0], dtype=dtype)
    other = torch.tensor([-0.0, float("nan"), 1.0, float("inf"), 2.5], dtype=dtype)
    assert differing(one, other).tolist() == [True, False, False, False, True]


def test_tensors_that_do_not_lie_in_row_order_are_compared_by_place():
    one = torch.arange(6.0).reshape(2, 3)
    assert not differing(one, one.T.contiguous().T).any()


@pytest.mark.parametrize(
    ("changed", "entries", "width", "form"),
    [
        (1, 1000, 4, "index"),
        (31, 1000, 4, "index"),  # 4 x 31 bytes of places against 125
        (32, 1000, 4, "bits"),
        (968, 1000, 4, "bits"),
        (969, 1000, 4, "whole"),
        (0, 8, 2, "index"),
        (3, 2**31, 4, "bits"),  # places above 2^31 - 1 do not fit into int32
    ],
)
def test_the_form_with_the_fewest_bytes_is_chosen(changed, entries, width, form):
    assert smallest(changed, entries, width) == form


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=70), st.sampled_from(FORMS[1:]))
def test_places_come_back_as_they_were_packed(marks, form):
    mask = torch.tensor(marks)
    count = int(mask.sum())
    packed = pack(form, mask)
    assert (packed.dtype, tuple(packed.shape)) == positions_shape(form, count, len(marks))
    assert unpack(form, packed, count, len(marks)).tolist() == [place for place, marked in enumerate(marks) if marked]


@pytest.mark.parametrize(
    ("form", "packed", "message"),
    [
        ("index", torch.tensor([3, 1], dtype=torch.int32), "not in rising order"),
        ("index", torch.tensor([1, 1], dtype=torch.int32), "not in rising order"),
        ("index", torch.tensor([1, 9], dtype=torch.int32), "rising order below 9"),
        ("index", torch.tensor([-1, 2], dtype=torch.int32), "not in rising order"),
        ("index", torch.tensor([1], dtype=torch.int32), r"shape \[1\], expected torch.int32 of shape \[2\]"),
        ("bits", torch.tensor([0b11100000, 0], dtype=torch.uint8), "marks 3 entries, expected 2"),
        ("bits", torch.tensor([0b10000000, 0b01000000], dtype=torch.uint8), "rising order below 9"),
    ],
)
def test_damaged_places_are_refused(form, packed, message):
    with pytest.raises(ValueError, match=message):
        unpack(form, packed, 2, 9)
