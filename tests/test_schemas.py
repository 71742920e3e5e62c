"""Every schema in the shape of its public data sets, the mapping by hand, every file format, and real sets."""

import csv
import gzip
import json
import re
from pathlib import Path

import inspect_data
import pytest
import recipe
import render
import reward
import schemas
import shapes
from conftest import SHARED, read_jsonl, write_jsonl
from errors import ToolError
from schema_rows import BAD, GOOD, SKY, Q, pair, say, told
from schema_rows import ROWS as FIRST_ROWS
from schema_rows_more import ROWS as MORE_ROWS

ROWS = FIRST_ROWS + MORE_ROWS


def format_module(**values):
    return render.as_module("format", recipe.validate("format", values))


def pairs_of(path, **overrides):
    """((prompt, chosen, rejected) of each pair, the inspect report) of a file, read as inspect detects it."""
    found = inspect_data.inspect([str(path)], overrides)
    module = format_module(data=[str(path)], **found["mapping"])
    pairs = module.read_pairs(module.parameters([]), module.new_report(), inspect_data.Findings())
    return [(p["prompt"], p["chosen"], p["rejected"]) for _, p in pairs], found


def test_every_schema_has_a_row_here():
    assert {name for row in ROWS for name in row[0].split(" or ")} == {*schemas.ENTRIES, *shapes.SHAPES}


@pytest.mark.parametrize("name, origin, rows, wanted", ROWS, ids=[row[1] for row in ROWS])
def test_schema_is_recognised_and_converted(tmp_path, name, origin, rows, wanted):
    found, mapping, share, readings = schemas.detect(rows)
    assert set(found.split(" or ")) == set(name.split(" or ")) and share == 1.0
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    if isinstance(wanted, str):
        with pytest.raises(ToolError) as refused:
            pairs_of(path)
        assert wanted in str(refused.value) and name in str(refused.value)
        return
    if isinstance(wanted, dict):  # two labels: refused, with the flag of each, until one is chosen
        with pytest.raises(ToolError) as refused:
            pairs_of(path)
        assert str(refused.value).count(f"--{next(iter(wanted))} ") == len(readings) == 2
        assert all(reading in str(refused.value) for reading in name.split(" or "))
        assert pairs_of(path, **wanted)[0] == [SKY]
        return
    pairs, report = pairs_of(path)
    assert pairs == wanted
    assert report["rows"] == report["used"] + report["ties"] + sum(report["rejected"].values()) == len(rows)
    assert report["used"] > 0 and not report["rejected"]


def test_every_row_fits_one_schema_alone():
    """What an entry refuses or claims, no other entry claims, but for the sets with two labels."""
    for name, _, rows, _ in ROWS:
        for row in rows:
            assert {found for found, _ in schemas.readings(row)} == set(name.split(" or "))


def test_two_schemas_that_fit_equally_well_are_both_named():
    rows = {name: found for name, _, found, _ in ROWS}
    found, mapping, _, readings = schemas.detect([rows["transcripts"][0], rows["prompt-chosen-rejected"][0]])
    assert (found, mapping) == ("transcripts or prompt-chosen-rejected", {}) and len(readings) == 2


def test_the_other_label_of_a_set_gives_the_other_pair(tmp_path):
    row = next(rows for name, _, rows, _ in ROWS if name.startswith("pku-saferlhf-better"))
    path = write_jsonl(tmp_path / "pku.jsonl", row)
    assert pairs_of(path, winner="safer_response_id")[0] == [pair(Q, BAD, GOOD)]


# ---- A mapping for anything else -------------------------------------------------------------------------------------

PATHS = {  # what -> the parameters, the row
    "nested": (
        {"prompt": "q.full", "chosen": "a.0.text", "rejected": "a.-1.text"},
        {"q": {"full": Q}, "a": [{"text": GOOD}, {}, {"text": BAD}]},
    ),
    "names with spaces, hyphens and dots": (
        {"prompt": "the question", "chosen": "a.b", "rejected": "c-d"},
        {"the question": Q, "a.b": GOOD, "c-d": BAD},
    ),
    "JSON inside text": (
        {"prompt": "meta.q", "chosen": "good.*", "rejected": "bad.*"},
        {
            "meta": json.dumps({"q": Q}),
            "good": json.dumps([say("assistant", GOOD)]),
            "bad": json.dumps([say("assistant", BAD)]),
        },
    ),
    "whole dialogues": ({"prompt": "", "chosen": "yes", "rejected": "no"}, {"yes": told(Q, GOOD), "no": told(Q, BAD)}),
    "dialogues by turns": (
        {"prompt": "", "chosen": "q&yes", "rejected": "q&no"},
        {"q": [Q], "yes": [GOOD], "no": [BAD]},
    ),
    "the first that is there": (
        {"prompt": "title|text", "chosen": "yes", "rejected": "no"},
        {"title": None, "text": Q, "yes": GOOD, "no": BAD},
    ),
    "lines": ({"prompt": "q", "chosen": "yes.~", "rejected": "no"}, {"q": Q, "yes": [GOOD], "no": BAD}),
    "lists in lists": (
        {"prompt": "q.~", "chosen": "yes.~", "rejected": "no"},
        {"q": [[Q]], "yes": [[], [GOOD]], "no": BAD},
    ),
    "label": (
        {
            "kind": "choice",
            "prompt": "q",
            "chosen": "x",
            "rejected": "y",
            "winner": "w",
            "a_wins": "left|first",
            "b_wins": "right",
        },
        {"q": Q, "x": GOOD, "y": BAD, "w": "first"},
    ),
    "label of a table": (
        {"kind": "choice", "prompt": "q", "chosen": "x", "rejected": "y", "winner": "w", "a_wins": "1", "b_wins": "2"},
        {"q": Q, "x": BAD, "y": GOOD, "w": "2.0"},
    ),
    "other names of roles": (
        {"prompt": "", "chosen": "yes", "rejected": "no"},
        {n: [{"role": "User", "content": Q}, {"from": "bot", "value": a}] for n, a in (("yes", GOOD), ("no", BAD))},
    ),
    "strength": (
        {
            "kind": "choice",
            "prompt": "q",
            "chosen": "x",
            "rejected": "y",
            "winner": "w",
            "a_wins": "<-1",
            "b_wins": ">1",
        },
        {"q": Q, "x": BAD, "y": GOOD, "w": 1.5},
    ),
    "words": (
        {"kind": "ratings", "prompt": "q", "responses": ["x", "y"], "ratings": ["s.0", "s.1"]},
        {"q": Q, "x": BAD, "y": GOOD, "s": "3 8 because"},
    ),
    "content as parts": (
        {"prompt": "q", "chosen": "x", "rejected": "y"},
        {"q": Q, "x": [{"role": "assistant", "content": [{"type": "text", "text": GOOD}]}], "y": BAD},
    ),
}


@pytest.mark.parametrize("what", PATHS)
def test_mapping_by_paths(tmp_path, what):
    mapping, row = PATHS[what]
    assert pairs_of(write_jsonl(tmp_path / "rows.jsonl", [row]), **mapping)[0] == [SKY]


def test_a_list_where_text_is_wanted_names_the_path_of_its_text(tmp_path):
    path = write_jsonl(
        tmp_path / "rows.jsonl", [{"q": Q, "pages": [["One.", "Two."]], "chosen": GOOD, "rejected": BAD}]
    )
    for prompt, advice in (("q+pages.*.*", "line by line, are pages.~"), ("pages.*.*", "PATH.~, line by line")):
        with pytest.raises(ToolError) as refused:
            pairs_of(path, prompt=prompt, chosen="chosen")
        assert advice in str(refused.value)
    assert pairs_of(path, prompt="q+pages.~", chosen="chosen")[0] == [pair(f"{Q}\n\nOne.\nTwo.", GOOD, BAD)]


def test_comparisons_within_rows_and_gaps_in_prompts_are_counted(tmp_path):
    answers = {"prediction 1": BAD, "prediction 2": GOOD, "prediction 3": "Red.", "preference": [2, 0, 1]}
    rows = [{"question": f"{Q} {n}", "pages": ["One.", "Two."][:n], **answers} for n in range(3)]
    found = inspect_data.inspect([str(write_jsonl(tmp_path / "a.jsonl", rows))], {"prompt": "pages.~+question"})
    assert found["comparisons"] == {"pair": 6, "tie": 3}
    text = inspect_data.as_text(found)
    assert "3 = 3 used for 6 pairs + 0 of ties alone + rejected: none\ncompared  9 = 6 pair, 3 tie\n" in text
    assert "1 rows have nothing in a part of --prompt pages.~+question: their prompts lack it" in text


def cells(rows):
    """Rows as a table without types holds them."""
    return [{name: str(value) for name, value in row.items()} for row in rows]


PROPOSED = {  # what -> rows that fit no schema, words of the flags that are proposed or offered
    "names of answers": (
        [{"query": f"{Q} {n}", "best_answer": GOOD, "worst_answer": BAD} for n in range(9)],
        ["--prompt query --chosen best_answer --rejected worst_answer"],
    ),
    "twins and a winner": (
        [{"task": f"{Q} {n}", "answerA": GOOD, "answerB": BAD, "vote": "AB"[n % 2]} for n in range(9)],
        ["--kind choice --prompt task --chosen answerA --rejected answerB --winner vote --a-wins A --b-wins B"],
    ),
    "nested, with ratings": (
        [
            {"q": {"request": f"{Q} {n}"}, "outputs": [{"text": GOOD, "stars": 5}, {"text": BAD, "stars": n % 5}]}
            for n in range(9)
        ],
        ["--kind ratings --prompt q.request", "--responses 'outputs.*.text' --ratings 'outputs.*.stars'"],
    ),
    "one answer in a row": (
        [{"query": f"{Q} {n // 2}", "reply": [GOOD, BAD][n % 2], "grade": n} for n in range(9)],
        ["--kind rated_rows --prompt query --responses reply --ratings grade"],
    ),
    "a table of ratings": (
        cells(
            {"prompt": f"{Q} {n}", "score_a": 4.0, "score_b": n % 4, "reply_a": GOOD, "reply_b": BAD} for n in range(9)
        ),
        ["--kind ratings --prompt prompt --responses reply_a reply_b --ratings score_a score_b"],
    ),
    "a table of labels": (
        cells({"prompt": f"{Q} {n}", "reply_1": GOOD, "reply_2": BAD, "winner": [1.0, 2.0][n % 2]} for n in range(9)),
        ["--kind choice --prompt prompt --chosen reply_1 --rejected reply_2 --winner winner --a-wins 1 --b-wins 2"],
    ),
}


@pytest.mark.parametrize("what", PROPOSED)
def test_proposals_show_three_rows_and_init_asks_to_look(tmp_path, capsys, what):
    rows, words = PROPOSED[what]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    found = inspect_data.inspect([str(path)])
    assert all(word in found["proposed"] for word in words) and len(found["samples"]) == 3
    assert reward.main(["init", str(path), "--model", "base", "--recipe", str(tmp_path / "recipe.toml")]) == 3
    assert found["proposed"] in capsys.readouterr().err and not (tmp_path / "recipe.toml").exists()
    assert found["proposed"] in " ".join(found["warnings"]) and inspect_data.as_text(found).count("\nchosen ") == 3


@pytest.mark.parametrize(
    "labels, flags", [((0, 1), ["--a-wins 0", "--a-wins 1"]), ((-2, 2), ["--a-wins '<0'", "--a-wins '>0'"])]
)
def test_a_label_that_can_mean_either_is_not_guessed(tmp_path, labels, flags):
    rows = [{"query": f"{Q} {n}", "text_a": GOOD, "text_b": BAD, "label": labels[n % 2]} for n in range(9)]
    with pytest.raises(ToolError) as refused:
        inspect_data.inspect([str(write_jsonl(tmp_path / "rows.jsonl", rows))])
    assert all(flag in refused.value.mend for flag in flags) and "text_a" in refused.value.mend


BENCHMARK_ROWS = {"LLMBar": "princeton-nlp/LLMBar", "RewardBench": "allenai/reward-bench", "PRMBench": "PRMBench"}
BENCHMARK_ROWS |= {"RewardBench 2": "allenai/reward-bench-2", "RM-Bench": "THU-KEG/RM-Bench"}
BENCHMARK_ROWS |= {"JudgeBench": "ScalerLab/JudgeBench", "PPE": "lmarena-ai/PPE-MMLU-Pro-Best-of-K"}
BENCHMARK_ROWS |= {"PPE Human Preference": "lmarena-ai/PPE-Human-Preference-V1", "ProcessBench": "Qwen/ProcessBench"}


def test_published_benchmarks_are_known_as_such(tmp_path):
    for _, origin, rows, _ in ROWS:
        assert schemas.benchmarks_in(rows) == [name for name, known in BENCHMARK_ROWS.items() if known == origin]
    assert BENCHMARK_ROWS.keys() == schemas.BENCHMARKS.keys()
    rows = next(rows for _, origin, rows, _ in ROWS if origin == "princeton-nlp/LLMBar")
    found = inspect_data.inspect([str(write_jsonl(tmp_path / "rows.jsonl", rows))])
    assert any("rows of LLMBar: a model trained on a benchmark" in warning for warning in found["warnings"])


def test_messages_as_json_in_the_cells_of_a_table(tmp_path):
    """A table has no lists: JSON is read as messages, what Python prints is named in a warning."""
    row = {"prompt": SKY[0], "chosen": SKY[1], "rejected": SKY[2]}
    whole = {"chosen": SKY[0] + SKY[1], "rejected": SKY[0] + SKY[2]}
    for rows in ([row], [whole], [{"prompt": Q, "chosen": SKY[1], "rejected": SKY[2]}]):
        cells = [{k: v if k == "prompt" and v == Q else json.dumps(v) for k, v in r.items()} for r in rows]
        (tmp_path / "a.csv").write_bytes(table(cells, tmp_path, ","))
        assert pairs_of(tmp_path / "a.csv")[0] == [SKY]
    (tmp_path / "b.csv").write_bytes(table([{k: str(v) for k, v in row.items()}], tmp_path, ","))
    warnings = inspect_data.inspect([str(tmp_path / "b.csv")])["warnings"]
    assert sum("as Python writes them" in warning for warning in warnings) == 3


# ---- File formats ----------------------------------------------------------------------------------------------------

PAIRS = [
    {"prompt": f"Frage {i}: größer?\nJa, {i}!", "chosen": f'yes, "{i}"', "rejected": f"no\t{i}"} for i in range(40)
]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows, folder, delimiter):
    path = folder / "table"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path.read_bytes()


def parquet(rows, folder):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "written")
    return (folder / "written").read_bytes()


def arrow(rows, folder):
    import pyarrow

    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(folder / "written"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, 10)
    return (folder / "written").read_bytes()


FILES = {
    "a.jsonl": lambda folder: lines(PAIRS),
    "with_bom.jsonl": lambda folder: b"\xef\xbb\xbf" + lines(PAIRS),
    "list.json": lambda folder: json.dumps(PAIRS, indent=2).encode(),
    "around_a_list.json": lambda folder: json.dumps({"version": "1.0", "notes": ["a"], "data": PAIRS}).encode(),
    "lines.json": lambda folder: lines(PAIRS),
    "a.csv": lambda folder: table(PAIRS, folder, ","),
    "a.tsv": lambda folder: table(PAIRS, folder, "\t"),
    "a.parquet": lambda folder: parquet(PAIRS, folder),
    "a.arrow": lambda folder: arrow(PAIRS, folder),
    "gpt-3.5.jsonl": lambda folder: lines(PAIRS),
    "gzip_without_its_name.jsonl": lambda folder: gzip.compress(lines(PAIRS)),
    "name_without_its_gzip.jsonl.gz": lambda folder: lines(PAIRS),
    "utf16.jsonl": lambda folder: lines(PAIRS).decode().encode("utf-16"),
    "utf16.csv": lambda folder: table(PAIRS, folder, ",").decode().encode("utf-16"),
    "semicolons.csv": lambda folder: table(PAIRS, folder, ";"),
    "tabs.csv": lambda folder: table(PAIRS, folder, "\t"),
    "columns.json": lambda folder: json.dumps({name: [row[name] for row in PAIRS] for name in PAIRS[0]}).encode(),
    "pandas.json": lambda folder: json.dumps(
        {n: {str(i): r[n] for i, r in enumerate(PAIRS)} for n in PAIRS[0]}
    ).encode(),
    "by_index.json": lambda folder: json.dumps({str(i): row for i, row in enumerate(PAIRS)}).encode(),
    "b.jsonl.gz": lambda folder: gzip.compress(lines(PAIRS)),
    "b.json.gz": lambda folder: gzip.compress(json.dumps(PAIRS).encode()),
    "b.csv.gz": lambda folder: gzip.compress(table(PAIRS, folder, ",")),
    "b.parquet.gz": lambda folder: gzip.compress(parquet(PAIRS, folder)),
}


def read(sources):
    """The pairs as they were before formatting, and the report, as the rendered script reads them in this process."""
    module = format_module(data=[str(source) for source in sources])
    report = module.new_report()
    pairs = [pair for _, pair in module.read_pairs(module.parameters([]), report, inspect_data.Findings())]
    sides = ("prompt", "chosen", "rejected")
    return [{side: pair[side][0]["content"] for side in sides} | {"source": pair["source"]} for pair in pairs], report


@pytest.mark.parametrize("name", FILES)
def test_file_format(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(FILES[name](tmp_path))
    pairs, report = read([path])
    source = re.sub(r"(\.(jsonl|json|csv|tsv|parquet|arrow|gz))+$", "", name)
    assert pairs == [row | {"source": source} for row in PAIRS]
    assert (report["rows"], report["train"] + report["eval"], sum(report["rejected"].values())) == (40, 40, 0)


def test_a_json_list_longer_than_what_is_read_at_once(tmp_path):
    rows = [{**PAIRS[n % 40], "prompt": "ü" * n} for n in range(1, 3000)]
    (tmp_path / "long.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1))
    assert (tmp_path / "long.json").stat().st_size > 8 * 2**20
    pairs, report = read([tmp_path / "long.json"])
    assert [pair["prompt"] for pair in pairs] == [row["prompt"] for row in rows] and report["rows"] == len(rows)
    (tmp_path / "cut.json").write_text(json.dumps(rows)[:-400])
    _, report = read([tmp_path / "cut.json"])
    assert (report["rows"], report["used"], report["rejected"]) == (2999, 2998, {"not_json": 1})


def test_a_json_file_with_one_pair_of_messages(tmp_path):
    """One object is one row, even where its first value is a list of objects."""
    path = tmp_path / "one.json"
    path.write_text(json.dumps({name: messages for name, messages in zip(("prompt", "chosen", "rejected"), SKY)}))
    pairs, report = read([path])
    assert (len(pairs), report["rows"]) == (1, 1)


def test_folder_holds_every_file_once_and_names_them_as_sources(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "first.jsonl").write_bytes(lines(PAIRS[:10]))
    (tmp_path / "deep" / "second.jsonl.gz").write_bytes(gzip.compress(lines(PAIRS[10:25])))
    (tmp_path / "deep" / "er" / "third.csv").write_bytes(table(PAIRS[25:], tmp_path, ","))
    (tmp_path / "README.md").write_text("no data")
    (tmp_path / "dataset_info.json").write_text("{}")  # as save_to_disk leaves beside arrow files
    (tmp_path / "table").unlink()
    pairs, report = read([tmp_path])
    assert report["rows"] == 40
    counts = {name: sum(pair["source"] == name for pair in pairs) for name in ("first", "second", "third")}
    assert counts == {"first": 10, "second": 15, "third": 15}


def test_a_hub_id_may_name_a_configuration_or_a_folder(monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["default", "preference"])
    monkeypatch.setattr(datasets, "load_dataset", lambda *words, **more: asked.append((*words, more)) or PAIRS)
    for part in ("", "/preference", "/helpful-base"):
        assert len(read([f"nobody/nothing{part}"])[0]) == len(PAIRS)
    assert [{k: v for k, v in more.items() if k not in ("split", "streaming")} for _, more in asked] == [
        {},
        {"name": "preference"},
        {"data_dir": "helpful-base"},
    ]
    assert {name for name, _ in asked} == {"nobody/nothing"}


# ---- Real sets -------------------------------------------------------------------------------------------------------

ANNOTATED = "mr_annotate__annotation__data__multi_solutions__prm_testp12_qwq_annotations.jsonl"
REAL = {  # folder or file -> rows; used; comparisons that tie; reasons
    "hh_rlhf_harmless_test": (2312, 2303, 0, {"diverging_context": 5, "empty_chosen": 4}),
    "llamafactory_demo/data__dpo_en_demo.json": (300, 300, 0, {}),
    "llamafactory_demo/data__dpo_zh_demo.json": (300, 300, 0, {}),
    "qa_feedback_dev": (500, 488, 384, {}),
    "just_eval_ratings": (1200, 342, 2606, {"duplicate_answer": 17}),
    "gsm8k_model_solutions": (1319, 731, 5485, {}),
    "prmbench_steps": (1688, 1514, 0, {"missing_column": 174}),  # one file holds solutions without errors
    "llmbar": (885, 883, 0, {"identical": 1, "empty_rejected": 1}),
}
NAMES = {"just_eval_ratings": "just_eval_safety"} | {
    f"llamafactory_demo/data__dpo_{language}_demo.json": f"llamafactory_dpo_{language}_demo"
    for language in ("en", "zh")
}


def counts_of(pairs):
    """What expected.json says of a set, counted in formatted pairs; of lengths the median and the 95th percentile."""
    sizes = {side: sorted(sum(len(m["content"]) for m in p[side]) for p in pairs) for side in ("chosen", "rejected")}
    longer = sum(
        sum(len(m["content"]) for m in p["chosen"]) > sum(len(m["content"]) for m in p["rejected"]) for p in pairs
    )
    found = {"strict_pairs": len(pairs), "unique_prompts": len({pair["prompt_id"] for pair in pairs})}
    spread = {f"{s}_chars_p50_p95": [n[int(q * len(n))] for q in (0.5, 0.95)] for s, n in sizes.items()}
    return found | spread | {"chosen_longer_frac": round(longer / len(pairs), 3)}


@pytest.mark.parametrize("name", REAL)
def test_real_sets_without_a_flag(tmp_path, name):
    """Counts agree with those of independently written adapters; each difference is a row in rejected.jsonl."""
    if not SHARED.is_dir():
        return
    from pyarrow.parquet import read_table

    rows, used, ties, reasons = REAL[name]
    expected = json.loads((SHARED / "expected.json").read_text())["sets"]
    found = inspect_data.inspect([str(SHARED / name)])
    module = format_module(data=[str(SHARED / name)], out=str(tmp_path / "out"), **found["mapping"])
    module.main(module.parameters([]))
    report, unused = (
        json.loads((tmp_path / "out" / "report.json").read_text()),
        read_jsonl(tmp_path / "out" / "rejected.jsonl"),
    )
    assert (report["rows"], report["used"], report["rejected"]) == (rows, used, reasons)
    assert rows == used + report["ties"] + sum(reasons.values()) and len(unused) == rows - used
    same = ("rows", "used", "pairs", "ties", "rejected", "train", "eval", "comparisons")
    assert {key: found[key] for key in same} == {key: report[key] for key in same}
    assert report["comparisons"].get("tie", 0) == ties
    pairs = [
        pair for side in ("train", "eval") for pair in read_table(tmp_path / "out" / f"{side}.parquet").to_pylist()
    ]
    assert len(pairs) == report["pairs"]
    if name == "llmbar":
        subsets = {p["source"]: [q for q in pairs if q["source"] == p["source"]] for p in pairs}
        counted = {f"llmbar_{source.split('__')[-2]}": counts_of(subset) for source, subset in subsets.items()}
        assert len(counted) == 8 and {Path(row["file"]).name.split("__")[-2] for row in unused} == {"LLMEval^2"}
        less = counted.pop("llmbar_LLMEval^2")  # without an identical pair, and one whose rejected answer is empty
        assert (less["strict_pairs"], less["unique_prompts"], less["chosen_longer_frac"]) == (198, 198, 0.606)
        assert round((0.606 * 198 + 1) / 200, 3) == expected["llmbar_LLMEval^2"]["chosen_longer_frac"]
    else:
        counted = {NAMES.get(name, name): counts_of(pairs)}
        if "ties" in expected[NAMES.get(name, name)]:
            repeated = asked_again(SHARED / name) if name == "just_eval_ratings" else []
            why = [row["reason"] for row in unused if (row["file"], row["row"]) in repeated]
            assert (
                why.count("duplicate_answer") == len(repeated) - why.count("tie") == reasons.get("duplicate_answer", 0)
            )
            extra = 6 * why.count("tie")  # one model of six said something else when asked again: it ties with all six
            assert ties - extra == expected[NAMES.get(name, name)]["ties"]
    for subset, counts in counted.items():
        assert counts == {key: expected[subset][key] for key in counts}, subset


def asked_again(folder):
    """(file, row) of each row of just-eval whose model was asked the same before."""
    again = set()
    for path in sorted(folder.glob("*.json")):
        prompts = [row["input"] for row in json.loads(path.read_text())]
        again |= {(str(path), n + 1) for n, prompt in enumerate(prompts) if prompt in prompts[:n]}
    return again


def test_real_sets_that_are_refused():
    if not SHARED.is_dir():
        return
    with pytest.raises(ToolError, match="neither is the better one"):
        inspect_data.inspect([str(SHARED / "prmbench_steps" / ANNOTATED)])
    found = inspect_data.inspect([str(SHARED / "llamafactory_demo" / "data__kto_en_demo.json")])
    module = format_module(data=found["data"], **found["mapping"])
    assert (found["used"], found["ties"], found["rejected"]) == (2, 4, {"no_partner": 294})  # 297 prompts, 300 answers
    report = module.new_report()
    list(module.read_pairs(module.parameters([]), report, inspect_data.Findings()))
    with pytest.raises(SystemExit):
        module.judge(report, module.parameters([]))
    mixed = inspect_data.inspect([str(SHARED / "llamafactory_demo")])
    assert any("others: kto-messages" in warning for warning in mixed["warnings"])
