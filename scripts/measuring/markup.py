"""Markdown tables and the numbers in them."""


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def number(spread_or_value, scale=1.0):
    s = spread_or_value
    if not isinstance(s, dict):
        return f"{s * scale:.3g}"
    return f"{s['median'] * scale:.3g} ({s['min'] * scale:.3g}–{s['max'] * scale:.3g})"


def token_columns(tokens):
    return [f"{t} token{'s' if t > 1 else ''}" for t in tokens]


def percent(share):
    return f"{share:.0%}"


def judged(ratio, bar, at_most=False):
    """A ratio beside the bar it is held to, such as "2.31 ≥ 2"; alone where there is no bar."""
    if bar is None:
        return f"{ratio:.2f}"
    if at_most:
        return f"{ratio:.2f} {'≤' if ratio <= bar else '>'} {bar:g}"
    return f"{ratio:.2f} {'≥' if ratio >= bar else '<'} {bar:g}"
