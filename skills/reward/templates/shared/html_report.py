def chart(title, x="", y=""):
    """(Figure, Axes) in the look of every report: `title` is also what stands for the picture where it is not seen."""
    import matplotlib

    matplotlib.rcParams["text.parse_math"] = False  # a name with dollars is a name
    figure = Figure(figsize=(7.6, 3), layout="constrained", label=title)
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e5e7eb")
    return figure, axes


def html_table(rows):
    """A list of dicts as a table: numbers to the right, whole ones with separators, others with three decimals."""

    def cell(tag, text, value):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and text is value:
            text = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
        text = "" if text is None else str(text)
        kind = " class=n" if number else " class=w" * (len(text) > 60)
        return f"<{tag}{kind}>{html.escape(text)}</{tag}>"

    first = rows[0] if rows else {"nothing to show": ""}
    lines = [[cell("th", name, value) for name, value in first.items()]]
    lines += [[cell("td", value, value) for value in row.values()] for row in rows]
    return f"<div><table>{''.join('<tr>' + ''.join(line) + '</tr>' for line in lines)}</table></div>"


def html_report(title, parts):
    """A self-contained HTML page (str): no script, nothing loaded from elsewhere, every text escaped.

    A part is a paragraph (str), a heading ("# …"), a verdict ("! …"), a table (list of dicts) or a picture (Figure)."""
    body = []
    for part in parts:
        if isinstance(part, str):
            tag = {"# ": "h2", "! ": "strong"}.get(part[:2], "p")
            body.append(f"<{tag}>{html.escape(part[2:] if tag != 'p' else part)}</{tag}>")
        elif isinstance(part, list):
            body.append(html_table(part))
        else:
            image = io.BytesIO()
            part.savefig(image, format="png", dpi=144)
            source = base64.b64encode(image.getvalue()).decode()
            body.append(f'<img alt="{html.escape(part.get_label())}" src="data:image/png;base64,{source}">')
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1f2937;"
        "background:#fff;overflow-wrap:break-word}h1,h2{line-height:1.2;color:#111827}h2{margin:2.5rem 0 .6rem;"
        "font-size:1.3rem}p{max-width:46rem;margin:.6rem 0}img{max-width:100%;margin:.8rem 0}div{overflow-x:auto;"
        "margin:.8rem 0}table{border-collapse:collapse;font-size:14px}td,th{padding:.35rem .8rem;text-align:left;"
        "border-bottom:1px solid #e5e7eb;vertical-align:top;white-space:pre-wrap;min-width:3rem;max-width:30rem}"
        ".w{overflow-wrap:anywhere}"
        "th{background:#f3f4f6;white-space:nowrap}.n{text-align:right;font-variant-numeric:tabular-nums;"
        "white-space:nowrap}strong{display:block;margin:.5rem 0;padding:.7rem 1rem;border-left:4px solid #b45309;"
        "background:#fff7ed;font-weight:600;white-space:pre-line}"
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><style>{style}</style><h1>{html.escape(title)}</h1>{"".join(body)}</html>\n'
    )
    return page.encode("utf-8", "replace").decode()  # half a character is shown as ?
