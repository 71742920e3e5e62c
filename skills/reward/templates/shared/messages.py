ROLES = {"human": "user", "prompter": "user", "observation": "tool", "function_call": "assistant"}
ROLES |= dict.fromkeys(("gpt", "ai", "bot", "model", "chatgpt"), "assistant")


class Reject(Exception):
    """Why a row is not used: a reason to count and a detail to read."""


def as_messages(value, role):
    """Text, one message or a list of messages (role/content or from/value) -> list of {role, content}, and thinking
    where a turn has it in a field of its own; <think> in the content stays there."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    messages = []
    for message in value if isinstance(value, list) else [value]:
        if not isinstance(message, dict):
            raise Reject("wrong_type", f"expected text or messages, got {type(message).__name__}")
        who, said = message.get("role", message.get("from")), message.get("content", message.get("value"))
        who = str(who).lower()
        who = ROLES.get(who, who)
        if who not in ("system", "developer", "user", "assistant", "tool"):
            raise Reject("unknown_role", f"role {who[:40]!r}")
        if message.get("tool_calls"):
            raise Reject("unsupported_field", f"a {who} turn has tool_calls, which would be lost")
        thoughts = {t for k in ("reasoning_content", "reasoning", "thinking") if (t := message.get(k))}
        if len(thoughts) > 1 or not all(isinstance(thought, str) for thought in thoughts):
            raise Reject("two_thinkings", f"a {who} turn has thinking in several fields that differ, or none of text")
        said = text_of_parts(said) if isinstance(said, list) and said else said
        said = "" if said is None and thoughts else said
        if not isinstance(said, str):
            raise Reject("wrong_type", f"content of a {who} turn is {type(said).__name__}, not text")
        messages.append({"role": who, "content": said} | dict.fromkeys(["thinking"] * bool(thoughts), *thoughts))
    return messages


def text_of_parts(parts):
    """Content as a list of {type: text, text: …} -> text. An image or sound is no text and rejects the row."""
    if other := [p for p in parts if not isinstance(p, dict) or not isinstance(p.get("text"), str)]:
        kind = other[0].get("type") if isinstance(other[0], dict) else type(other[0]).__name__
        raise Reject("not_text", f"a part of the content is {str(kind)[:40]}, not text")
    return "".join(part["text"] for part in parts)
