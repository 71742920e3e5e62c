"""The tool's one error type: what was received, what was expected, the command that mends it."""

import difflib

WRONG_USE, DATA_REFUSED, CHECK_FAILED, ENVIRONMENT_LACKS = 2, 3, 4, 5


class ToolError(Exception):
    """Ends a command with one readable message and an exit code (2 wrong use, 3 data refused, 4 check failed,
    5 the environment lacks something)."""

    def __init__(self, received, expected, mend, code=DATA_REFUSED):
        super().__init__(received)
        self.received, self.expected, self.mend, self.code = received, expected, mend, code

    def __str__(self):
        return f"error: {self.received}\n  expected: {self.expected}\n  try: {self.mend}"

    def as_dict(self):
        return {
            "error": {"received": self.received, "expected": self.expected, "mend": self.mend, "exit_code": self.code}
        }


def nearest(name, known):
    """The known name most like `name`, or None."""
    found = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return found[0] if found else None
