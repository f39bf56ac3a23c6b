"""What speaks for a program of an agent: the range that was tried, and its self-test here."""

import pytest

from cmesh.runner.manifest import Versions
from cmesh.runner.standing import CHECK_RETRY_S, SelfTest, refusal

TRIED = Versions(first="2.1.330", below="2.2")
INSIDE, OUTSIDE = "2.1.345 (Claude Code)", "2.2.0"
FAILED = SelfTest(state="failed", sprung=("base_url", "hook-Stop"))
UNABLE = SelfTest(state="unable", reason="it did not end within 40 s")


@pytest.mark.parametrize(
    ("versions", "version", "test", "why"),
    [
        (TRIED, INSIDE, SelfTest(), None),
        (TRIED, INSIDE, SelfTest(state="pending"), None),
        (TRIED, INSIDE, SelfTest(state="passed"), None),
        (TRIED, INSIDE, UNABLE, None),
        (TRIED, INSIDE, FAILED, "base_url, hook-Stop"),
        (TRIED, OUTSIDE, SelfTest(), "only 2.1.330 to below 2.2 were tried"),
        (TRIED, OUTSIDE, SelfTest(state="pending"), "is being checked here"),
        (TRIED, OUTSIDE, SelfTest(state="passed"), None),
        (TRIED, OUTSIDE, UNABLE, "could not run: it did not end within 40 s"),
        (TRIED, OUTSIDE, FAILED, "base_url, hook-Stop"),
        (TRIED, "", SelfTest(state="pending"), "it names no version"),
        (TRIED, "", SelfTest(state="passed"), None),
        (None, OUTSIDE, SelfTest(), None),
        (None, OUTSIDE, SelfTest(state="passed"), None),
        (None, OUTSIDE, SelfTest(state="pending"), None),
        (None, OUTSIDE, FAILED, "base_url, hook-Stop"),
    ],
)
def test_a_program_runs_where_something_speaks_for_it_and_nothing_against_it(
    versions: Versions | None, version: str, test: SelfTest, why: str | None
) -> None:
    refused = refusal("claude", version, versions, test)
    if why is None:
        assert refused is None
        return
    assert refused is not None
    assert why in refused.message
    assert refused.code == "runner_unavailable"
    assert (refused.retry_after_s == CHECK_RETRY_S) == (test.state == "pending")
    assert ("cmesh runners check claude" in refused.hint) == (test.state != "none")


@pytest.mark.parametrize(
    ("versions", "test", "why"),
    [
        (None, SelfTest(), "nobody tried it"),
        (None, SelfTest(state="pending"), "is being checked here"),
        (None, UNABLE, "could not run"),
        (None, FAILED, "base_url, hook-Stop"),
        (None, SelfTest(state="passed"), None),
        (TRIED, SelfTest(), None),
    ],
)
def test_a_manifest_of_the_owner_that_names_no_range_has_tried_nothing(
    versions: Versions | None, test: SelfTest, why: str | None
) -> None:
    refused = refusal("mine", INSIDE, versions, test, own=True)
    assert (refused is None) == (why is None)
    if refused is not None and why is not None:
        assert why in refused.message
