"""The audit finds what was planted, each kind counted exactly, and no more; and what the tool says of tokens early."""

import json
import random
import shutil
import sys
import types

import pyarrow
import pyarrow.parquet
import pytest
import recipe
import reward
from browser import assert_self_contained
from conftest import ROOT, SHARED, python, read_jsonl, tool, write_jsonl

GOLDEN = ROOT / "tests" / "golden"
MESSAGES = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
COLUMNS = [("prompt", MESSAGES), ("chosen", MESSAGES), ("rejected", MESSAGES), ("source", pyarrow.string())]
KINDS = "identical white_space_only one_sided_empty duplicate near_duplicate contradiction two_languages".split()
ENGLISH = "What is it that you do for your work, and how are they with this? The answer is in my book."
GERMAN = "Das ist nicht die Frage, die ich mit dem Wort auf der Karte für dich und ein Kind von hier habe."


@pytest.fixture(scope="module")
def audit():
    """The rendered script as a module."""
    module = types.ModuleType("audit")
    module.__file__ = "audit.py"
    exec(compile((GOLDEN / "audit.py").read_text(), GOLDEN / "audit.py", "exec"), module.__dict__)
    return module


class Texts:
    """Made-up texts that share no run of words."""

    def __init__(self):
        self.random = random.Random(0)

    def __call__(self, words=30):
        letters = "bcdfghjklmnpqrstvwxz"
        return " ".join("".join(self.random.choices(letters, k=self.random.randint(3, 9))) for _ in range(words))


def pair(prompt, chosen, rejected, source="clean", **more):
    def said(role, value):
        return value if isinstance(value, list) else [{"role": role, "content": value}]

    row = {"prompt": said("user", prompt), "chosen": said("assistant", chosen), "rejected": said("assistant", rejected)}
    return row | {"source": source} | more


def write_data(folder, train, held_out, **report):
    folder.mkdir(parents=True, exist_ok=True)
    schema = pyarrow.schema(COLUMNS + [("tie", pyarrow.bool_())] * any("tie" in row for row in train))
    for side, rows in (("train", train), ("eval", held_out)):
        table = pyarrow.Table.from_pylist(rows, schema)
        pyarrow.parquet.write_table(table, folder / f"{side}.parquet", row_group_size=100)
    (folder / "report.json").write_text(json.dumps({"data_sha256": "0", **report}))
    return folder


def run(audit, folder, *words):
    """Audit FOLDER/data in this process. Returns (report.json, {finding: entry})."""
    audit.main(audit.parameters(["--data", f"{folder}/data", "--out", f"{folder}/audit", *map(str, words)]))
    report = json.loads((folder / "audit" / "report.json").read_text())
    return report, {entry["finding"]: entry for entry in report["findings"]}


def one_word_other(text, texts):
    words = text.split()
    return " ".join([*words[:10], texts(1), *words[11:]])


# ---- Planted problems ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """(folder, {finding: how many}) with each problem in a source of its own."""
    folder, texts = tmp_path_factory.mktemp("planted"), Texts()
    train = [pair(texts(80), texts(60), texts(60)) for _ in range(700)]
    held_out = [pair(texts(80), texts(), texts()) for _ in range(400)]

    def said(row, side):
        return row[side][0]["content"]

    def again(row, source, other=False):
        near = [
            one_word_other(said(row, side), texts) if other else said(row, side) for side in row if side != "source"
        ]
        return pair(*near, source)

    short = [texts(4) for _ in range(5)]
    held_out += [pair(prompt, texts(), texts()) for prompt in short]
    nearly = [f"{texts(1)} {short[0]}", f"{short[1].upper()}, {texts(1)}?", *(s[s.index(" ") :] for s in short[2:4])]
    plants = {
        "prompt_word_more": [pair(prompt, texts(), texts(), "prompt_word_more") for prompt in nearly],
        "duplicate": [again(row, "duplicate") for row in train[:3]],
        "near_duplicate": [again(row, "near_duplicate", other=True) for row in train[10:15]],
        "contradiction": [
            pair(said(row, "prompt"), said(row, "rejected"), said(row, "chosen"), "contradiction")
            for row in train[20:24]
        ],
        "identical": [pair(texts(), same := texts(), same, "identical") for _ in range(6)],
        "white_space_only": [pair(texts(), "a b c d e\nf", " a b  c d e f", "white_space_only") for _ in range(7)],
        "one_sided_empty": [pair(texts(), texts(), empty, "one_sided_empty") for empty in ("N/A", "…", "[deleted]")]
        + [pair(texts(), "-", texts(), "one_sided_empty"), pair(texts(), "Yes", "No"), pair(texts(), "4", "5")],
        "two_languages": [pair(texts(), ENGLISH, GERMAN, "two_languages") for _ in range(2)],
        "prompt_in_both": [pair(said(row, "prompt"), texts(), texts(), "prompt_in_both") for row in held_out[:8]],
        "prompt_near_both": [
            pair(one_word_other(said(row, "prompt"), texts), texts(), texts(), "prompt_near_both")
            for row in held_out[10:13]
        ],
        "contaminated_exact": [pair(texts(9), texts(), texts(), "contaminated_exact") for _ in range(3)],
        "contaminated_ngram": [pair(texts(50), texts(), texts(), "contaminated_ngram") for _ in range(4)],
    }
    exact, runs = ([said(row, "prompt") for row in plants[f"contaminated_{kind}"]] for kind in ("exact", "ngram"))
    common = texts(20)  # every row's own wording is no leak, nor are 12 words in a row
    asked = [f"{common} {text.upper()}!" for text in (texts(20), texts(20), texts(20), texts(20))]
    asked += [text.capitalize().replace(" ", ", ") for text in exact] + [" ".join(runs[0].split()[5:18])]
    asked += [f"{texts(5)} {' '.join(text.split()[20:33])} {texts(5)}" for text in runs[1:3]]
    asked += [
        f"{common} {texts(9)}",
        f"{common} {texts(9)}",
        f"{texts(9)} {' '.join(said(train[30], 'prompt').split()[:12])}",
    ]
    asked += [" ".join(runs[3].split()[40:49])]  # a short prompt of nine words: runs of eight
    train += [pair(f"{short[4]} {texts(2)}", texts(), texts())]  # two words more are another prompt
    train += [row for rows in plants.values() for row in rows] + [pair(f"{common} {texts(5)}", texts(), texts())]
    write_jsonl(folder / "bench.jsonl", [{"id": i, "prompt": text, "chosen": "x"} for i, text in enumerate(asked)])
    write_data(folder / "data", train, held_out)
    (folder / "data" / "rejected.jsonl").write_text('{"file": "raw/a.jsonl", "row": 3, "reason": "identical"}\n' * 5)
    counts = {name: sum(row["source"] == name for row in rows) for name, rows in plants.items()}
    return folder, counts | {"contradiction": 8}  # both rows of each


def test_each_planted_problem_is_counted_exactly(planted, audit, capsys):
    folder, counts = planted
    report, found = run(audit, folder, "--against", folder / "bench.jsonl", "--clean", folder / "clean")
    assert {name: entry["pairs"] for name, entry in found.items()} == counts
    for name, entry in found.items():
        planted_there = counts[name] if name != "contradiction" else 4
        named = entry["by_source"].get("clean" if name.startswith("prompt_") else name)
        assert named == planted_there, entry
        assert 1 <= len(entry["examples"]) <= 3 and entry["mend"] and 0 < entry["share"] < 0.05
        for shown in entry["examples"]:
            assert shown["row"].split()[0] == ("eval" if name.startswith("prompt_") else "train") and shown["prompt"]
    assert found["duplicate"]["examples"][0]["like"] == "train 0"
    assert found["prompt_in_both"]["examples"][0]["like"].startswith("train ")
    assert found["contaminated_exact"]["examples"][0]["like"] == "bench.jsonl row 5"
    assert report["evaluation_sets"] == [
        {"set": str(folder / "bench.jsonl"), "prompts": 14, "shared": 7, "read from": "prompt"}
    ]
    assert [entry["severity"] for entry in report["findings"]] == sorted(
        (entry["severity"] for entry in report["findings"]), key=("high", "medium", "low").index
    )
    assert found["contaminated_exact"]["severity"] == found["prompt_in_both"]["severity"] == "high"
    assert report["rejected"] == [{"reason": "identical", "file": "a.jsonl", "rows": 5}]
    assert set(report["not_measured"]) == {"tokens and chat template", "position"}
    said = capsys.readouterr().out
    assert "high    contaminated_exact: 3 of " in said and "try: clean =" in said and len(said.splitlines()) < 40


def test_the_clean_folder_holds_the_others_and_trains(planted, audit):
    folder, counts = planted
    run(audit, folder, "--against", folder / "bench.jsonl", "--clean", folder / "clean")
    dropped = read_jsonl(folder / "clean" / "dropped.jsonl")
    before, after = (
        {side: pyarrow.parquet.read_table(folder / where / f"{side}.parquet") for side in ("train", "eval")}
        for where in ("data", "clean")
    )
    gone = counts["duplicate"] + counts["identical"] + counts["white_space_only"] + counts["contradiction"]
    gone += counts["prompt_in_both"] + counts["prompt_near_both"] + counts["prompt_word_more"]
    gone += counts["contaminated_exact"] + counts["contaminated_ngram"]
    assert len(dropped) == gone and {row["split"] for row in dropped} == {"train"}
    assert len(after["train"]) == len(before["train"]) - gone and after["eval"] == before["eval"]
    report = json.loads((folder / "clean" / "report.json").read_text())
    assert report["train"] == len(after["train"]) and report["data_sha256"] != "0"
    _, found = run(audit, move(folder), "--against", folder / "bench.jsonl")
    assert set(found) == {"near_duplicate", "one_sided_empty", "two_languages"}


def test_a_system_prompt_makes_no_near_doubles(audit, tmp_path):
    texts = Texts()
    system = {"role": "system", "content": texts(300)}

    def asked():
        return [system, {"role": "user", "content": texts(8)}]

    sides = [[pair(asked(), texts(), texts()) for _ in range(400)] for _ in range(2)]
    write_data(tmp_path / "data", *sides)
    assert run(audit, tmp_path)[1] == {}
    write_data(tmp_path / "data", sides[0] + [{**sides[1][0], "source": "twice"}], sides[1])
    report, found = run(audit, tmp_path, "--clean", tmp_path / "clean")
    assert found["duplicate"]["by_source"] == {"twice": 1} and found["duplicate"]["examples"][0]["like"] == "eval 0"
    assert report["cleaned"] == {"train": 400, "eval": 400}  # what is held out stays, and its double goes


def move(folder):
    """The cleaned folder as the data of another project."""
    other = folder / "other"
    other.mkdir(exist_ok=True)
    if not (other / "data").exists():
        (other / "data").symlink_to(folder / "clean")
    return other


# ---- Tokens and the chat template ------------------------------------------------------------------------------------

FORGETFUL = (  # keeps the user's turns, and of an answer what follows its thinking and precedes a "|"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'].split('</think>')[-1].split('|')[0] if m['role'] == 'assistant' else m['content'] }}"
    "{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}<|im_end|>\n{% endfor %}"
)


def test_the_template_and_the_token_limits(base, audit, tmp_path):
    texts = Texts()
    train = [pair(texts(10), texts(10), texts(10)) for _ in range(380)]
    train += [pair(texts(10), same := texts(10), f"{same}|{texts(2)}", "erased") for _ in range(5)]
    train += [pair(texts(10), f"<think>{texts(4)}</think>{texts(9)}", texts(9), "thinks") for _ in range(4)]
    train += [pair(texts(10), [{"role": "tool", "content": "no answer"}], texts(9), "tool") for _ in range(2)]
    train += [pair(texts(10), "the " * 700, texts(9), "long") for _ in range(9)]
    write_data(tmp_path / "data", train, [pair(texts(), texts(), texts()) for _ in range(400)])
    (tmp_path / "forgetful.jinja").write_text(FORGETFUL)
    words = ["--model", base, "--chat-template", tmp_path / "forgetful.jinja", "--max-length", 512]
    report, found = run(audit, tmp_path, *words)
    counts = {name: entry["pairs"] for name, entry in found.items()}
    assert counts == {"template_erases": 5, "thinking_erased": 4, "template_refuses": 2, "overlong": 9}
    assert all(
        entry["by_source"] in ({"erased": 5}, {"thinks": 4}, {"tool": 2}, {"long": 9}) for entry in found.values()
    )
    assert found["thinking_erased"]["severity"] == "high" and "max_length = 1024" in found["overlong"]["mend"]
    assert {row["limit"]: row["pairs"] for row in report["tokens"]["limits"]} == {512: 9, 1024: 0}
    assert report["tokens"]["measured"] == 798 and list(report["template_errors"].values()) == [2]
    assert "512 tokens: train drops it" in found["overlong"]["what"] and found["overlong"]["severity"] == "medium"
    _, found = run(audit, tmp_path, *words[:2], "--max-length", 512, "--overlong", "truncate")
    assert "train cuts it off" in found["overlong"]["what"] and found["overlong"]["severity"] == "low"
    assert found["overlong"]["mend"] == "max_length = 1024 under [train]"
    report, found = run(audit, tmp_path, *words[:2], "--token-sample", "80", "--max-length", 512)
    assert report["tokens"]["measured"] == 80 and "template_erases" not in found
    assert all(row["pairs"] == round(row["share"] * 800) for row in report["tokens"]["limits"])


def test_without_transformers_it_says_what_to_do(audit, tmp_path, monkeypatch, capsys):
    write_data(tmp_path / "data", *[[pair("a", "b", "c")]] * 2)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit) as ended:
        run(audit, tmp_path, "--model", "base")
    assert ended.value.code == 5 and "uv run" in capsys.readouterr().err
    report, _ = run(audit, tmp_path)
    assert "no model was named" in report["not_measured"]["tokens and chat template"]


def test_inspect_and_init_know_of_long_pairs(base, tmp_path, capsys, monkeypatch):
    words = [3000 if i % 20 == 0 else 3 for i in range(200)]
    rows = [{"prompt": f"Say {i}.", "chosen": "the " * count, "rejected": "no"} for i, count in enumerate(words)]
    write_jsonl(tmp_path / "long.jsonl", rows)
    found = json.loads(tool("inspect", "long.jsonl", "--model", base, "--json", cwd=tmp_path).stdout)
    assert {row["limit"]: row["pairs"] for row in found["tokens"]["limits"]} == {512: 10, 1024: 10, 2048: 10, 4096: 0}
    tokens = {key: found["tokens"][key] for key in ("measured", "share", "costs_under_1_percent", "model_made_for")}
    assert tokens == {"measured": 200, "share": 0.05, "costs_under_1_percent": None, "model_made_for": 2048}
    monkeypatch.chdir(tmp_path)

    def init(*words, data="long.jsonl"):
        assert reward.main(["init", str(data), "--force", "--model", *words]) == 0
        return recipe.load(tmp_path / "recipe.toml"), capsys.readouterr().out

    stages, said = init(str(base))
    assert stages["train"].max_length == 2048 and 'overlong = "truncate" under [train]' in said
    assert (stages["train"].model, stages["format"].data) == (str(base), ["long.jsonl"])
    config = json.loads((base / "config.json").read_text()) | {"max_position_embeddings": 8192}
    shutil.copytree(base, tmp_path / "longer")
    (tmp_path / "longer" / "config.json").write_text(json.dumps(config))
    stages, said = init("longer")
    assert stages["train"].max_length == stages["audit"].max_length == 4096 and "train.max_length = 4096" in said
    assert "5% of the pairs are longer than max_length 2048" in said and "2048 5.0%, 4096 0.0%" in said
    assert init("longer", "--set", "train.max_length=64")[0]["train"].max_length == 64
    stages, said = init("no_such_model", data=tmp_path / "long.jsonl")
    assert "tokens    not measured: no_such_model: " in said
    assert stages["format"].data == [str(tmp_path / "long.jsonl")]  # absolute as given, and so is the model above
    monkeypatch.setitem(sys.modules, "transformers", None)
    stages, said = init("longer")
    assert "tokens    not measured: transformers is not installed" in said and stages["train"].max_length == 2048


def test_the_recipe_has_one_place_for_what_audit_and_train_share(tmp_path):
    train = '[train]\nmodel = "base"\nmax_length = 4096\noverlong = "truncate"\n'
    (tmp_path / "recipe.toml").write_text(f"{train}[audit]\nmax_length = 64\n")
    stages = recipe.load(tmp_path / "recipe.toml")
    assert stages["audit"].overlong == "truncate"
    assert (stages["audit"].model, stages["audit"].max_length, stages["train"].max_length) == ("base", 64, 4096)
    tables = {"train": {"model": "base", "max_length": 4096, "overlong": "truncate"}, "audit": {"max_length": 64}}
    written = recipe.dump(tables)
    (tmp_path / "recipe.toml").write_text(written)
    assert recipe.load(tmp_path / "recipe.toml") == stages and '# model = "base"' in written


# ---- Shortcuts, agreement, languages ---------------------------------------------------------------------------------


def test_shortcuts_are_found_overall_and_by_source(audit, tmp_path):
    texts = Texts()

    def rows(longer, count, source, bullets=False):
        long, short = (texts(20) for _ in range(count)), (texts(8) for _ in range(count))
        made = [pair(texts(), a, b, source) if i < longer else pair(texts(), b, a, source)
                for i, (a, b) in enumerate(zip(long, short))]  # fmt: skip
        return [pair(texts(), f"- {texts(9)}\n2. {texts(9)}", texts(20), source) for _ in made] if bullets else made

    held_out = rows(200, 400, "even")
    write_data(tmp_path / "data", rows(200, 400, "even") + rows(90, 100, "long") + rows(5, 100, "short"), held_out)
    report, found = run(audit, tmp_path)
    table = report["baselines"]["longer"]["by_source"] | {"all": report["baselines"]["longer"]["all"]}
    assert table["long"]["accuracy"] == 0.9 and table["short"]["accuracy"] == 0.05
    assert (round(table["long"]["low"], 3), round(table["long"]["high"], 3)) == (0.826, 0.945)  # Wilson
    assert table["all"]["accuracy"] == 495 / 1000 and table["all"]["pairs"] == 1000
    assert found["shortcut_longer"]["by_source"] == {"long": 0.9, "short": 0.05}
    assert found["shortcut_longer"]["severity"] == "low" and set(found) == {"shortcut_longer"}
    write_data(tmp_path / "data", rows(400, 500, "long"), rows(320, 400, "long"))
    assert run(audit, tmp_path)[1]["shortcut_longer"]["severity"] == "high"
    counts = {"lists": {"a_wins": 450, "b_wins": 50, "judged_twice": 0}}
    counts |= {"even": {"a_wins": 250, "b_wins": 150, "judged_twice": 8, "agree": 6}}
    judged = {"a_wins": 700, "b_wins": 200, "sources": counts}
    write_data(tmp_path / "data", rows(0, 500, "lists", bullets=True), rows(200, 400, "even"), **judged)
    report, found = run(audit, tmp_path)
    balance = report["baselines"]["first_answer"]["by_source"]
    assert {source: row["accuracy"] for source, row in balance.items()} == {"lists": 0.9, "even": 0.625}
    assert report["agreement_of_raters"] == {"two_judgements": 8, "agreement": 0.75, "by_source": {"even": 0.75}}
    assert "annotator agreement" not in report["not_measured"] and "furthest" in found["shortcut_first_answer"]["what"]
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "75.0% say the same (8 times two votes" in page and "<th>raters agree</th>" in page
    assert report["baselines"]["more_list_lines"]["by_source"]["lists"]["accuracy"] == 1
    assert report["baselines"]["more_list_lines"]["by_source"]["even"]["ties"] == 400
    assert found["shortcut_more_list_lines"]["severity"] == "high"
    assert (
        found["shortcut_first_answer"]["severity"] == "high"
        and report["baselines"]["first_answer"]["all"]["accuracy"] == 7 / 9
    )


def test_agreement_counts_repeated_judgements_and_ties_are_apart(audit, tmp_path):
    texts = Texts()
    train = []
    for ahead, behind in ((3, 1), (2, 0), (1, 1), (1, 0)):
        prompt, a, b = texts(), texts(), texts()
        train += [pair(prompt, a, b, tie=False)] * ahead + [pair(prompt, b, a, tie=False)] * behind
    train += [pair(texts(), a, texts(40), tie=True), pair(texts(), a, texts(50), tie=True)]
    write_data(tmp_path / "data", train, [pair(texts(), texts(), texts())])
    report, found = run(audit, tmp_path)
    assert report["agreement"] == {"pairs_judged_again": 3, "agreement": (3 + 0 + 1) / (6 + 1 + 1)}
    assert found["contradiction"]["pairs"] == 6 and found["duplicate"]["pairs"] == 3 and report["ties"] == 2
    assert report["baselines"]["longer"]["all"]["pairs"] == 10 and found["few_held_out"]["severity"] == "high"


def test_languages_by_script_and_common_words(audit):
    said = {
        "English": ENGLISH,
        "German": GERMAN,
        "French": "Je ne sais pas ce que vous avez fait dans la maison, mais il est tard pour le dire.",
        "Spanish": "No se puede decir que los niños de la casa son como el padre, pero es muy tarde.",
        "Portuguese": "Não sei o que você disse para uma pessoa, mas é mais do que eu esperava em casa.",
        "Italian": "Non è il caso di dire che la casa della nonna è anche una delle più belle del paese.",
        "Dutch": "Ik weet niet wat het is, maar de man en een vrouw zijn op het dak van dat huis.",
        "Chinese": "今天的天气非常好，我们去公园吧。",
        "Japanese": "今日はとても良い天気ですね。",
        "Korean": "오늘은 날씨가 아주 좋습니다.",
        "Cyrillic": "Сегодня очень хорошая погода.",
        "Arabic": "الطقس جميل جدا اليوم",
        "undecided": "def f(x): return x + 1",
    }
    assert {name: audit.language(text) for name, text in said.items()} == {name: name for name in said}


# ---- How it looks for what is alike ----------------------------------------------------------------------------------


def test_sketches_agree_as_the_texts_do(audit):
    texts, off = Texts(), []
    for words in (12, 40, 300):
        for kept in (0.5, 0.8, 0.9, 0.95, 1.0):
            text = texts(words).split()
            other = [word if texts.random.random() < kept else texts(1) for word in text]
            a, b = ({t[i : i + 8] for i in range(len(t) - 7)} for t in (" ".join(text), " ".join(other)))
            seen = (audit.sketch(" ".join(text)) == audit.sketch(" ".join(other).upper() + "  ")).mean()
            off.append(seen - len(a & b) / len(a | b))
    assert abs(sum(off) / len(off)) < 0.03 and max(map(abs, off)) < 0.2, off
    assert (audit.sketch("a b c d e f", "g h i j k") == audit.sketch("g h i j k", "A B C  D E F")).all()
    assert audit.sketch("").shape == audit.sketch("", "你好").shape == (64,)


def test_what_is_kept_of_a_pair_does_not_grow_with_its_length(audit, tmp_path):
    texts, kept = Texts(), []
    for words in (10, 2000):
        write_data(
            tmp_path / "data",
            [pair(texts(words), texts(words), texts(words)) for _ in range(40)],
            [pair("a", "b", "c")],
        )
        pairs = audit.Pairs(args := audit.parameters(["--data", str(tmp_path / "data")]))
        pairs.read(args)
        arrays = [*vars(pairs).values(), *pairs.hashes.values(), *pairs.marks.values()]
        kept.append(sum(array.nbytes for array in arrays if hasattr(array, "nbytes")) / 41)
        assert not pairs.evaluation_row and len(pairs.known) < 5
    assert kept[0] == kept[1] < 400, kept


@pytest.mark.parametrize(
    "row, asked",
    [
        ({"prompt": "Why is it?"}, "Why is it?"),
        ({"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Why?"}]}, "Why?"),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}, "Why?"),
        ({"question": {"dataset": "eli5", "id": "x", "full_text": "Why is the sky?"}}, "Why is the sky?"),
        ({"instruction": "Sum up.", "input": "A text.", "output_1": "x"}, "Sum up.\nA text."),
        ({"chosen": "\n\nHuman: One?\n\nAssistant: Yes.\n\nHuman: Two?\n\nAssistant: No."}, " One?\n Two?"),
    ],
)
def test_prompts_of_evaluation_sets_in_their_shapes(audit, tmp_path, row, asked):
    write_jsonl(tmp_path / "bench.jsonl", [row, {"prompt": None}, {"other": 1}])
    sets = audit.EvaluationSets(audit.parameters(["--against", str(tmp_path / "bench.jsonl")]))
    assert len(sets.rows) == 1
    assert sets.look(f"  {asked.lower()}")[0] == "contaminated_exact" and sets.look(asked + " more") is None


# ---- The page, and wrong use -----------------------------------------------------------------------------------------


def test_the_page_shows_what_the_json_says(planted, audit, base, tmp_path):
    folder, counts = planted
    words = ["--data", folder / "data", "--out", "audit", "--model", base, "--against", folder / "bench.jsonl"]
    done = python(GOLDEN / "audit.py", *words, cwd=tmp_path)
    seen = assert_self_contained(tmp_path / "audit" / "report.html", pictures=3)
    for name, count in counts.items():
        assert f"{count} of " in seen["text"] and name in seen["text"] and name in done.stdout
    assert "Mend it: clean =" in seen["text"] and "Jaccard similarity of 0.8" in seen["text"]


@pytest.mark.parametrize(
    "words, told",
    [
        (["--data", "nothing"], "python run/format.py"),
        (["--clean", "data"], "name the same folder"),
        (["--out", "mine"], "holds other things"),
        (["--clean", "mine"], "holds other things"),
        (["--against", "empty.jsonl"], "no prompts found"),
        (["--against", "gone.jsonl"], "no data in 'gone.jsonl'"),
        (["--model", "no/where/model"], "no/where/model"),
    ],
)
def test_wrong_use_is_refused_and_nothing_is_lost(audit, tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data", *[[pair("a", "b", "c")]] * 2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    write_jsonl(tmp_path / "empty.jsonl", [{"other": 1}])
    with pytest.raises(SystemExit) as ended:
        audit.main(audit.parameters(words))
    assert ended.value.code == 3 and told in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"data", "mine", "empty.jsonl"}
    assert len(list((tmp_path / "data").iterdir())) == 3 and (tmp_path / "mine" / "thesis.txt").exists()


# ---- Real sets -------------------------------------------------------------------------------------------------------


def test_real_sets_come_out_as_counted_elsewhere(audit, tmp_path):
    """Where the real files are beside the checkout; the planted problems above prove the same on made-up pairs."""
    if not SHARED.exists():
        return
    expected = json.loads((SHARED / "expected.json").read_text())["sets"]
    words = ["--prompt", "input", "--chosen", "output_1", "--rejected", "output_2", "--winner", "label"]
    python(GOLDEN / "format_choice.py", "--data", *sorted((SHARED / "llmbar").glob("*.json")), *words, cwd=tmp_path)
    manual = SHARED / "llmbar" / "Dataset__LLMBar__Adversarial__Manual__dataset.json"
    report, found = run(audit, tmp_path, "--against", manual)
    table = report["baselines"]["longer"]["by_source"]
    for name, sizes in expected.items():
        source = next((s for s in table if name.startswith("llmbar_") and s.split("__")[-2] == name[7:]), None)
        if source and name != "llmbar_LLMEval^2":  # a blank and an identical pair of it are rejected before
            row = table[source]
            assert row["pairs"] == sizes["strict_pairs"]
            longer = row["accuracy"] * row["pairs"] - row["ties"] / 2
            assert round(longer / row["pairs"], 3) == sizes["chosen_longer_frac"]
    assert report["evaluation_sets"][0]["prompts"] == 46 and sum(report["pairs"].values()) == 883
    assert found["contaminated_exact"]["by_source"] == {manual.stem: report["sources"][manual.stem]["train"]}
