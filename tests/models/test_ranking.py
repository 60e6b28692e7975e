import itertools
import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.errors import ModelError
from temper.models.histogram import Histogram, by_size
from temper.models.ranking import Shards, budget, choose
from temper.models.units import Lines, Units

TENTHS = [round(0.1 * n, 1) for n in range(11)]


def scores(seed=0, shapes=((40, 25), (30,), (7, 11, 3))):
    """Few different values, so that every threshold has ties."""
    draw = np.random.default_rng(seed)
    names = ["b.weight", "a.bias", "c.experts"]
    return {
        name: torch.from_numpy(draw.integers(-9, 10, shape).astype(np.float32)) for name, shape in zip(names, shapes, strict=True)
    }


def by_sorting(tensors, ratio):
    """The definition: sorted by score, then name, then place."""
    entries = [(-abs(float(s)), name, i) for name, t in tensors.items() for i, s in enumerate(t.flatten())]
    masks = {name: np.zeros(t.numel(), bool) for name, t in tensors.items()}
    for _, name, place in sorted(entries)[: budget(ratio, len(entries))]:
        masks[name][place] = True
    return {name: torch.from_numpy(mask).reshape(tensors[name].shape) for name, mask in masks.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("ratio, count, expected", [(0.29, 100, 29), (0.1, 30, 3), (0.4, 7, 2), (0.0, 9, 0), (1.0, 9, 9)])
def test_the_budget_is_the_share_rounded_down_whatever_binary_fractions_do(ratio, count, expected):
    assert budget(ratio, count) == expected


@pytest.mark.parametrize("ratio", [-0.1, 1.01, math.nan])
def test_a_ratio_outside_0_to_1_is_refused(ratio):
    with pytest.raises(ModelError, match=r"ratio = .*: is the share of weights that may change; it must be in \[0, 1\]"):
        choose(scores(), [0.5, ratio])


@pytest.mark.parametrize("scope", ["global", "per_tensor", "per_row", "per_module_type"])
def test_the_budget_is_exact_at_every_ratio(scope):
    tensors = scores()
    groups = {
        "global": [1261],
        "per_tensor": [1000, 30, 231],
        "per_row": [25] * 40 + [30] + [3] * 77,
        "per_module_type": [1000, 261],
    }
    chosen = choose(tensors, TENTHS, scope=scope, kind_of=lambda name: "matrix" if name == "b.weight" else "other")
    for ratio in TENTHS:
        expected = sum(budget(ratio, size) for size in groups[scope])
        assert chosen[ratio].selected == sum(int(mask.sum()) for mask in chosen[ratio].values()) == expected
        assert chosen[ratio].competing == 1261


@pytest.mark.parametrize("scope", ["global", "per_tensor", "per_row", "per_module_type"])
def test_masks_of_smaller_ratios_lie_inside_those_of_larger_ones(scope):
    chosen = choose(scores(), TENTHS, scope=scope, kind_of=lambda name: name[0])
    for narrow, wide in itertools.pairwise(TENTHS):
        assert all(bool((chosen[wide][name] | ~chosen[narrow][name]).all()) for name in chosen[wide])


@pytest.mark.parametrize("ratio", [0.1, 0.37, 0.9])
def test_ties_go_to_the_first_name_and_then_to_the_first_place(ratio):
    assert same(choose(scores(), [ratio])[ratio], by_sorting(scores(), ratio))


@settings(max_examples=60, deadline=None)
@given(
    lists=st.lists(st.lists(st.sampled_from([0.0, -0.0, 1e-45, 1.0, -1.0, 2.0, 3e38]), max_size=9), min_size=1, max_size=4),
    ratio=st.floats(0, 1),
)
def test_a_choice_is_what_sorting_by_score_name_and_place_gives(lists, ratio):
    tensors = {f"t{number}": torch.tensor(values) for number, values in enumerate(lists)}
    assert same(choose(tensors, [ratio])[ratio], by_sorting(tensors, ratio))


def test_the_order_of_the_tensors_changes_nothing():
    tensors = scores()
    turned = dict(reversed(tensors.items()))
    assert same(choose(tensors, [0.3])[0.3], choose(turned, [0.3])[0.3])


def test_the_counts_of_each_tensor_are_those_of_its_mask():
    for scope in ("global", "per_tensor", "per_row"):
        chosen = choose(scores(), [0.37], scope=scope)[0.37]
        assert chosen.counts() == {name: int(mask.sum()) for name, mask in chosen.items()}


def test_histogram_selection_equals_a_full_sort_of_a_million_scores():
    draw = np.random.default_rng(0)
    flat = np.exp(draw.normal(0, 10, 1_000_000)).astype(np.float32) * draw.choice([-1, 1], 1_000_000).astype(np.float32)
    flat[draw.random(1_000_000) < 0.3] = 0
    flat[draw.integers(0, 1_000_000, 1000)] = np.float32(1e-45) * draw.integers(1, 50, 1000).astype(np.float32)  # not normal
    assert np.isfinite(flat).all() and (np.abs(flat[flat != 0]) < 1e-38).sum() > 900
    tensors = dict(zip("abc", torch.from_numpy(flat).split([100_000, 600_000, 300_000]), strict=True))
    order = np.argsort(-np.abs(flat), kind="stable")  # one vector, so places are in the order of the names
    ratios = [0.001, 0.4, 0.65, 0.699, 0.7, 0.9, 1.0]
    chosen = choose(tensors, ratios)
    for ratio in ratios:
        expected = np.zeros(len(flat), bool)
        expected[order[: budget(ratio, len(flat))]] = True
        assert np.array_equal(torch.cat([chosen[ratio][name] for name in "abc"]).numpy(), expected)


def test_zeros_are_chosen_only_when_everything_else_is():
    tensors = {"a": torch.tensor([0.0, 1e-45, -0.0, 3.0])}
    chosen = choose(tensors, [0.5, 0.75])
    assert chosen[0.5]["a"].tolist() == [False, True, False, True]
    assert chosen[0.75]["a"].tolist() == [True, True, False, True]


def test_half_precision_keeps_its_values():
    tensors = {name: tensor.bfloat16() for name, tensor in scores().items()}
    assert same(choose(tensors, [0.3])[0.3], choose(scores(), [0.3])[0.3])


@pytest.mark.parametrize("scope", ["global", "per_row"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused_by_the_name_of_their_tensor(value, scope):
    tensors = scores()
    tensors["a.bias"][3] = value
    with pytest.raises(ModelError, match=r"the scores of a.bias: 1 of 30 are NaN or infinite"):
        choose(tensors, [0.3], scope=scope)


def test_counts_of_shards_add_up_to_the_counts_of_the_whole():
    whole, left, right = Histogram(), Histogram(), Histogram()
    tensor = scores()["b.weight"]
    whole.add("w", tensor)
    left.add("w", tensor[:13])
    right.add("w", tensor[13:])
    assert np.array_equal(left.merge(right).counts, whole.counts) and whole.total == 1000


@pytest.mark.parametrize("scope", ["global", "per_tensor", "per_row"])
@pytest.mark.parametrize("processes", [2, 3])
def test_shards_choose_what_the_whole_chooses(processes, scope):
    tensors = scores()
    whole = choose(tensors, [0.2, 0.5], scope=scope)
    met, sums = threading.Barrier(processes), {}

    def add_up(index):
        def together(counts):
            met.wait()
            sums[index] = counts
            met.wait()
            return sum(sums[i] for i in range(processes))

        return together

    found = {}

    def run(index):
        # a bias is one row, which lies whole in the last process
        def part(name, tensor):
            if tensor.dim() == 1 and scope == "per_row":
                return tensor if index == processes - 1 else tensor[:0]
            return tensor.tensor_split(processes)[index]

        own = {name: part(name, tensor) for name, tensor in tensors.items()}
        found[index] = choose(own, [0.2, 0.5], scope=scope, shards=Shards(index, processes, add_up(index)))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    for ratio in (0.2, 0.5):
        joined = {name: torch.cat([found[i][ratio][name] for i in range(processes)]) for name in tensors}
        assert same(joined, whole[ratio]) and found[0][ratio].selected == whole[ratio].selected


def test_the_number_of_threads_changes_nothing():
    tensors = {"a": torch.from_numpy(np.random.default_rng(3).integers(-3, 4, 300_000).astype(np.float32))}
    alone = choose(tensors, [0.3])[0.3]["a"]
    torch.set_num_threads(4)
    try:
        assert torch.equal(choose(tensors, [0.3])[0.3]["a"], alone)
    finally:
        torch.set_num_threads(1)


def test_tensors_are_read_when_asked_for_and_one_at_a_time():
    class Read(dict):
        asked = 0

        def __getitem__(self, name):
            self.asked += 1
            return super().__getitem__(name).clone()

    lazily = Read(scores())
    chosen = choose(lazily, TENTHS)
    assert lazily.asked == 9  # three passes over three tensors, for any number of ratios
    assert "a.bias" in chosen[0.5] and "other" not in chosen[0.5] and len(chosen[0.5]) == 3
    assert lazily.asked == 9
    with pytest.raises(KeyError):
        chosen[0.5]["other"]


def test_every_output_row_keeps_its_share():
    weight = torch.tensor([[1.0, 2, 3, 4], [40, 30, 20, 10]])
    rows = choose({"w": weight}, [0.5], scope="per_row")[0.5]["w"]
    assert rows.tolist() == [[False, False, True, True], [True, True, False, False]]
    assert torch.equal(choose({"w": weight.T}, [0.5], scope="per_row", transposed={"w"})[0.5]["w"], rows.T)


def test_kinds_compete_among_themselves():
    tensors = {"a.q": torch.tensor([1.0, 2]), "b.q": torch.tensor([3.0, 4]), "a.k": torch.tensor([100.0, 200])}
    chosen = choose(tensors, [0.5], scope="per_module_type", kind_of=lambda name: name[-1])[0.5]
    assert {name: mask.tolist() for name, mask in chosen.items()} == {
        "a.q": [False, False],
        "b.q": [True, True],
        "a.k": [False, True],
    }
    with pytest.raises(ModelError, match="scope = 'per_module_type': needs the kind"):
        choose(tensors, [0.5], scope="per_module_type")


def test_no_scores_give_an_empty_choice():
    assert dict(choose({}, [0.5])[0.5]) == {} and choose({}, [0.5])[0.5].selected == 0
    assert choose({"a": torch.zeros(0, 4)}, [0.5], scope="per_row")[0.5]["a"].shape == (0, 4)


W = torch.tensor([[1.0, -1, 1], [0, 0, 5], [2, 2, -2]])  # rows 3, 5, 6; columns 3, 3, 8
V = torch.tensor([[4.0], [4.0], [0.5]])


def rows(*names):
    return [Units(name, 3, (Lines(name, 0, 1),)) for name in names]


def lines(mask, dim=0):
    return [i for i in range(mask.shape[dim]) if mask.select(dim, i).any()]


def test_rows_compete_by_the_sum_of_their_scores():
    chosen = choose({"w": W, "v": V}, [0.3, 0.6], structure="rows", units=rows("w", "v"))
    assert lines(chosen[0.3]["w"]) == [2] and lines(chosen[0.3]["v"]) == []  # 3 of 12
    # 7 of 12: rows of w with 6 and 5 (6 weights), then the first of v with 4 (1); the second does not fit
    assert lines(chosen[0.6]["w"]) == [1, 2] and lines(chosen[0.6]["v"]) == [0]
    assert chosen[0.6].selected == 7 and chosen[0.6].counts() == {"w": 6, "v": 1}
    assert chosen[0.6]["w"].tolist()[1] == [True] * 3


def test_columns_are_taken_whole():
    units = [Units("w", 3, (Lines("w", 1, 1),))]
    chosen = choose({"w": W}, [1 / 3, 2 / 3], structure="columns", units=units)
    assert lines(chosen[1 / 3]["w"], 1) == [2] and lines(chosen[2 / 3]["w"], 1) == [0, 2]


def test_a_unit_of_several_tensors_is_taken_whole():
    units = [Units("attention 0", 2, (Lines("q", 0, 2), Lines("o", 1, 1), Lines("bias", 0, 2)))]
    tensors = {"q": torch.ones(4, 3), "o": torch.tensor([[0.0, 1.0]] * 3), "bias": torch.ones(4)}
    chosen = choose(tensors, [0.5], structure="heads", units=units)[0.5]
    assert lines(chosen["q"]) == [2, 3] and lines(chosen["o"], 1) == [1] and chosen["bias"].tolist() == [False, False, True, True]
    assert chosen.selected == 11 and chosen.competing == 22


def test_units_of_smaller_ratios_lie_inside_those_of_larger_ones():
    draw = np.random.default_rng(5)
    tensors = {"w": torch.from_numpy(draw.integers(0, 3, (3, 40))), "v": torch.from_numpy(draw.integers(0, 3, (3, 5)))}
    ratios = [0.35, 0.5, 0.7, 0.9, 1.0]
    chosen = choose(tensors, ratios, structure="rows", units=rows("w", "v"))
    for narrow, wide in itertools.pairwise(ratios):
        assert chosen[narrow].selected <= budget(narrow, 135)
        assert all(bool((chosen[wide][name] | ~chosen[narrow][name]).all()) for name in tensors)
    assert chosen[1.0].selected == 135


def test_tensors_without_scores_or_without_units_do_not_compete():
    chosen = choose({"w": W, "norm": torch.ones(3)}, [1.0], structure="rows", units=rows("w", "v"))[1.0]
    assert list(chosen) == ["w"] and chosen.competing == 9
    with pytest.raises(ModelError, match="structure = 'rows': none of the 1 groups of units has scores"):
        choose({"norm": torch.ones(3)}, [0.5], structure="rows", units=rows("w"))


def test_a_ratio_with_no_room_for_a_single_unit_is_refused_with_its_size():
    with pytest.raises(
        ModelError, match="ratio = 0.3: is 2 of 9 weights, which has no room for one of the rows: the first, of w, has 3"
    ):
        choose({"w": W}, [0.3], structure="rows", units=rows("w"))


@pytest.mark.parametrize(
    "scope, structure, message",
    [
        ("per_row", "rows", "Use 'global', 'per_tensor' or 'per_module_type'"),
        ("per_tensor", "heads", "does not go with structure = 'heads'. Use 'global'"),
    ],
)
def test_scopes_that_do_not_go_with_a_structure_are_refused(scope, structure, message):
    with pytest.raises(ModelError, match=message):
        choose({"w": W}, [0.5], scope=scope, structure=structure, units=rows("w"))


def test_rows_compete_within_their_tensor_where_the_scope_says_so():
    chosen = choose({"w": W, "v": V / 100}, [0.4], scope="per_tensor", structure="rows", units=rows("w", "v"))[0.4]
    assert lines(chosen["w"]) == [2] and lines(chosen["v"]) == [0]


def test_units_with_scores_that_are_not_finite_are_refused():
    with pytest.raises(ModelError, match="the scores of w: some are NaN or infinite"):
        choose({"w": W / 0}, [0.5], structure="rows", units=rows("w"))


def test_a_structure_without_its_units_is_refused():
    with pytest.raises(ModelError, match=r"Give units_of\(model, 'rows'\)"):
        choose({"w": W}, [0.5], structure="rows")


def test_octaves_count_all_and_selected_scores():
    tensors = {"a": torch.tensor([1.0, -1.5, 4.0, 0.0, 0.0, 1e-45]), "b": torch.tensor([4.5])}
    masks = {"a": torch.tensor([False, True, True, True, False, False])}
    found = by_size(tensors, masks)
    assert found["log2"][:2] == [-149, -126] and found["log2"][-4:] == [0, 1, 2, 3]
    assert sum(found["counts"]) == 5 and found["counts"][0] == 1 and found["counts"][-3:] == [2, 0, 2]
    assert found["selected"][-3:] == [1, 0, 1] and (found["zeros"], found["zeros_selected"]) == (2, 1)
    assert by_size({})["counts"] == []
