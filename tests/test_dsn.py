"""The servers that a URL names."""

from __future__ import annotations

import pytest

from gateway.dsn import Host, hosts, session_attributes


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://u:p@one/d", (Host("one", None),)),
        ("postgresql://one:5433/d", (Host("one", 5433),)),
        ("postgresql://u:p%40@one,two:5433/d", (Host("one", None), Host("two", 5433))),
        ("postgresql://[::1]:5434,[::2]/d", (Host("::1", 5434), Host("::2", None))),
        ("postgresql://u@/d?host=/run/one,/run/two", (Host("/run/one", None), Host("/run/two", None))),
        ("postgresql://u@/d?host=one,/run/two&port=5433", (Host("one", 5433), Host("/run/two", 5433))),
        ("postgresql://u@/d?host=one,two&port=5433,5434", (Host("one", 5433), Host("two", 5434))),
        ("postgresql://u@%2Frun%2Fone/d", (Host("/run/one", None),)),
        ("postgresql:///d", ()),
    ],
)
def test_hosts_are_found(url: str, named: tuple[Host, ...]) -> None:
    assert hosts(url) == named


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://one:port/d",
        "postgresql://one:0/d",
        "postgresql://one:65536/d",
        "postgresql://one,,two/d",
        "postgresql://[/d",
        "postgresql://u@/d?host=one,two&port=1,2,3",
        "postgresql://one/d?nothing",
    ],
)
def test_what_names_no_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any: the settings tell what is taken
        hosts(url)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql://one/d", "any"),
        ("postgresql://one,two/d", "read-write"),
        ("postgresql://one,two/d?target_session_attrs=any", "any"),
        ("postgresql://one/d?target_session_attrs=primary", "primary"),
    ],
)
def test_of_several_hosts_the_one_that_takes_writes_is_meant(url: str, wanted: str) -> None:
    assert session_attributes(url) == wanted


def test_an_unknown_session_attribute_is_refused() -> None:
    with pytest.raises(ValueError, match="takes any, primary"):
        session_attributes("postgresql://one/d?target_session_attrs=writer")
