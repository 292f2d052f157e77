"""The cache over HTTP: what is told of it, and that a write takes away just what was made from its tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving import running, settings_for, write_resources

CATEGORIES, PRODUCTS = "/api/v1/categories", "/api/v1/products"


@pytest.fixture(params=["memory", "redis"])
def client(request: pytest.FixtureRequest, migrated_url: str) -> Iterator[httpx.Client]:
    redis = {"REDIS_URL": request.getfixturevalue("redis_url")} if request.param == "redis" else {}
    with running(settings_for(migrated_url, WORKERS="1", **redis)) as found:
        yield found


def outcome(client: httpx.Client, path: str, **headers: str) -> str:
    response = client.get(path, headers=headers)
    assert response.status_code == 200
    assert ("age" in response.headers) == (response.headers["x-cache"] == "hit")
    return response.headers["x-cache"]


def made(client: httpx.Client, slug: str) -> str:
    response = client.post(CATEGORIES, json={"slug": slug, "name": slug})
    assert response.status_code == 201
    return response.headers["location"]


def test_a_second_read_is_a_hit_and_equal(client: httpx.Client) -> None:
    place = made(client, "lamps")
    for path in (CATEGORIES, place, f"{CATEGORIES}?sort=-slug&count=exact&fields=slug"):
        first = client.get(path)
        second = client.get(path)
        assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
        assert first.content == second.content
        assert first.headers.get("link") == second.headers.get("link")


def test_every_kind_of_write_takes_its_answers_away_before_it_is_acknowledged(client: httpx.Client) -> None:
    place = made(client, "lamps")
    for method, path, body in (
        ("POST", CATEGORIES, {"slug": "desks", "name": "Desks"}),
        ("PATCH", place, {"name": "Lights"}),
        ("DELETE", place, None),
    ):
        client.get(CATEGORIES)
        assert outcome(client, CATEGORIES) == "hit"
        assert client.request(method, path, json=body).status_code < 300
        assert outcome(client, CATEGORIES) == "miss"
    assert client.get(place).status_code == 404


def test_a_write_to_one_table_leaves_what_was_made_from_others(client: httpx.Client) -> None:
    client.get(PRODUCTS)
    assert outcome(client, PRODUCTS) == "hit"
    made(client, "lamps")
    assert outcome(client, PRODUCTS) == "hit"


def test_a_refused_write_takes_nothing_away(client: httpx.Client) -> None:
    made(client, "lamps")
    client.get(CATEGORIES)
    assert client.post(CATEGORIES, json={"slug": "lamps", "name": "Again"}).status_code == 409
    assert outcome(client, CATEGORIES) == "hit"


def test_no_cache_is_answered_anew_and_kept(client: httpx.Client) -> None:
    client.get(CATEGORIES)
    assert outcome(client, CATEGORIES, **{"Cache-Control": "no-cache"}) == "bypass"
    assert outcome(client, CATEGORIES) == "hit"


def test_what_is_not_found_is_not_kept(client: httpx.Client) -> None:
    assert client.get(f"{CATEGORIES}/1").status_code == 404
    place = made(client, "lamps")
    assert client.get(place).status_code == 200


def test_two_versions_of_one_table_take_each_others_answers_away(migrated_url: str, tmp_path: Path) -> None:
    resources = write_resources(tmp_path, {"categories": "", "kinds": "table: categories\nfields: {title: {column: name}}"})
    with running(settings_for(migrated_url, resources, WORKERS="1")) as client:
        place = made(client, "lamps")
        client.get("/api/v1/kinds")
        assert outcome(client, "/api/v1/kinds") == "hit"
        client.patch(place, json={"name": "Lights"})
        response = client.get("/api/v1/kinds")
        assert response.headers["x-cache"] == "miss"
        assert response.json()["data"][0]["title"] == "Lights"


def test_a_ttl_of_nothing_keeps_nothing(migrated_url: str, tmp_path: Path) -> None:
    resources = write_resources(tmp_path, {"categories": "cache: {ttl: 0}"})
    with running(settings_for(migrated_url, resources, WORKERS="1")) as client:
        assert [outcome(client, CATEGORIES) for _ in range(3)] == ["bypass"] * 3


def test_two_gateways_on_one_redis_take_each_others_answers_away(migrated_url: str, redis_url: str) -> None:
    settings = settings_for(migrated_url, REDIS_URL=redis_url)
    with running(settings) as one, running(settings) as other:
        place = made(one, "lamps")
        for number in range(30):
            name = f"name {number}"
            writer, reader = (one, other) if number % 2 else (other, one)
            reader.get(place)
            assert writer.patch(place, json={"name": name}).status_code == 200
            assert reader.get(place).json()["data"]["name"] == name
            assert reader.get(CATEGORIES).json()["data"][0]["name"] == name
