"""What an agent is told before the prompt: who asks, what holds it, how to report and to ask. Pure.

INVARIANT: it is made of this machine's own words and of names of a form that holds no sentence.
Nothing that a caller has written stands in it; the prompt comes after it, or apart from it.
"""

import re

from cmesh.model import Profile, host_label
from cmesh.question import QUESTION_MARK

__all__ = ["fresh_copy", "in_front", "preface_of"]

_NAME = re.compile(r"[A-Za-z0-9._@:,+-]{1,120}")

_HOLDS = {
    Profile.QUERY: "You can read the directory and change nothing in it; what you write goes to"
    " $TMPDIR and is thrown away. The network reaches your own model and nothing else.",
    Profile.EDIT: "You work on a private copy of the directory. What you change there is the"
    " result, as a patch: do not commit, push or send it anywhere. What git ignores is not in the"
    " copy. The network reaches your own model and nothing else.",
    Profile.BUILD: "You work on a private copy of the directory. What you change there is the"
    " result, as a patch: do not commit, push or send it anywhere. What git ignores is not in the"
    " copy. The network reaches your own model and the hosts that this machine's owner has listed.",
    Profile.FULL: "Nothing holds you here but the words of the task: do what it asks and nothing"
    " besides, and leave alone what it does not name.",
}

_NOBODY = "Nobody watches, and nobody can answer while you work."

_REFUSED = (
    "What is refused is refused on purpose. Do not try to get round it: say in your answer what was"
    " refused, and what you could not do for that."
)

_REPORT = (
    "Only your last message is handed back, so it must stand alone: what you found or changed, with"
    " file and line; the commands that you ran and how they ended; what you did not check. Claim"
    " nothing that you have not seen."
)

_ASK = (
    "If you cannot go on without an answer from who asked, stop, and end your last message with one"
    f" line that begins with {QUESTION_MARK} and holds the question. Never ask for a password or a"
    " key."
)


def preface_of(profile: Profile, principal: str, peer: str) -> str:
    """Return the text for a task of `profile` that `principal` asks for from the node `peer`.

    Both are what the tailnet says of the caller. The text is the same for every turn of a
    conversation, because some agents keep that of the first.
    """
    who, where = _named(principal, "a user"), _named(host_label(peer), "of a peer")
    asked = f"This task came by cmesh from {who} on the machine {where}. {_NOBODY}"
    held = f"Its profile is {profile.value}. {_HOLDS[profile]}"
    return f"{asked}\n{held}\n{_REFUSED}\n{_REPORT}\n{_ASK}"


def fresh_copy(profile: Profile) -> str:
    """Return what an agent must know of a later turn's directory; empty = it is as it was left."""
    if profile not in (Profile.EDIT, Profile.BUILD):
        return ""
    return (
        "The directory is a fresh copy of the source as that is now. What you changed in an earlier"
        " turn is in it only where somebody has put it there: look before you build on it."
    )


def in_front(words: str, prompt: str) -> str:
    """Return a prompt with words of cmesh's in front, told from it by their frame."""
    return f"<cmesh>\n{words}\n</cmesh>\n\n{prompt}" if words else prompt


def _named(name: str, otherwise: str) -> str:
    # A file is put in for `@name` by one of the agents.
    return name.replace("@", " at ") if _NAME.fullmatch(name) else otherwise
