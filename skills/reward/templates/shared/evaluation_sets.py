PROMPT_COLUMNS = "prompt question instruction input problem query context conversations messages conversation_a history"
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\W_]+")
SHORT = 8


def asked(value):
    """What the user asks in a prompt of any shape: text, messages, nested fields, an hh-rlhf transcript."""
    if isinstance(value, str):
        turns = re.findall(r"\n\nHuman:(.*?)(?=\n\nAssistant:|\Z)", value, re.DOTALL)
        return "\n".join(turns) if turns else value
    if isinstance(value, list):
        asking = ("user", "human", "prompter", "none")
        users = [v for v in value if not isinstance(v, dict) or str(v.get("role", v.get("from"))).lower() in asking]
        return "\n".join(asked(v.get("content", v.get("value")) if isinstance(v, dict) else v) for v in users)
    return max((asked(v) for v in value.values()), key=len, default="") if isinstance(value, dict) else ""


@functools.lru_cache(2**18)
def word_hash(word):
    return zlib.crc32(word.encode("utf-8", "replace")) + 1


def word_hashes(text):
    """Hash of each word (or Chinese, Japanese, Korean character) of a text in lower case: an array."""
    return np.fromiter(map(word_hash, WORD.findall(text.lower())), "u8")


def run_hashes(words, length):
    """Hash of each run of so many words: a polynomial modulo 2**64."""
    total = np.zeros(max(0, len(words) - length + 1), "u8")
    for start in range(length if len(total) else 0):
        total = total * np.uint64(0x9E3779B97F4A7C15) + words[start : start + len(total)]
    return total


def whole_hash(words):
    return int.from_bytes(hashlib.blake2b(words.tobytes(), digest_size=8).digest(), "little")


class EvaluationSets:
    """Prompts of the sets named in `against`, as hashes: whole, and in runs of `ngram` words (of SHORT words where a
    prompt has fewer than ngram; whole only where it has fewer than that). A run that stands in more than five rows of
    a set is its own wording and says nothing."""

    def __init__(self, args):
        self.rows, self.lengths, self.whole, self.hits = [], (SHORT, args.ngram), {}, {}
        runs = {length: [] for length in self.lengths}
        for source in args.against:
            grams = {length: ([], []) for length in self.lengths}
            for file, number, row, problem in read_rows([source], args.split):
                if problem:
                    continue
                named = [name for name in PROMPT_COLUMNS.split() if row.get(name)][:3] or ["chosen"] * ("chosen" in row)
                words = word_hashes("\n".join(asked(row[name]) for name in named))
                if not len(words):
                    continue
                self.whole.setdefault(whole_hash(words), len(self.rows))
                length = args.ngram if len(words) >= args.ngram else SHORT
                found = np.unique(run_hashes(words, length))
                grams[length][0].append(found)
                grams[length][1].append(np.full(len(found), len(self.rows)))
                self.rows.append((source, f"{Path(file).name} row {number}", "+".join(named)))
            for length, (found, owners) in grams.items():
                if found:
                    keys, first, counts = np.unique(np.concatenate(found), return_index=True, return_counts=True)
                    runs[length].append((keys[counts <= 5], np.concatenate(owners)[first][counts <= 5]))
        self.runs = {}
        for length, parts in runs.items():
            keys, owners = map(np.concatenate, zip(*parts)) if parts else (np.zeros(0, "u8"), np.zeros(0, int))
            order = np.argsort(keys)
            self.runs[length] = keys[order], owners[order]
        if args.against and not self.rows:
            expected = f"rows with a column {', '.join(PROMPT_COLUMNS.split())} or chosen"
            refuse(f"{' '.join(args.against)}: no prompts found", expected, "another --against, or --split")

    def counted(self, hits):
        """What each set holds and how many of its rows the training prompts share: a list of dicts."""
        shared, sets = {self.rows[row] for row in hits}, collections.Counter(source for source, *_ in self.rows)
        found = collections.Counter(source for source, *_ in shared)
        columns = {source: columns for source, _, columns in self.rows}
        return [{"set": s, "prompts": n, "shared": found[s], "read from": columns[s]} for s, n in sets.items()]

    def look(self, text):
        """("contaminated_exact" or "contaminated_ngram", row of an evaluation set), or None, for a training prompt."""
        words = word_hashes(text)
        if (row := self.whole.get(whole_hash(words))) is not None:
            return "contaminated_exact", row
        for length, index in self.runs.items():  # index: sorted hashes, row of each
            if len(index[0]) and len(found := run_hashes(words, length)):
                at = np.minimum(np.searchsorted(index[0], found), len(index[0]) - 1)
                if len(same := np.flatnonzero(index[0][at] == found)):
                    return "contaminated_ngram", int(index[1][at[same[0]]])
        return None
