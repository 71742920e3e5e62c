"""scale: every method finds a known truth, the advice holds when advantages are computed, nothing else is touched."""

import json
import math
import random
import re
import statistics
import types

import pytest
from browser import assert_self_contained
from conftest import ROOT, python, write_jsonl
from trainings import call, golden, make_classifier, read_json, refused

METHODS = ["standard", "robust", "linear", "running", "temperature", "platt", "isotonic", "lsc", "par", "quantile"]
LINEAR = METHODS[:5]
TRUE_T = 2.5


def module():
    return golden("scale")


def made_up(count, seed=0, bias=0.0):
    """Rows of pairs whose winner follows Bradley–Terry on a quality q; rewards are T · q + 3 + bias · log length."""
    rng, rows = random.Random(seed), []
    for number in range(count):
        both = [(rng.gauss(0, 1), max(1, round(rng.lognormvariate(6, 0.7)))) for _ in range(2)]
        if rng.random() > 1 / (1 + math.exp(both[1][0] - both[0][0])):
            both.reverse()
        (better, long), (worse, short) = both
        rows.append(
            {
                "pair": number,
                "chosen": TRUE_T * better + 3 + bias * math.log(long),
                "rejected": TRUE_T * worse + 3 + bias * math.log(short),
                "chosen_length": long,
                "rejected_length": short,
            }
        )
    return rows


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty folder with model/reward.json, entered."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model" / "merged").mkdir(parents=True)
    for folder in ("model", "model/merged"):
        (tmp_path / folder / "reward.json").write_text(json.dumps({"probes": [{"score": 1.5}], "scaling": None}))
    return tmp_path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """{debias: scaling.json}, each with every method compared on 12,000 pairs whose rewards follow length."""
    folder = tmp_path_factory.mktemp("fitted")
    write_jsonl(folder / "scores.jsonl", made_up(12_000, bias=1.0))
    (folder / "model").mkdir()
    found = {}
    for debias in ("none", "lowess"):
        words = ["--data", folder / "scores.jsonl", "--model", folder / "model", "--out", folder / debias]
        call("scale", *words, "--method", "temperature", "--debias", debias)
        found[debias] = read_json(folder / debias / "scaling.json")
    found["report"] = folder / "lowess" / "report.html"
    return found


def row_of(found, method):
    return next(row for row in found["methods"] if row["method"] == method)


def scaled(scores, scaling, lengths=None):
    return module().apply_scaling(scores, scaling, lengths if lengths is not None else [1] * len(scores))


# ---- Known truth -----------------------------------------------------------------------------------------------------


def test_temperature_is_found_and_calibrates(project):
    write_jsonl(project / "scores.jsonl", made_up(12_000))
    call("scale", "--data", "scores.jsonl", "--method", "temperature", "--out", "out")
    scaling = read_json("model/reward.json")["scaling"]
    assert scaling["scale"] == pytest.approx(TRUE_T, rel=0.05)
    row = row_of(read_json("out/scaling.json"), "temperature")
    assert row["calibration error before"] > 0.1 and row["calibration error after"] < 0.02
    assert row["rank agreement"] == pytest.approx(1) and row["pair accuracy"] > 0.65


def test_platt_and_isotonic_find_a_known_curve(project):
    rng, rows = random.Random(1), []
    for _ in range(12_000):
        score = rng.gauss(2, 3)
        rows.append({"score": score, "good": int(rng.random() < 1 / (1 + math.exp(-(score - 1.2) / 1.7)))})
    write_jsonl(project / "scores.jsonl", rows)
    for method in ("platt", "isotonic"):
        call("scale", "--data", "scores.jsonl", "--method", method, "--label", "good", "--out", "out")
        row = row_of(read_json("out/scaling.json"), method)
        assert row["calibration error before"] > 0.04 and row["calibration error after"] < 0.02, row
        scaling = read_json("model/reward.json")["scaling"]
        for score in (-1.0, 1.2, 3.0):
            assert scaled([score], scaling)[0] == pytest.approx(1 / (1 + math.exp(-(score - 1.2) / 1.7)), abs=0.05)
    assert row_of(read_json("out/scaling.json"), "temperature")["not possible"] == "no pairs"


def test_location_and_spread(project):
    rng = random.Random(2)
    scores = [rng.gauss(-4, 2) for _ in range(4000)]
    write_jsonl(project / "scores.jsonl", [{"score": value} for value in scores + [1e4]])  # and one outlier
    found = {}
    for method in ("standard", "robust", "running", "linear", "lsc", "par", "quantile"):
        call("scale", "--data", "scores.jsonl", "--method", method, "--out", "out", "--low", "-1", "--high", "3")
        found[method] = read_json("model/reward.json")["scaling"]
    everything = scores + [1e4]
    mean, std = statistics.fmean(everything), statistics.pstdev(everything)
    assert (found["standard"]["references"][0], found["standard"]["scale"]) == pytest.approx((mean, std))
    assert (found["running"]["references"][0], found["running"]["scale"]) == pytest.approx((mean, std))
    assert (found["robust"]["references"][0], found["robust"]["scale"]) == pytest.approx((-4, 2), abs=0.1)
    ends = scaled([min(scores), 1e4, -1e9, 1e9], found["linear"])
    assert ends == pytest.approx([-1, 3, -1, 3])
    assert found["lsc"]["references"][0] == pytest.approx(mean + 1.0364 * std)
    by_hand = [statistics.fmean(1 / (1 + math.exp(r - s)) for r in found["par"]["references"]) for s in (-5, -4, 0)]
    assert scaled([-5, -4, 0], found["par"]) == pytest.approx(by_hand) and len(found["par"]["references"]) == 10
    for score in (-6.0, -4.0, -2.0):
        below = sum(value < score for value in everything) / len(everything)
        assert scaled([score], found["quantile"])[0] == pytest.approx(below, abs=0.005)


@pytest.mark.parametrize("method", ["lowess", "window"])
def test_length_is_taken_off(method, fitted):
    row = row_of(fitted["none"], method)
    assert row["length correlation before"] > 0.2 and abs(row["length correlation after"]) < 0.05
    assert row["pair accuracy"] > row_of(fitted["none"], "standard")["pair accuracy"]


def test_length_and_temperature_together(fitted):
    row = row_of(fitted["lowess"], "temperature + lowess")
    assert fitted["lowess"]["scaling"]["scale"] == pytest.approx(TRUE_T, rel=0.05)
    assert row["calibration error after"] < 0.02 and abs(row["length correlation after"]) < 0.05


@pytest.mark.parametrize("method", METHODS)
def test_the_order_is_kept_where_that_is_promised(method, fitted):
    row = row_of(fitted["none"], method)
    least = {"isotonic": 0.99, "quantile": 0.9999}.get(method, 1 - 1e-9)  # these two make ties
    assert row["rank agreement"] >= least and row["share clipped"] < (0.02 if method == "isotonic" else 0.005)


def test_clip_bounds(project):
    rows = made_up(3000)
    write_jsonl(project / "scores.jsonl", rows)
    call("scale", "--data", "scores.jsonl", "--method", "standard", "--clip", "0.1", "--out", "out")
    found = read_json("out/scaling.json")
    values = [row[side] for row in rows for side in ("chosen", "rejected")]
    inside = scaled(values, found["scaling"])
    assert [min(inside), max(inside)] == pytest.approx(found["scaling"]["clip"])
    low, high = found["scaling"]["clip"]
    assert sum(value in (low, high) for value in inside) / len(inside) == pytest.approx(0.1, abs=0.01)
    assert row_of(found, "standard")["share clipped"] == pytest.approx(0.1, abs=0.01)
    call("scale", "--data", "scores.jsonl", "--method", "standard", "--out", "out")
    low, high = read_json("out/scaling.json")["proposed_clip"]
    assert sum(low <= value <= high for value in scaled(values, found["scaling"] | {"clip": None})) / 6000 == (
        pytest.approx(0.99, abs=0.002)
    )


def test_results_do_not_depend_on_order_or_batch(fitted):
    scaling = fitted["lowess"]["scaling"]
    values, lengths = [1.0, -2.0, 7.5, 3.0], [10, 5000, 300, 80]
    whole = scaled(values, scaling, lengths)
    assert whole == [scaled([v], scaling, [n])[0] for v, n in zip(values, lengths)]
    assert whole[::-1] == scaled(values[::-1], scaling, lengths[::-1])
    assert scaled([], scaling, []) == [] and scaled(values, None) == values


# ---- What is written, resumed and refused ----------------------------------------------------------------------------


def test_only_the_scaling_changes(project):
    write_jsonl(project / "scores.jsonl", made_up(200))
    before = read_json("model/reward.json")
    call("scale", "--data", "scores.jsonl", "--out", "out")
    for path in ("model/reward.json", "model/merged/reward.json"):
        after = read_json(path)
        assert after.pop("scaling") == read_json("out/scaling.json")["scaling"]
        assert after == {"probes": before["probes"]}
    fitted_on = read_json("model/reward.json")["scaling"]["fitted_on"]
    assert (fitted_on["answers"], fitted_on["pairs"], fitted_on["skipped"], fitted_on["data"]) == (
        400,
        200,
        0,
        "scores.jsonl",
    )
    call("scale", "--data", "scores.jsonl", "--out", "out", "--method", "none")
    assert read_json("model/reward.json") == before


def test_running_statistics_go_on(project, capsys):
    rng = random.Random(3)
    parts = [[rng.gauss(5 * n, 1 + n) for _ in range(100 + 50 * n)] for n in range(3)]
    for number, part in enumerate(parts):
        write_jsonl(project / f"{number}.jsonl", [{"score": value} for value in part])
        call("scale", "--data", f"{number}.jsonl", "--method", "running", "--out", "out")
        scaling, seen = read_json("model/reward.json")["scaling"], sum(parts[: number + 1], [])
        state = (scaling["count"], scaling["references"][0], scaling["scale"])
        assert state == pytest.approx((len(seen), statistics.fmean(seen), statistics.pstdev(seen)))
    assert "part of the running statistics already" in refused(
        capsys, "scale", "--data", "1.jsonl", "--method", "running"
    )
    update = module().update_running
    assert update(update(None, parts[0]), parts[1])["scale"] == pytest.approx(statistics.pstdev(parts[0] + parts[1]))


@pytest.mark.parametrize(
    "rows, words, told",
    [
        ("pairs", "--method platt --clip 0.1", "lie between 0 and 1 already"),
        ("pairs", "--method running --debias lowess", "another length curve"),
        ("pairs", "--method par --debias window", "stand in as references"),
        ("pairs", "--method linear --low 1 --high 1", "--high 1"),
        ("pairs", "--model nowhere", "is no folder"),
        ("pairs", "--data nowhere.jsonl", "No such file"),
        ("singles", "--method temperature", "no pairs"),
        ("singles", "--method isotonic", "label is not 0 for some answers"),
        ("singles", "--debias lowess", "lengths of answers"),
        ("equal", "--method standard", "every score is the same"),
        ("nearly", "--method robust", "most scores are the same"),
        ("nearly", "--method linear --clip 0.2", "most scores are the same"),
        ("wrong", "--method temperature", "say nothing of who won"),
        ("wrong", "--method platt", "do not score higher"),
        ("apart", "--method platt", "beats every bad one"),
        ("right", "--method temperature", "every pair is in the right order"),
        ("even", "--method temperature", "every pair is in the right order"),
        ("broken", "--method standard", "3 rows without"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(rows, words, told, project, capsys):
    pairs = made_up(60)
    sides = [sorted((row["chosen"], row["rejected"])) for row in pairs]
    made = {
        "pairs": pairs,
        "singles": [{"score": float(n % 7)} for n in range(60)],
        "nearly": [{"score": float(n < 2)} for n in range(60)],
        "equal": [{"score": [1.0, 1.0]}] * 9,
        "wrong": [{"chosen": low, "rejected": high} for low, high in sides],
        "right": [{"chosen": high, "rejected": low} for low, high in sides],
        "even": [{"chosen": high, "rejected": low} for low, high in sides] + [{"chosen": 1.0, "rejected": 1.0}],
        "apart": [{"score": float(n), "label": int(n > 30)} for n in range(60)],
        "broken": [{"score": None}, {"score": "nan"}, ["no row"]],
    }[rows]
    write_jsonl(project / "scores.jsonl", made)
    assert told in refused(capsys, "scale", "--data", "scores.jsonl", "--out", "out", *words.split())
    assert read_json("model/reward.json")["scaling"] is None and not (project / "out").exists()


def test_a_broken_reward_json_is_refused_and_stays(project, capsys):
    write_jsonl(project / "scores.jsonl", made_up(60))
    (project / "model" / "reward.json").write_text("{broken")
    assert "model/reward.json: " in refused(capsys, "scale", "--data", "scores.jsonl", "--out", "out")
    assert (project / "model" / "reward.json").read_text() == "{broken"


def test_rows_of_score_and_ties_and_bad_rows(project):
    rows = [{"score": [1.0, 2.0, 4.0], "length": [5, 6, 7], "label": [0, 1, 1]}, {"score": None, "error": "empty"}]
    rows += [
        {"score": 3.0, "length": 9},
        {"chosen": 2.0, "rejected": 1.0, "tie": True},
        {"score": [1.0], "length": [1, 2]},
    ]
    items, skipped = module().collect(rows, "label")
    assert skipped == 2 and items.score.tolist() == [1, 2, 4, 1, 2, 3], "sorted, so that no order of rows matters"
    assert items.prompt.tolist() == [0, 0, 0, 1, 1, 2]
    assert items.pairs.tolist() == [[4, 3]] and items.won.tolist() == [0.5]
    nan = pytest.approx(math.nan, nan_ok=True)
    assert items.label.tolist() == [0, 1, 1, nan, nan, nan] and items.length.tolist() == [5, 6, 7, nan, nan, 9]


def test_order_of_the_rows_changes_nothing(project):
    """Answers to one prompt stay in one fold and one group wherever their rows stand."""
    rows, found = [{**row, "prompt_id": f"p{n // 3}"} for n, row in enumerate(made_up(900, bias=0.5))], []
    for number in range(2):
        write_jsonl(project / "scores.jsonl", rows)
        call("scale", "--data", "scores.jsonl", "--method", "temperature", "--debias", "lowess", "--out", "out")
        found.append(read_json("out/scaling.json"))
        random.Random(number).shuffle(rows)
    items, _ = module().collect(rows, "label")
    assert len(set(items.prompt.tolist())) == 300 and sorted(items.prompt.tolist()) == items.prompt.tolist()
    for one, two in zip(*(result["methods"] for result in found)):
        numbers = {name: value for name, value in one.items() if isinstance(value, float)}
        assert numbers == pytest.approx({name: two[name] for name in numbers}, abs=1e-6), one["method"]
    assert found[0]["scaling"]["scale"] == pytest.approx(found[1]["scaling"]["scale"])


def test_few_pairs_leave_unknown_what_takes_two_folds(project, capsys):
    rows = [{"chosen": 1.0 + n, "rejected": 0.5 * n} for n in range(6)] + [{"chosen": 0.0, "rejected": 0.3}]
    write_jsonl(project / "scores.jsonl", rows)
    call("scale", "--data", "scores.jsonl", "--method", "temperature", "--out", "out")
    row = row_of(read_json("out/scaling.json"), "temperature")
    assert row["calibration error after"] is None and row["calibration error before"] is not None
    assert "calibration error unknown" in capsys.readouterr().out and (project / "out" / "report.html").exists()


# ---- The advice, proven by computing the advantages ------------------------------------------------------------------
# Each statement of the advice stands below with a calculation of its own, group by group, from the papers' formulas.

EPSILON = 1e-4
ALGORITHMS = ["grpo", "grpo-batch", "grpo-none", "dr-grpo", "rloo", "reinforce++", "ppo"]


def groups_of(seed=0, prompts=40, k=6):
    rng = random.Random(seed)
    return [[rng.gauss(3 * rng.random(), 1 + prompt % 3) for _ in range(k)] for prompt in range(prompts)]


def by_hand(groups, algorithm, kl=None, critic=0.0):
    """Advantages (flat list) of groups of rewards; kl, of their shape, is taken off where it is part of the reward."""
    if kl is not None and algorithm in ("rloo", "reinforce++", "ppo"):
        groups = [[r - d for r, d in zip(*both)] for both in zip(groups, kl)]
    flat = [r for group in groups for r in group]
    if algorithm == "grpo":
        return [(r - statistics.fmean(g)) / (statistics.stdev(g) + EPSILON) for g in groups for r in g]
    if algorithm == "grpo-batch":
        return [(r - statistics.fmean(g)) / (statistics.stdev(flat) + EPSILON) for g in groups for r in g]
    if algorithm in ("grpo-none", "dr-grpo"):
        return [r - statistics.fmean(g) for g in groups for r in g]
    if algorithm == "rloo":
        return [r - (sum(g) - r) / (len(g) - 1) for g in groups for r in g]
    if algorithm == "reinforce++":
        return [(r - statistics.fmean(flat)) / (statistics.stdev(flat) + EPSILON) for r in flat]
    tokens = []  # ppo: δ_t = r_t + V_(t+1) - V_t, A_t = δ_t + λ A_(t+1), the reward at the last of 16 tokens
    for r in flat:
        later, advantage = [], 0.0
        for t in reversed(range(16)):
            value_next = critic if t < 15 else 0.0
            advantage = (r if t == 15 else 0.0) + value_next - critic + 0.95 * advantage
            later.append(advantage)
        tokens += reversed(later)
    mean, std = statistics.fmean(tokens), statistics.stdev(tokens)
    return [(a - mean) / (std + EPSILON) for a in tokens]


def change(old, new):
    """(factor, residue): new ≈ factor · old, and what is left over, as a share."""
    factor = sum(a * b for a, b in zip(old, new)) / sum(a * a for a in old)
    left = sum((b - factor * a) ** 2 for a, b in zip(old, new)) / sum(b * b for b in new)
    return factor, left**0.5


def mapped(groups, change_of):
    return [[change_of(r, prompt) for r in group] for prompt, group in enumerate(groups)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_script_computes_the_advantages_of_the_papers(algorithm):
    groups = groups_of()
    found = module().advantages(module().np.array([groups]), algorithm)
    assert found.tolist() == pytest.approx(by_hand(groups, algorithm), abs=1e-9)


NOTHING, FACTOR = "nothing", "factor"
SAID = {  # algorithm: what adding a constant, a constant for each prompt, and multiplying do, and the words that say so
    "grpo": (NOTHING, NOTHING, NOTHING, "change nothing, nor does another constant for each prompt"),
    "grpo-batch": (NOTHING, FACTOR, NOTHING, "shrink every advantage by one factor"),
    "grpo-none": (NOTHING, NOTHING, FACTOR, "multiplying scales every advantage"),
    "dr-grpo": (NOTHING, NOTHING, FACTOR, "multiplying scales every advantage"),
    "rloo": (NOTHING, NOTHING, FACTOR, "multiplying scales every advantage"),
    "reinforce++": (NOTHING, "changed", NOTHING, "constants that differ between prompts stay"),
    "ppo": ("changed", "changed", NOTHING, "a constant changes them until it is learned"),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_advice_is_true(algorithm):
    groups, (shift, shifts, scale, words) = groups_of(), SAID[algorithm]
    old = by_hand(groups, algorithm)
    maps = [
        (shift, lambda r, prompt: r + 7),
        (shifts, lambda r, prompt: r + 5 * math.sin(prompt)),
        (scale, lambda r, prompt: 3 * r),
    ]
    for expected, function in maps:
        factor, residue = change(old, by_hand(mapped(groups, function), algorithm))
        told = "nothing" if residue < 0.001 and abs(factor - 1) < 0.001 else "factor" if residue < 0.001 else "changed"
        assert told == expected, (factor, residue)
    assert words in module().ADVICE[algorithm]
    for function in (lambda r, _: max(-1, min(1, r)), lambda r, _: 1 / (1 + math.exp(-r)), lambda r, _: r - r**2 / 9):
        assert change(old, by_hand(mapped(groups, function), algorithm))[1] > 0.02  # "they change what a policy learns"


def test_single_statements_of_the_advice():
    groups, advice = groups_of(), module().ADVICE
    wider = mapped(groups, lambda r, prompt: r + 5 * math.sin(prompt))
    assert change(by_hand(groups, "grpo-batch"), by_hand(wider, "grpo-batch"))[0] < 0.8  # "shrink"
    assert change(by_hand(groups, "dr-grpo"), by_hand(groups, "rloo")) == pytest.approx((6 / 5, 0), abs=1e-9)
    assert "k / (k - 1) times those of Dr. GRPO" in advice["rloo"]
    near = [[value * EPSILON for value in group] for group in groups]  # "up to 1e-4": a spread as small as that
    assert change(by_hand(groups, "grpo"), by_hand(near, "grpo"))[0] < 0.8 and "(+ 1e-4)" in advice["grpo"]
    rng = random.Random(4)
    kl = [[abs(rng.gauss(0, 1)) for _ in group] for group in groups]
    tripled = mapped(groups, lambda r, _: 3 * r)
    for algorithm in ("rloo", "reinforce++", "ppo"):  # "a scale decides how much it weighs"
        assert change(by_hand(groups, algorithm, kl), by_hand(tripled, algorithm, kl))[1] > 0.1
        assert "decides how much" in advice[algorithm] or "weighs the reward against the KL term" in advice[algorithm]
    learned = by_hand(mapped(groups, lambda r, _: r + 7), "ppo", critic=7.0)  # "with a critic that has learned"
    assert change(by_hand(groups, "ppo"), learned) == pytest.approx((1, 0), abs=1e-6)


def adam(gradients):
    """The updates of Adam at learning rate 1."""
    m = v = 0.0
    made = []
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        made.append(m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8))
    return made


def test_adam_takes_a_factor_out_but_not_the_weight_of_the_kl():
    rng = random.Random(6)
    reward, kl = ([rng.gauss(0.3, 1) for _ in range(50)] for _ in range(2))
    assert adam([3 * g for g in reward]) == pytest.approx(adam(reward), rel=1e-5)
    tripled = adam([3 * g + k for g, k in zip(reward, kl)])
    assert change(adam([g + k for g, k in zip(reward, kl)]), tripled)[1] > 0.1
    for algorithm in ("grpo-none", "dr-grpo", "rloo"):
        assert "Adam takes a common factor out again" in module().ADVICE[algorithm]


def test_the_advice_names_what_to_set_on_this_set(fitted):
    told = " ".join(fitted["none"]["advice"])
    row = row_of(fitted["none"], "temperature")
    assert f"with method temperature by {row['calibration error after']:.3f}: set it where" in told
    assert re.search(r"Reward and length correlate by \+0\.\d\d; debias lowess leaves [+-]0\.0\d, pair accuracy", told)
    nothing = dict.fromkeys([("temperature", "none"), ("none", "lowess"), ("none", "window")], ({}, None))
    assert module().what_to_set(nothing, types.SimpleNamespace(debias="none")) == []


def test_several_rewards():
    one, two = groups_of(0), groups_of(1)
    tripled = mapped(one, lambda r, _: 3 * r + 2)

    def summed(a, b, algorithm):
        return by_hand([[x + y for x, y in zip(*both)] for both in zip(a, b)], algorithm)

    def normalised(a, b):  # TRL's normalize_then_sum, GDPO
        parts = [iter(by_hand(groups, "grpo")) for groups in (a, b)]
        both = [next(parts[0]) + next(parts[1]) for group in a for _ in group]
        mean, std = statistics.fmean(both), statistics.stdev(both)
        return [(value - mean) / (std + EPSILON) for value in both]

    for algorithm in ALGORITHMS:
        assert change(summed(one, two, algorithm), summed(tripled, two, algorithm))[1] > 0.1
    assert change(normalised(one, two), normalised(tripled, two)) == pytest.approx((1, 0), abs=1e-3)
    found = module().advantages(module().np.array([one, two]), "grpo", normalized=True)
    assert found.tolist() == pytest.approx(normalised(one, two), abs=1e-9)


@pytest.mark.parametrize(
    "algorithm, rewards, standard, temperature, par",
    [
        ("grpo", "one", "no-op", "no-op", "changed"),
        ("grpo-batch", "one", "no-op", "no-op", "changed"),
        ("dr-grpo", "one", "times", "times", "changed"),
        ("rloo", "one", "times", "times", "changed"),
        ("reinforce++", "one", "no-op", "no-op", "changed"),
        ("ppo", "one", "changed", "no-op", "changed"),
        ("grpo", "summed", "changed", "changed", "changed"),
        ("grpo", "normalized", "no-op", "no-op", "changed"),
    ],
)
def test_the_table_says_what_the_advantages_do(algorithm, rewards, standard, temperature, par):
    items, _ = module().collect(made_up(800), "label")
    args = types.SimpleNamespace(clip=0.0, low=0.0, high=1.0, label="label", algorithm=algorithm, rewards=rewards)
    for method, expected in {"standard": standard, "temperature": temperature, "par": par}.items():
        assert module().compare(items, method, "none", args)[0]["advantages"].startswith(expected), method


# ---- Whole runs ------------------------------------------------------------------------------------------------------


def test_the_report_is_drawn(fitted):
    seen = assert_self_contained(fitted["report"], pictures=3)
    assert "temperature + lowess" in seen["text"] and "grpo advantages" in seen["text"]


def test_pairs_scored_by_the_model_give_what_their_scores_give(base, pairs, project):
    make_classifier(base, project / "model")
    call("evaluate", "--model", "model", "--data", pairs / "eval.parquet", "--out", "eval")
    found = []
    for script, data in (("scale", "eval/scores.jsonl"), ("scale_pairs", pairs / "eval.parquet")):
        call(script, "--data", data, "--method", "standard", "--out", "out")
        found.append(read_json("out/scaling.json"))
    by_scores, by_pairs = (row_of(one, "standard") for one in found)
    for key in ("calibration error after", "rank agreement", "pair accuracy", "share clipped"):
        assert by_scores[key] == pytest.approx(by_pairs[key], abs=1e-4), key
    assert found[0]["scaling"]["scale"] == pytest.approx(found[1]["scaling"]["scale"], rel=1e-4)
    assert row_of(found[1], "lowess")["length correlation before"] is not None  # pairs have lengths of their own


def test_what_each_consumer_returns(base, project, capsys):
    """score: raw, and scaled beside it. An export: raw. An export with the temperature folded in: scaled, as anyone's
    server will see, for it is the head that changed."""
    make_classifier(base, project / "model")
    scaling = {
        "method": "temperature",
        "shape": "linear",
        "references": [0.0],
        "scale": 2.5,
        "length": None,
        "clip": None,
    }
    reward = read_json("model/reward.json")
    (project / "model" / "reward.json").write_text(json.dumps(reward | {"scaling": scaling, "dtype": "float32"}))
    write_jsonl(project / "answers.jsonl", [{"prompt": "How?", "responses": ["Slowly.", "Just do it somehow."]}])

    def scored(model):
        call("score", "--model", model, "--data", "answers.jsonl", "--out", "scores.jsonl")
        return json.loads((project / "scores.jsonl").read_text())

    raw = scored("model")
    assert raw["scaled"] == pytest.approx([r / 2.5 for r in raw["score"]])
    words = ["--conversations", "4", "--dtype", "float32"]
    call("export", "--out", "plain", *words)
    call("export", "--out", "folded", "--fold", *words)
    assert "divided by the temperature 2.5" in capsys.readouterr().out
    assert all(read_json(f"{out}/config.json")["problem_type"] == "regression" for out in ("plain", "folded"))
    plain, folded = scored("plain"), scored("folded")
    assert plain["score"] == pytest.approx(raw["score"], abs=1e-5) and plain["scaled"] == pytest.approx(raw["scaled"])
    assert folded["score"] == pytest.approx(raw["scaled"], abs=1e-5) and "scaled" not in folded
    both = [[c["score"] for c in read_json(f"{out}/verify.json")["conversations"]] for out in ("plain", "folded")]
    assert both[1] == pytest.approx([score / 2.5 for score in both[0]]) and len(both[1]) >= 4
    for change in (
        {"references": [1.0], "method": "standard"},
        {"clip": [-1.0, 1.0]},
        {"length": [[0, 9], [0, 1]]},
        None,
    ):
        spoiled = scaling | change if change else None
        (project / "model" / "reward.json").write_text(json.dumps(reward | {"scaling": spoiled}))
        assert "method temperature, without debias" in refused(capsys, "export", "--out", "no", "--fold", *words)


def test_memory_stays_bounded(project):
    """A hundred thousand answers beside what the libraries take; so a million stay below 2 GiB."""
    rng = random.Random(5)
    with open("scores.jsonl", "w") as file:
        for _ in range(50_000):
            file.write(f'{{"chosen": {rng.gauss(1, 2)}, "rejected": {rng.gauss(0, 2)}}}\n')
    (project / "measured.py").write_text(
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, *sys.argv[1:]], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)\n"
    )
    words = ["--data", "scores.jsonl", "--method", "temperature", "--out", "out"]
    done = python("measured.py", ROOT / "tests" / "golden" / "scale.py", *words, cwd=project)
    assert int(done.stdout.split()[-1]) < 170 + (2048 - 170) / 10  # MiB; the libraries take 170
