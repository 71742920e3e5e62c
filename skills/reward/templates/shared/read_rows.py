SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # beside data, and none


def find_files(sources):
    """Data files behind files and folders, and hub ids (owner/name, or owner/name/configuration), in order."""
    found = []
    for source in sources:
        path = Path(source)
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = [p for p in inside if p.is_file() and p.name.removesuffix(".gz").endswith(SUFFIXES)]
        files = [p for p in files if p.name not in ABOUT or p == path]
        if re.fullmatch(r"[\w.-]+(/[\w.-]+){1,2}", source) and not (path.exists() or path.parent.exists()):
            files = [source]
        elif not files:
            refuse(f"no data in {source!r}", f"a file or folder of {', '.join(SUFFIXES)} (.gz), or a hub id", "ls")
        found += files
    return found


def read_file(path, opened=lambda file: None):
    """Yield (row, problem) for one file; problem names why a row is not one, else None. `opened` is told the file."""
    name = path.name.removesuffix(".gz")
    with open(path, "rb") as raw:
        opened(raw)
        packed = raw.peek(2)[:2] == b"\x1f\x8b"  # whatever its name says
        file = gzip.open(raw) if packed else raw
        if name.endswith(SUFFIXES[:4]) and file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):  # Windows writes UTF-16
            file = io.BytesIO(file.read().decode("utf-16").encode())
        if name.endswith(".parquet"):
            from pyarrow.parquet import ParquetFile

            batches = ParquetFile(io.BytesIO(file.read()) if packed else file).iter_batches(1000)
            yield from ((row, None) for batch in batches for row in batch.to_pylist())
        elif name.endswith(".arrow"):
            import pyarrow

            yield from ((row, None) for batch in pyarrow.ipc.open_stream(file) for row in batch.to_pylist())
        elif name.endswith((".csv", ".tsv")):
            csv.field_size_limit(2**31 - 1)
            text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
            header = text.readline()
            text.seek(0)
            between = "\t" if name.endswith(".tsv") else next((mark for mark in ",;\t" if mark in header), ",")
            rows = csv.DictReader(text, delimiter=between)
            if twice := [name for name in rows.fieldnames or () if name and rows.fieldnames.count(name) > 1]:
                raise ValueError(f"two columns are named {twice[0]!r}")
            for row in rows:
                broken = None in row or None in row.values() or re.search("[\udc80-\udcff]", "".join(row.values()))
                yield row, "not_utf8_or_ragged" if broken else None
        elif name.endswith(".json"):
            yield from json_rows(file)
        else:
            yield from (parse(line) for line in file if line.strip())


def parse(text):
    """JSON bytes -> (value, None) or (None, problem)."""
    try:
        return json.loads(text.decode("utf-8-sig")), None
    except (ValueError, RecursionError) as error:
        return None, "not_utf8" if isinstance(error, UnicodeDecodeError) else "not_json"


def json_rows(file):
    """(row, problem) of a .json file that is a list, an object around a list, one object, or JSON lines."""
    start = file.read(100).decode("utf-8-sig", "replace").lstrip()[:1]
    file.seek(0)
    if start == "[":
        yield from list_elements(io.TextIOWrapper(file, "utf-8-sig", "surrogateescape"))
        return
    lines = (line for line in file if line.strip())
    first, second = next(lines, None), next(lines, None)
    if first and second and not parse(first)[1]:  # each line is a row of its own
        yield parse(first)
        yield parse(second)
        yield from map(parse, lines)
        return
    file.seek(0)
    value, problem = parse(file.read())
    if problem:
        file.seek(0)
        yield from (parse(line) for line in file if line.strip())
    elif isinstance(value, dict):
        yield from ((row, None) for row in rows_in(value))
    else:
        yield value, None


def rows_in(value):
    """Rows of a JSON object: of a list of objects in it, of a table as pandas writes it ({column: {"0": value, …}},
    {"0": row, …}) or by columns ({column: [value, …]}); else the object is the one row."""
    inside = list(value.values())
    lists = [v for v in inside if isinstance(v, list) and v and isinstance(v[0], dict)]
    if lists:
        return next((rows for rows in lists if not {"role", "from"} & set(rows[0])), [value])  # those are messages
    if all(isinstance(v, dict) for v in inside) and all(map(str.isdigit, value)):
        return inside or [value]
    if all(isinstance(v, dict) and v.keys() == inside[0].keys() and all(map(str.isdigit, v)) for v in inside):
        inside = [list(v.values()) for v in inside]
    if len(inside) > 1 and all(isinstance(v, list) and len(v) == len(inside[0]) > 1 for v in inside):
        return [dict(zip(value, row)) for row in zip(*inside)]
    return [value]


def list_elements(file):
    """(element, problem) of a JSON list, read piece by piece, for it may be larger than memory."""
    decoder, between, text, place, size = json.JSONDecoder(), re.compile(r"[\s,]*"), file.read(2**20), 0, 2**20
    place = text.index("[") + 1
    while True:
        place = between.match(text, place).end()
        if text[place : place + 1] == "]":
            break
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = len(text)
        if end < len(text):  # else it may go on in the next piece
            broken = re.search("[\udc80-\udcff]", text[place:end])
            yield (None, "not_utf8") if broken else (value, None)
            place, size = end, 2**20
        elif more := file.read(size):
            text, place, size = text[place:] + more, 0, size * 2
        else:
            yield None, "not_json"
            return
    if text[place + 1 :].strip() or file.read(2**20).strip():
        yield None, "not_json"


def hub_rows(source, split):
    """Rows of a hub dataset; what stands behind owner/name is a configuration of it, else a folder in it."""
    from datasets import get_dataset_config_names, load_dataset

    name, part = re.fullmatch("([^/]+/[^/]+)/?(.*)", source).groups()
    chosen = {"name" if part in get_dataset_config_names(name) else "data_dir": part} if part else {}
    return load_dataset(name, **chosen, split=split, streaming=True)


def read_rows(sources, split, opened=lambda file: None):
    """Yield (source, row number from 1, row, problem) over all sources, in order; `opened` is told each file."""
    for source in find_files(sources):
        try:
            local = isinstance(source, Path)
            rows = read_file(source, opened) if local else ((row, None) for row in hub_rows(source, split))
            for number, (row, problem) in enumerate(rows, 1):
                problem = problem or (None if isinstance(row, dict) else "not_an_object")
                yield str(source), number, None if problem else row, problem
        except ImportError as error:
            refuse(f"{source} needs a package: {error}", "it installed", f"pip install {error.name}", 5)
        except Exception as error:  # pyarrow, zlib and the hub client share no base class
            mend = "open it by hand" if local else "--split NAME, OWNER/NAME/CONFIGURATION, or a folder it lies in"
            refuse(f"{source}: {str(error)[:300]}", "a readable file or a reachable hub dataset", mend)
