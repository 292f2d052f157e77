"""Plans of one catalog, and what of them can be found again: planning is pure, and clients ask the same again and again.

A list's plan is found by its query string, or made after a template; what reads the body of a write is found by its grant.
"""

from __future__ import annotations

from gateway.catalog.model import Resource
from gateway.query.ast import EVERYTHING, Grant, ListPlan, States, WritePlan
from gateway.query.payload import Forms, plan_create, plan_patch
from gateway.query.plan import plan_list
from gateway.query.syntax.brackets import parse_list
from gateway.query.templates import Templates

MAX_PLANS = 2000
MAX_QUERY_BYTES = 512
"""A longer query is planned anew: what strangers send must not fill the memory."""


class Plans:
    """The plans of one catalog. The oldest lists go first."""

    def __init__(self) -> None:
        self._forms = Forms()
        self._templates = Templates()
        self._known: dict[tuple[Resource, bytes, Grant], ListPlan] = {}

    def list(self, resource: Resource, query: bytes, grant: Grant = EVERYTHING) -> ListPlan:
        """The plan of a list by its raw query string. Raises ValidationFailed, anew each time."""
        if len(query) > MAX_QUERY_BYTES:
            return plan_list(resource, parse_list(query), grant)
        if not _is_hashable(grant):
            return self._templates.plan(resource, query, grant)
        place = (resource, query, grant)
        found = self._known.get(place)
        if found is None:
            found = self._templates.plan(resource, query, grant)
            if len(self._known) >= MAX_PLANS:
                del self._known[next(iter(self._known))]
            self._known[place] = found
        return found

    def create(self, resource: Resource, body: bytes, grant: Grant = EVERYTHING) -> WritePlan:
        """As `plan_create`."""
        return plan_create(resource, body, grant, self._forms.of(resource, grant))

    def patch(
        self,
        resource: Resource,
        key: tuple[str, ...],
        body: bytes,
        merge: bool,
        grant: Grant = EVERYTHING,
        states: States | None = None,
    ) -> WritePlan:
        """As `plan_patch`."""
        return plan_patch(resource, key, body, merge, grant, states, self._forms.of(resource, grant))


def _is_hashable(grant: Grant) -> bool:
    """A rule's values may hold a list."""
    return grant.rows is None or not any(isinstance(value, list) for value in grant.rows.values)
