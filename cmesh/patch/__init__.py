"""A task's patch on its way into a person's tree: judged, tried aside, then put there whole.

Read-only but for `write` and `branch`, which `cmesh apply` alone calls.
"""
