"""What an agent asks back: the form of the question, and how it is read. Pure."""

__all__ = ["QUESTION_CHARS", "QUESTION_FORM", "QUESTION_MARK", "question_in"]

QUESTION_MARK = "CMESH-QUESTION:"
"""How the last line of an answer begins that asks something back."""

QUESTION_CHARS = 1000

_AROUND = "*_`> \t"
_ENDS = "\r\n"

QUESTION_FORM = (
    rf"(^|[\r\n])[{_AROUND}]*{QUESTION_MARK}[{_AROUND}]*[^{_AROUND}\r\n][^\r\n]*[\r\n{_AROUND}]*$"
)
"""The same as a regular expression, for the store's view `tasks`; RE2 takes it in linear time."""


def question_in(text: str) -> str:
    """Return the question that an agent's last message ends with; empty = it asks none.

    It is the agent's claim like all of the text, and never more than one line.
    """
    text = text.rstrip(_ENDS + _AROUND)
    start = 1 + max(text.rfind(end) for end in _ENDS)
    line = text[start:].lstrip(_AROUND)
    if not line.startswith(QUESTION_MARK):
        return ""
    return line.removeprefix(QUESTION_MARK).strip(_AROUND)[:QUESTION_CHARS].strip(_AROUND)
