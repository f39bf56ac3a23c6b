"""A first manifest for another agent CLI, for its owner to edit: every key, with what it is for."""

import json

from cmesh.runner.manifest import built_in_text, load_manifests

__all__ = ["manifest_text"]

_COPIED = """\
# A copy of the manifest that comes with cmesh. While this file is here it is the one that counts,
# also after an update of cmesh; delete it to go back.

"""


def manifest_text(name: str, program: str) -> str:
    """Return a manifest of that name; of a built-in one the copy, whatever `program` is.

    `program` is a name to look for, or an absolute path.
    """
    if name in load_manifests():
        return _COPIED + built_in_text(name)
    # A JSON text of these characters is a TOML one as well (toml.io, basic strings).
    quoted = json.dumps(program, ensure_ascii=False)
    return _TEMPLATE.replace("@NAME@", name).replace("@PROGRAM@", quoted)


_TEMPLATE = """\
# How cmesh starts `@NAME@`. Every key: docs/runner-manifests.md. A running daemon takes up a change
# by itself; `cmesh runners check @NAME@` says what is still wrong.
schema_version = 1
name = "@NAME@"

# Looked for on your login shell's PATH, or an absolute path.
program = @PROGRAM@

# Its arguments, without a person: no question, no colour, and its steps as JSON if it can.
# The prompt comes on standard input. Placeholders: {task_id}, {session_id}, {home}, {tmp},
# {directory}, {model}, {base_url}, {cost_usd}, {turns}, {preface}.
argv = []

# How its standard output is read. "output" takes any text, and its end is the summary; exit status
# 0 means that it worked. If it speaks as one of these does, its steps and tokens are told as well:
# "claude-stream-json", "codex-json", "gemini-stream-json", "opencode-json".
parser = "output"

# What makes it print its version and end. Left empty, its version is not known.
version_argv = ["--version"]

# true only when it keeps to a budget, told by `cost_usd` of [options], and its parser reads a cost.
reports_cost = false
# What its parser reads before the end, of "turns" and "tokens": the worker can hold it to these.
reports = []
install_hint = ""

# A task is ended when the program has printed nothing for so many seconds. Left out: never.
# idle_s = 600

# Where it starts instead of the task's directory, below its HOME: for a program that obeys what
# lies where it starts.
# cwd = "work"

# For an agent with a model: cmesh tells it, in front of the prompt, who asks, what holds it, and how
# to report and to ask. Where it takes system text, `system` of [options] passes {preface} instead.
# preface_in_prompt = true

# Names in a directory that it would act on whatever it is told; a task there is refused.
# refuses = [".@NAME@"]

# The versions that you have tried with a hostile directory: hooks, servers, settings and texts in
# there must start nothing and instruct nobody. Without this table it runs in `full` only.
# [versions]
# first = "1.0.0"
# below = "1.1"

# Further arguments by profile. One that is not named here cannot run.
[profiles]
query = []
edit = []
build = []
full = []

# Arguments that are added when there is something to say.
# [options]
# model = ["--model", "{model}"]
# base_url = ["--api", "{base_url}"]

# Its own key, from the 0600 file that `key_file` of [runners.@NAME@] in config.toml names.
# [credential]
# variable = "EXAMPLE_API_KEY"
# base_url_variable = "EXAMPLE_BASE_URL"

# Has the daemon add the key to each request, so that a task in a sandbox never holds it: for a
# program that takes the URL of its model's API. Left out: the task holds the key.
# [credential.gateway]
# base_url = "https://api.example.com/v1"
# header = "authorization"
# scheme = "Bearer"
# routes = ["POST /chat"]
# headers = ["x-example-*"]

# How it logs in with an account, which the gateway then adds: see docs/runner-manifests.md.
# [credential.account]
# argv = ["login"]
# file = "auth.json"
# access = "tokens.access_token"

# What it must reach from a sandbox, on port 443. Left out: nothing.
# [network]
# hosts = ["api.example.com"]

# How it keeps a conversation. Left out: no follow-up turns.
# [session]
# id = "forced"           # "read" when the program makes the id, and its output says which
# new = ["--session", "{session_id}"]
# resume = ["--continue", "{session_id}"]
# home = ".example/sessions"
# file = "{session_id}.json"
# adds_up_cost = false
# adds_up_tokens = false
# same_directory = false  # true when it can go on only where it began

# Variables, beside PATH, LANG, HOME and TMPDIR. Each task has a HOME of its own, empty but for this:
# [env]
# EXAMPLE_HOME = "{home}/.example"
# [files]
# ".example/settings.json" = "{}"
"""
