"""robots.txt and X-Robots-Tag, beside the standard library's reader where it knows the rule."""

import re
from urllib.robotparser import RobotFileParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.pipeline.urls import robots

PATHS = ("/", "/a", "/a/b.jpg", "/ab/c", "/b/", "/b/x.png?y=1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "User-agent: *\nDisallow:",
        "User-agent: *\nDisallow: /",
        "User-agent: *\nDisallow: /a\n\nUser-agent: cusa\nDisallow: /b/",
        "user-agent: Other\nDisallow: /\n\nUser-Agent: *\nDisallow: /b # words",
        "Disallow: /a\nUser-agent: *\nDisallow: /ab/",
        "User-agent: one\nUser-agent: cusa\nDisallow: /a/",
    ],
)
def test_parse__as_the_standard_library_where_no_two_rules_meet(text: str) -> None:
    official = RobotFileParser()
    official.parse(text.splitlines())
    rules = robots.parse(text, "cusa")
    assert [rules.allow(path) for path in PATHS] == [official.can_fetch("cusa", path) for path in PATHS]


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [  # the examples of RFC 9309, section 5
        ("User-Agent: cusa\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif", "/example/page/", True),
        ("User-Agent: cusa\nAllow: /e/p/\nDisallow: /e/p/disallowed.gif", "/e/p/disallowed.gif", False),
        ("User-Agent: *\nDisallow: *.gif$", "/x.gif", False),
        ("User-Agent: *\nDisallow: *.gif$", "/x.gif?y", True),
        ("User-Agent: *\nDisallow: /a*b*c$", "/a1b2c3c", False),
        ("User-Agent: *\nDisallow: /\nAllow: /", "/x", True),
    ],
)
def test_parse__the_longest_rule_decides(text: str, path: str, allowed: bool) -> None:
    assert robots.parse(text, "cusa").allow(path) is allowed


@given(st.text("ab*", min_size=1, max_size=8), st.booleans(), st.text("ab", max_size=10))
def test_allow__patterns_as_a_regular_expression_says(pattern: str, ends: bool, path: str) -> None:
    expected = re.match("".join(".*" if sign == "*" else sign for sign in pattern) + ("$" if ends else ""), path)
    rules = robots.Rules(((pattern + "$" * ends, False),))
    assert rules.allow(path) is (expected is None)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (["noai"], "noai"),
        (["all, NoImageAI"], "noimageai"),
        (["otherbot: noai, noimageai"], ""),
        (["CUSA: noai"], "noai"),
        (["otherbot: noai", "noimageai"], "noimageai"),
        (["otherbot: all, cusa : noai"], "noai"),
        (["cusa: all, otherbot: noai"], ""),
        (["unavailable_after: 25 Jun 2030, noai"], "noai"),
        (["nofollow"], ""),
        ([], ""),
    ],
)
def test_refused_tag__is_counted_by_name(values: list[str], word: str) -> None:
    assert robots.refused_tag(values, agent="cusa", refused=("noai", "noimageai")) == word


@pytest.mark.parametrize(
    ("agent", "path", "allowed"),
    [
        *(("first", "/x", False), ("first", "/y", True), ("first", "/z", True)),
        *(("second", "/x", True), ("second", "/y", False), ("second", "/z", False)),
        *(("third", "/x", True), ("third", "/y", False), ("third", "/z", True)),
        *(("other", "/x", True), ("other", "/y", True), ("other", "/z", True)),
    ],
)
def test_parse__rules_hold_for_the_robots_right_above_them(agent: str, path: str, allowed: bool) -> None:
    """A group begins with one or more names; the first name behind a rule begins another group."""
    text = """
    User-agent: first
    Disallow: /x
    User-agent: second
    User-agent: third
    Disallow: /y
    User-agent: second
    Disallow: /z
    """
    assert robots.parse(text, agent).allow(path) is allowed


@pytest.mark.parametrize("agent", ["cusa", "CUSA", "cusa/1.0 (+https://a.example)", "cusa 2"])
def test_a_robot_is_known_by_its_name_without_what_follows(agent: str) -> None:
    rules = robots.parse("User-agent: *\nDisallow: /\n\nUser-agent: Cusa/0.9\nDisallow: /x", agent)
    assert [rules.allow(path) for path in ("/x", "/y", "/robots.txt")] == [False, True, True]
    for header, word in (("cusa: noai", "noai"), ("Cusa: all, noimageai", "noimageai"), ("cusax: noai", "")):
        assert robots.refused_tag([header], agent=agent, refused=("noai", "noimageai")) == word
    assert robots.refused_tag(["*: noai"], agent=agent, refused=("noai",)) == "noai"


def test_rules__of_a_host_without_any_and_of_one_that_cannot_answer() -> None:
    assert robots.EVERYTHING.allow("/x")
    assert [robots.NOTHING.allow(path) for path in ("/", "/x", "/robots.txt")] == [False, False, True]
    assert robots.Rules((("/a", False), ("/a", True), ("/ab", False))).allow("/a")
    assert not robots.Rules((("/a", True), ("/ab", False))).allow("/abc")
