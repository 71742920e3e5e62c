"""Every schema in the shape of its public data sets, every file format, and the counts on real sets."""

import csv
import gzip
import json

import pytest
import recipe
import render
import schemas
from conftest import ROOT, SHARED, python, read_jsonl

TRANSCRIPT = "\n\nHuman: What is a pen?\n\nAssistant: A tool.\n\nHuman: And ink?\n\nAssistant:"


def say(role, content):
    return {"role": role, "content": content}


def turn(who, value):
    return {"from": who, "value": value}


SKY = ([say("user", "What colour is the sky?")], [say("assistant", "Blue.")], [say("assistant", "Green.")])
SYSTEM_SKY = ([say("system", "Be brief."), *SKY[0]], SKY[1], SKY[2])
INK = (
    [say("user", "What is a pen?"), say("assistant", "A tool."), say("user", "And ink?")],
    [say("assistant", "Its liquid.")],
    [say("assistant", "No idea.\n\nSorry.")],
)

# schema, data set with rows of this shape, row, (prompt, chosen, rejected)
ROWS = [
    (
        "transcripts",
        "Anthropic/hh-rlhf",
        {"chosen": TRANSCRIPT + " Its liquid.", "rejected": TRANSCRIPT + " No idea.\n\nSorry."},
        INK,
    ),
    (
        "sharegpt-ranking",
        "LLaMA-Factory dpo_en_demo",
        {
            "conversations": [turn("system", "Be brief."), turn("human", "What colour is the sky?")],
            "chosen": turn("gpt", "Blue."),
            "rejected": turn("gpt", "Green."),
        },
        SYSTEM_SKY,
    ),
    (
        "sharegpt-ranking",
        "LLaMA-Factory with a system column",
        {
            "conversations": [turn("human", "What colour is the sky?")],
            "chosen": turn("gpt", "Blue."),
            "rejected": turn("gpt", "Green."),
            "system": "Be brief.",
        },
        SYSTEM_SKY,
    ),
    (
        "prompt-chosen-rejected",
        "TRL, standard, explicit prompt",
        {"prompt": "What colour is the sky?", "chosen": "Blue.", "rejected": "Green."},
        SKY,
    ),
    (
        "prompt-chosen-rejected",
        "TRL, conversational, explicit prompt",
        {
            "prompt": [say("user", "What colour is the sky?")],
            "chosen": [say("assistant", "Blue.")],
            "rejected": [say("assistant", "Green.")],
        },
        SKY,
    ),
    (
        "prompt-chosen-rejected",
        "Intel/orca_dpo_pairs",
        {"system": "Be brief.", "question": "What colour is the sky?", "chosen": "Blue.", "rejected": "Green."},
        SYSTEM_SKY,
    ),
    (
        "prompt-chosen-rejected",
        "LLaMA-Factory, alpaca ranking",
        {"instruction": "Shorten this.", "input": "Blue it is.", "chosen": "Blue.", "rejected": "Green."},
        ([say("user", "Shorten this.\n\nBlue it is.")], SKY[1], SKY[2]),
    ),
    (
        "chosen-rejected-messages",
        "TRL, conversational, implicit prompt (trl-lib/ultrafeedback_binarized)",
        {
            "chosen": [*SKY[0], *SKY[1]],
            "rejected": [*SKY[0], *SKY[2]],
            "score_chosen": 8.0,
            "score_rejected": 2.5,
        },
        SKY,
    ),
    (
        "chosen-rejected-messages",
        "HuggingFaceH4/ultrafeedback_binarized",
        {
            "prompt": "What colour is the sky?",
            "prompt_id": "0a1b",
            "chosen": [*SKY[0], *SKY[1]],
            "rejected": [*SKY[0], *SKY[2]],
            "messages": [*SKY[0], *SKY[1]],
        },
        SKY,
    ),
    (
        "chosen-rejected-text",
        "TRL, standard, implicit prompt",
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        ([say("user", "The sky is")], [say("assistant", "blue.")], [say("assistant", "green.")]),
    ),
    (
        "output-1-output-2-label",
        "princeton-nlp/LLMBar",
        {"input": "What colour is the sky?", "output_1": "Green.", "output_2": "Blue.", "label": 2},
        SKY,
    ),
    (
        "output-1-output-2-label",
        "NCSOFT/offsetbias",
        {
            "instruction": "What colour is the sky?",
            "input": "",
            "output_1": "Blue.",
            "output_2": "Green.",
            "label": 1,
            "dataset": "made up",
            "id": 7,
        },
        SKY,
    ),
]


def format_module(**values):
    return render.as_module("format", recipe.validate("format", values))


def test_every_schema_has_a_row_here():
    assert {row[0] for row in ROWS} == set(schemas.SCHEMAS)


@pytest.mark.parametrize("name, origin, row, pair", ROWS, ids=[row[1] for row in ROWS])
def test_schema_is_recognised_and_converted(name, origin, row, pair):
    found, mapping, share = schemas.detect([row] * 3)
    assert (found, share) == (name, 1.0)
    module = format_module(**mapping)
    assert module.convert(row, module.parameters([])) == pair


def test_two_schemas_that_fit_equally_well_are_both_named():
    found, mapping, _ = schemas.detect([ROWS[0][2], ROWS[3][2]])
    assert (found, mapping) == ("transcripts or prompt-chosen-rejected", {})


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


FILES = {
    "a.jsonl": lambda folder: lines(PAIRS),
    "with_bom.jsonl": lambda folder: b"\xef\xbb\xbf" + lines(PAIRS),
    "list.json": lambda folder: json.dumps(PAIRS, indent=2).encode(),
    "around_a_list.json": lambda folder: json.dumps({"version": "1.0", "notes": ["a"], "data": PAIRS}).encode(),
    "lines.json": lambda folder: lines(PAIRS),
    "a.csv": lambda folder: table(PAIRS, folder, ","),
    "a.tsv": lambda folder: table(PAIRS, folder, "\t"),
    "a.parquet": lambda folder: parquet(PAIRS, folder),
    "b.jsonl.gz": lambda folder: gzip.compress(lines(PAIRS)),
    "b.json.gz": lambda folder: gzip.compress(json.dumps(PAIRS).encode()),
    "b.csv.gz": lambda folder: gzip.compress(table(PAIRS, folder, ",")),
    "b.parquet.gz": lambda folder: gzip.compress(parquet(PAIRS, folder)),
}


def read(sources):
    """The pairs as they were before formatting, and the report, as the rendered script reads them in this process."""
    module = format_module(data=[str(source) for source in sources])
    report = module.new_report()
    pairs = [pair for _, pair in module.read_pairs(module.parameters([]), report, None)]
    sides = ("prompt", "chosen", "rejected")
    return [{side: pair[side][0]["content"] for side in sides} | {"source": pair["source"]} for pair in pairs], report


@pytest.mark.parametrize("name", FILES)
def test_file_format(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(FILES[name](tmp_path))
    pairs, report = read([path])
    assert pairs == [row | {"source": name.split(".")[0]} for row in PAIRS]
    assert (report["rows"], report["train"] + report["eval"], sum(report["rejected"].values())) == (40, 40, 0)


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
    (tmp_path / "table").unlink()
    pairs, report = read([tmp_path])
    assert report["rows"] == 40
    counts = {name: sum(pair["source"] == name for pair in pairs) for name in ("first", "second", "third")}
    assert counts == {"first": 10, "second": 15, "third": 15}


# ---- Real sets -------------------------------------------------------------------------------------------------------


def formatted(folder, script, source, *words):
    """(report, [(file, row, reason)]) of one set through the golden script."""
    out = folder / "out"
    python(ROOT / "tests" / "golden" / script, "--data", source, "--out", out, *words, cwd=folder)
    report = json.loads((out / "report.json").read_text())
    unused = read_jsonl(out / "rejected.jsonl")
    assert report["rows"] == report["pairs"] + report["ties"] + len(unused)
    return report, [(row["file"].rsplit("__", 2)[-2], row["row"], row["reason"]) for row in unused]


def test_counts_on_real_sets(tmp_path):
    """Counts agree with those of independently written adapters; each difference is a row in rejected.jsonl."""
    if not SHARED.is_dir():
        return
    expected = json.loads((SHARED / "expected.json").read_text())["sets"]

    harmless = expected["hh_rlhf_harmless_test"]
    report, unused = formatted(tmp_path, "format_transcripts.py", SHARED / "hh_rlhf_harmless_test")
    assert (report["rows"], report["pairs"]) == (harmless["rows"], harmless["strict_pairs"]) == (2312, 2303)
    assert report["rejected"] == {"diverging_context": 5, "empty_chosen": 4}
    assert (harmless["diverging_context"], harmless["empty_response"], len(unused)) == (5, 4, 9)

    demo, path = expected["llamafactory_dpo_en_demo"], SHARED / "llamafactory_demo" / "data__dpo_en_demo.json"
    report, unused = formatted(tmp_path, "format.py", path, "--prompt", "conversations")
    assert (report["rows"], report["pairs"]) == (demo["rows"], demo["strict_pairs"]) == (300, 300)
    assert unused == []

    llmbar = {name: figures for name, figures in expected.items() if name.startswith("llmbar_")}
    words = ["--prompt", "input", "--chosen", "output_1", "--rejected", "output_2"]
    report, unused = formatted(tmp_path, "format_choice.py", SHARED / "llmbar", *words)
    assert report["rows"] == sum(figures["rows"] for figures in llmbar.values()) == 885
    odd = [("LLMEval^2", 58, "identical"), ("LLMEval^2", 170, "empty_rejected")]  # expected.json counts both as pairs
    assert unused == odd
    assert llmbar["llmbar_LLMEval^2"]["identical_pairs"] + llmbar["llmbar_LLMEval^2"]["blank_responses"] == len(odd)
    assert report["pairs"] == sum(figures["strict_pairs"] for figures in llmbar.values()) - len(odd) == 883
