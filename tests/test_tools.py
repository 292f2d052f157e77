"""No test that needs a program of others may pass by standing still in CI."""

from __future__ import annotations

import pytest

from tests.tools import module, tool


def test_a_missing_tool_skips_a_developers_test_and_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no-such-tool is not installed; \.ci/tools"):
        tool("no-such-tool")
    with pytest.raises(pytest.skip.Exception, match="no_such_module is not installed"):
        module("no_such_module")


def test_a_missing_tool_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-tool"):
        tool("no-such-tool")
    with pytest.raises(pytest.fail.Exception, match="no_such_module"):
        module("no_such_module")
