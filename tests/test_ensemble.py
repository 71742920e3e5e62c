"""Several reward models as one: their scores with an uncertainty, checked by hand, and the average of their weights."""

import json
import math
import random
import shutil
import statistics

import pytest
from conftest import read_jsonl, write_jsonl
from trainings import call, golden, make_classifier, read_json, refused, weights_of

ROWS = [[1.0, 3.0, 2.0], [5.0], [4.0, 9.0]]


def scores_of(values, **more):
    """Rows as score.py writes them."""
    return [
        {"row": n, "score": row if len(row) > 1 else row[0], "length": [7] * len(row), **more}
        for n, row in enumerate(values, 1)
    ]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = [[2 * r**2 for r in row] for row in ROWS]  # another order of size, the same order of answers
    write_jsonl(tmp_path / "a.jsonl", [*scores_of(ROWS, note="kept"), {"row": 4, "score": None, "error": "no_text"}])
    write_jsonl(tmp_path / "b.jsonl", [*scores_of(other), {"row": 4, "score": None, "error": "no_text"}])
    return [[r for row in part for r in row] for part in (ROWS, other)]


@pytest.mark.parametrize("combine", ["mean", "min", "uncertainty"])
def test_scores_by_hand(combine, files):
    z = [[(r - statistics.fmean(part)) / statistics.pstdev(part) for r in part] for part in files]
    by_hand = {
        "mean": [statistics.fmean(both) for both in zip(*z)],
        "min": [min(both) for both in zip(*z)],
        "uncertainty": [statistics.fmean(both) - 0.7 * statistics.pvariance(both) for both in zip(*z)],
    }[combine]
    call("ensemble", "--data", "a.jsonl", "b.jsonl", "--combine", combine, "--penalty", "0.7")
    rows = read_jsonl("ensemble/scores.jsonl")
    flat = [r for row in rows[:3] for r in (row["score"] if isinstance(row["score"], list) else [row["score"]])]
    unsure = [
        u for row in rows[:3] for u in (row["uncertainty"] if isinstance(row["score"], list) else [row["uncertainty"]])
    ]
    assert flat == pytest.approx(by_hand) and unsure == pytest.approx([statistics.pstdev(both) for both in zip(*z)])
    assert [row.get("best") for row in rows] == [1, None, 1, None] and rows[0]["note"] == "kept"
    assert rows[3] == {"row": 4, "error": "no_text"}
    assert read_json("ensemble/summary.json")["answers"] == 6


def test_out_may_be_a_link_to_a_larger_disk(files, tmp_path):
    """And what is there is replaced in two renames, so that no half of it can be left."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "ensemble").symlink_to("disk")
    for _ in range(2):
        call("ensemble", "--data", "a.jsonl", "b.jsonl", "--out", "ensemble/")
        assert (tmp_path / "ensemble").is_symlink()
        assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["scores.jsonl", "summary.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl", "disk", "ensemble"]


def test_the_ensemble_is_better_than_its_members_whatever_their_scales(tmp_path, monkeypatch, capsys):
    """Three noisy views of one quality: their mean is right more often, and most often where they agree."""
    monkeypatch.chdir(tmp_path)
    rng, views = random.Random(0), [[], [], []]
    for pair in range(3000):
        both = sorted((rng.gauss(0, 1), rng.gauss(0, 1)), reverse=True)
        for number, rows in enumerate(views):
            seen = [(10**number) * (quality + rng.gauss(0, 1)) - 5 * number for quality in both]
            rows.append({"pair": pair, "chosen": seen[0], "rejected": seen[1], "prompt_id": str(pair)})
    for number, rows in enumerate(views):
        write_jsonl(tmp_path / f"{number}.jsonl", rows)
    call("ensemble", "--data", "0.jsonl", "1.jsonl", "2.jsonl", "--combine", "mean")
    found = read_json("ensemble/summary.json")
    assert found["accuracy"] > max(member["accuracy"] for member in found["members"]) + 0.03
    assert found["accuracy_where_all_agree"] > found["accuracy"] > found["accuracy_elsewhere"] + 0.1
    assert "all prefer the same answer in" in capsys.readouterr().out
    (tmp_path / "model").mkdir()
    call("scale", "--data", "ensemble/scores.jsonl", "--method", "temperature")  # reads it as it reads one model's
    assert read_json("scaling/scaling.json")["scaling"]["fitted_on"]["pairs"] == 3000


def test_scores_of_other_rows_are_refused(files, capsys, tmp_path):
    write_jsonl(tmp_path / "fewer.jsonl", scores_of(ROWS))
    write_jsonl(tmp_path / "longer.jsonl", scores_of(ROWS[:2] + [[4.0, 9.0, 1.0]]))
    write_jsonl(tmp_path / "same.jsonl", scores_of([[1.0, 1.0, 1.0], [1.0], [1.0, 1.0]]))
    (tmp_path / "broken.jsonl").write_text("no json\n")
    assert "about other rows" in refused(capsys, "ensemble", "--data", "a.jsonl", "fewer.jsonl")
    assert "about other rows" in refused(capsys, "ensemble", "--data", "fewer.jsonl", "longer.jsonl")
    assert "all the same" in refused(capsys, "ensemble", "--data", "fewer.jsonl", "same.jsonl")
    assert "no JSON object" in refused(capsys, "ensemble", "--data", "a.jsonl", "broken.jsonl")
    assert "is not scaled" in refused(capsys, "ensemble", "--data", "a.jsonl", "b.jsonl", "--no-align")
    assert not (tmp_path / "ensemble").exists()
    with pytest.raises(SystemExit) as stop:
        call("ensemble", "--data", "a.jsonl")
    assert stop.value.code == 2
    for name, factor in (("c.jsonl", 1), ("d.jsonl", 3)):  # already on one scale: taken as they are
        scaled = [{**row, "scaled": [factor * r for r in part]} for row, part in zip(scores_of(ROWS), ROWS)]
        scaled[1]["scaled"] = factor * ROWS[1][0]
        write_jsonl(tmp_path / name, scaled)
    call("ensemble", "--data", "c.jsonl", "d.jsonl", "--no-align", "--combine", "mean")
    assert read_jsonl("ensemble/scores.jsonl")[0]["score"] == [2.0, 6.0, 4.0]


# ---- Weights ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(base, tmp_path, monkeypatch):
    """model, with probes, and model-2: the same one, moved a little, as a second fine-tune would be."""
    import torch
    import transformers

    monkeypatch.chdir(tmp_path)
    first, module = make_classifier(base, tmp_path / "model"), golden("ensemble_weights")
    model, tokenizer, reward = module.load_reward_model(first)
    messages = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "Slowly, and with care."}]
    ids = module.encode(messages, tokenizer, 256)[0]
    probe = {"messages": messages, "ids": module.fingerprint(ids)}
    probe["score"] = module.score_ids(model, [[ids]], 512).item()
    reward |= {"base_model": "base", "dtype": "float32", "scaling": {"method": "none"}, "probes": [probe]}
    (first / "reward.json").write_text(json.dumps(reward))
    second = shutil.copytree(first, tmp_path / "model-2")
    moved = transformers.AutoModelForSequenceClassification.from_pretrained(first)
    with torch.no_grad():
        for weight in moved.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.manual_seed(1))
    moved.save_pretrained(second)
    (second / "reward.json").write_text(json.dumps({**reward, "probes": [], "max_length": 200}))
    return tmp_path


def test_weights_are_averaged_and_the_model_proves_itself(models, pairs, capsys):
    import torch

    call("ensemble_weights", "--pairs", pairs / "eval.parquet")
    one, two, mean = (weights_of(models / name) for name in ("model", "model-2", "ensemble"))
    assert max((mean[name] - (one[name] + two[name]) / 2).abs().max().item() for name in mean) < 1e-6
    assert not torch.equal(one["score.weight"], mean["score.weight"])
    reward = read_json("ensemble/reward.json")
    assert reward["scaling"] is None and reward["ensemble"]["averaged"] == ["model", "model-2"]
    assert reward["probes"][0]["score"] != read_json("model/reward.json")["probes"][0]["score"]
    right = reward["ensemble"]["members"] + [reward["ensemble"]["accuracy"]]
    assert len(right) == 3 and all(0 < share < 1 for share in right) and reward["ensemble"]["pairs"] == 54
    told = capsys.readouterr().out
    assert "its rewards have no scaling yet" in told
    assert "the members read 256, 200 tokens; the average reads 200" in told and reward["max_length"] == 200
    write_jsonl(models / "answers.jsonl", [{"prompt": "How?", "response": "Slowly, and with care."}])
    call("score", "--model", "ensemble", "--data", "answers.jsonl", "--out", "scores.jsonl")  # its probes are replayed
    assert read_jsonl("scores.jsonl")[0]["score"] == pytest.approx(reward["probes"][0]["score"], abs=1e-5)


def test_what_may_not_be_averaged_is_refused(models, pairs, capsys, monkeypatch):
    import torch
    from safetensors.torch import load_file, save_file

    words = ["--pairs", pairs / "eval.parquet"]
    assert "--out model-2, one of the models" in refused(capsys, "ensemble_weights", *words, "--out", "model-2")
    template = models / "model-2" / "chat_template.jinja"
    kept = template.read_text()
    template.write_text(kept.replace("<|im_end|>", "<|im_end|> "))
    assert "differ in chat template" in refused(capsys, "ensemble_weights", *words)
    template.write_text(kept)
    reward = read_json("model-2/reward.json")
    (models / "model-2" / "reward.json").write_text(json.dumps({**reward, "base_model": "another"}))
    assert "differ in base model" in refused(capsys, "ensemble_weights", *words)
    (models / "model-2" / "reward.json").write_text(json.dumps(reward))

    module, shares = golden("ensemble_weights"), iter([0.9, 0.9, 0.6])  # of the members, then of the average
    monkeypatch.setattr(module, "share_right", lambda *_: module.np.full(54, next(shares)))
    with pytest.raises(SystemExit) as stop:
        call("ensemble_weights", *words)
    told = capsys.readouterr().err
    assert stop.value.code == 4 and "worse than its members" in told and "0.600 on 54 pairs" in told
    monkeypatch.undo()

    file = models / "model-2" / "model.safetensors"
    weights = load_file(file)
    weights["score.weight"] = torch.randn(weights["score.weight"].shape, generator=torch.manual_seed(5))
    save_file(weights, file, metadata={"format": "pt"})
    monkeypatch.chdir(models)
    told = refused(capsys, "ensemble_weights", *words)
    assert "point elsewhere" in told and "train.seed" in told and not (models / "ensemble").exists()
    assert math.isfinite(float(told.split("cosine ")[1].split(")")[0]))
