import json

import pytest
import torch
from pydantic import ValidationError

from temper import assess
from temper.assess import scoring
from temper.assess.itemtable import read_values
from temper.assess.probes.relearning import Relearning, fine_tune
from temper.data import encode
from temper.errors import DataError
from temper.recipe import DataSource
from temper.recipe.named import named_settings
from tests.assess.builders import PEOPLE, TOWNS, counted, judged_people, write_people
from tests.data.tokenizers import make_tokenizer

FAST = {"metrics": ["answer_accuracy"], "gold": None}
NAMES = ["relearning.before", "relearning.before_lenient", "relearning.after", "relearning.after_lenient"]


def rows_of(tokenizer):
    rows = [
        {"id": name, "prompt": f"Where was {name} born?", "response": f" {town}", "entity": name}
        for name, town in zip(PEOPLE, TOWNS, strict=True)
    ]
    return encode(rows, tokenizer, DataSource(path="rows"), max_length=128, overflow="error", where="rows").items


def test_the_loop_is_adamw_on_the_mean_over_the_answers_tokens(make_llama):
    tokenizer = make_tokenizer(chat=True)
    items = rows_of(tokenizer)
    settings = Relearning(steps=3, batch_size=len(items), learning_rate=1e-2)
    model, plain = (make_llama(vocab=len(tokenizer)) for _ in range(2))
    losses = fine_tune(model, items, settings, pad_id=0, seed=0)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.0)
    expected = []
    for _ in range(3):
        total, count = 0.0, 0
        for one in items:
            logp = plain(torch.tensor([one.input_ids])).logits[0].log_softmax(-1)
            places = [place for place, label in enumerate(one.labels) if label != -100]
            total = total - sum(logp[place - 1, one.labels[place]] for place in places)
            count += len(places)
        loss = total / count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        expected.append(float(loss.detach()))
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_weights_and_another_one_others(make_llama):
    tokenizer = make_tokenizer(chat=True)
    items = rows_of(tokenizer)
    weights = []
    for seed in (0, 0, 1):
        model = make_llama(vocab=len(tokenizer))
        fine_tune(model, items, Relearning(steps=2, batch_size=3), pad_id=0, seed=seed)
        weights.append(model.lm_head.weight.detach().clone())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_half_of_the_groups_train_and_the_other_half_is_asked(folder):
    run_folder = judged_people(folder, probes=["relearning"], metrics=["answer_accuracy"])
    evidence = assess.run(run_folder)
    for which in ("unlearned", "original", "gold"):
        found = [evidence.find(name, "forget", which) for name in NAMES]
        assert [(r.n, r.status, r.better) for r in found] == [(4, "ok", "gold")] * 4
        assert found[0].reason == "20 steps on 4 rows of other values of entity"
    values = read_values(run_folder / "records.parquet").values
    before, accuracy = values["relearning.before", "forget"], values["answer_accuracy", "forget"]
    asked = [place for place, value in enumerate(before) if value == value]
    assert len(asked) == 4 and [before[place] for place in asked] == [accuracy[place] for place in asked]


def test_facts_that_train_come_back_and_the_weights_on_disk_stay(folder):
    # the training rows are about the very people that are asked: other ids, the groups turned around
    turned = folder / "turned.jsonl"
    write_people(turned, thinks=False)
    run_folder = judged_people(
        folder, probes=[{"relearning": {"steps": 60, "learning_rate": 2e-2, "group": "half"}}], original=None, **FAST
    )
    rows = [json.loads(line) | {"half": "same" if n < 4 else "other"} for n, line in enumerate(turned.read_text().splitlines())]
    (folder / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = assess.run(run_folder)
    hidden = first.find("relearning.after", "forget").value
    for row in rows:
        row["half"] = "same" if row["half"] == "other" else "other"
    turned.write_text("".join(json.dumps(row) + "\n" for row in rows))
    weights = first.models["unlearned"].weights_hash
    probe = f"{{relearning: {{steps: 60, learning_rate: 2.0e-2, group: half, data: {{path: {turned}}}}}}}"
    second = assess.run(run_folder, overrides=[f"evaluate.probes=[{probe}]"])
    assert second.find("relearning.after", "forget").value == 1.0 > hidden
    assert second.models["unlearned"].weights_hash == weights == assess.run(run_folder).models["unlearned"].weights_hash


def test_original_and_gold_are_probed_once_over_many_runs(folder, monkeypatch):
    first = assess.run(judged_people(folder, probes=["relearning", "trace_prefill"], metrics=["answer_accuracy"]))
    calls = counted(monkeypatch)
    other = assess.given(str(folder / "recipe.yaml"), ["name=other"], folder / "other")
    assert assess.run(other).results == first.results
    assert set(calls) == {str(folder / "original")}  # as the judged model: once scored, once probed
    assert len(calls) == 2


def test_training_rows_that_changed_are_probed_anew(folder):
    write_people(folder / "more.jsonl", thinks=False)
    run_folder = judged_people(
        folder, probes=[{"relearning": {"data": {"path": str(folder / "more.jsonl")}}}], original=None, **FAST
    )
    assert assess.run(run_folder).find("relearning.after", "forget").reason == "20 steps on 4 rows of other values of entity"
    lines = (folder / "more.jsonl").read_text()
    (folder / "more.jsonl").write_text(lines + lines.replace("more/", "again/"))
    assert assess.run(run_folder).find("relearning.after", "forget").reason == "20 steps on 8 rows of other values of entity"


def test_rows_without_a_group_are_refused_before_anything_is_scored(folder, monkeypatch):
    run_folder = judged_people(folder, probes=[{"relearning": {"group": "person"}}])
    monkeypatch.setattr(scoring, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(DataError, match=r"evaluate\.data\.forget row 'forget/0': has no column 'person'.*relearning\.group"):
        assess.run(run_folder)


def test_data_about_other_things_are_refused(folder):
    write_people(folder / "more.jsonl", thinks=False, entity="nobody")
    with pytest.raises(DataError, match=r"relearning\.data: none of its 8 rows"):
        assess.run(judged_people(folder, probes=[{"relearning": {"data": {"path": str(folder / "more.jsonl")}}}]))


def test_one_group_alone_cannot_be_held_back(folder):
    run_folder = judged_people(folder, probes=["relearning"], **FAST)
    write_people(folder / "forget.jsonl", thinks=False, entity="all")
    found = assess.run(run_folder).find("relearning.after", "forget")
    assert (found.value, found.status) == (None, "skipped") and "fewer than two values in entity" in found.reason


def test_without_forget_rows_the_probe_says_so(folder):
    run_folder = judged_people(folder, probes=["relearning"], **FAST)
    found = assess.run(run_folder, overrides=[f"evaluate.data={{trace: {{path: {folder / 'trace.jsonl'}}}}}"])
    assert found.find("relearning.after", "forget").reason == "evaluate.data has no role forget"


def test_a_fine_tuning_without_a_finite_loss_has_failed(folder):
    from safetensors.torch import load_file, save_file

    weights = folder / "original" / "model.safetensors"
    tensors = load_file(weights)
    tensors["lm_head.weight"][9] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    evidence = assess.run(judged_people(folder, probes=["relearning"], metrics=["answer_accuracy"]))
    found = evidence.find("relearning.after", "forget")
    assert (found.value, found.status, found.reason) == (None, "failed", "the fine-tuning gave no finite loss")
    assert evidence.find("relearning.after", "forget", "gold").status == "ok"


def test_settings_out_of_range_are_refused():
    for wrong in ({"steps": 0}, {"share": 1.0}, {"share": 0.0}, {"learning_rate": 0.0}, {"group": ""}):
        with pytest.raises(ValidationError):
            Relearning(**wrong)
    assert named_settings("probe", {"relearning": 5}) == Relearning(steps=5)
