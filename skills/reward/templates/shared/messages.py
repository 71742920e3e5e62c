ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_call": "assistant"}


class Reject(Exception):
    """Why a row is not used: a reason to count and a detail to read."""


def look_up(row, path):
    """Value at a path: a column's own name, a.b for nested fields, a+b for several joined by a blank line."""
    if path in row:
        return row[path]
    if "+" in path:
        parts = [look_up(row, part) for part in path.split("+")]
        if any(isinstance(part, (dict, list)) for part in parts):
            raise Reject("wrong_type", f"{path} joins text, and one of them is none")
        return "\n\n".join(text for part in parts if (text := str(part or "").strip()))
    value = row
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            raise Reject("missing_column", f"no {path!r}; the row has {', '.join(map(str, list(row)[:12]))}")
        value = value[key]
    return value


def as_messages(value, role):
    """Text, one message or a list of messages (role/content or from/value) -> list of {role, content}."""
    messages = []
    for message in value if isinstance(value, list) else [value]:
        if isinstance(message, str) and not isinstance(value, list):
            message = {"role": role, "content": message}
        if not isinstance(message, dict):
            raise Reject("wrong_type", f"expected text or messages, got {type(message).__name__}")
        who, said = message.get("role", message.get("from")), message.get("content", message.get("value"))
        who = ROLES.get(str(who), str(who))
        if who not in ("system", "developer", "user", "assistant", "tool"):
            raise Reject("unknown_role", f"role {who[:40]!r}")
        if lost := [k for k in ("reasoning_content", "reasoning", "thinking", "tool_calls") if message.get(k)]:
            raise Reject("unsupported_field", f"a {who} turn has {', '.join(lost)}, which would be lost")
        if not isinstance(said, str):
            raise Reject("wrong_type", f"content of a {who} turn is {type(said).__name__}, not text")
        messages.append({"role": who, "content": said})
    return messages


def split_context(chosen, rejected):
    """Two whole dialogues -> (shared prompt, chosen answer, rejected answer), each a list of messages."""
    if chosen[:-1] != rejected[:-1]:
        raise Reject("diverging_context", "the dialogues differ before the last answer")
    return chosen[:-1], chosen[-1:], rejected[-1:]
