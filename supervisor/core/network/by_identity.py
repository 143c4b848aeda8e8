"""Cache keys that compare by identity, and the list of what the plan and the layout remember.

With 500 tunnels and 10,000 destinations a session's change concerns one lane. All the rest must neither be
computed nor hashed again: the hash of ten thousand networks alone costs 1.5 ms. So a part that only the
configuration changes is the same object until a reload, and caches of it are keyed by that object:

| function | is computed again when | because |
|---|---|---|
| `failover.directory` | the configuration changes | an index of all destinations (20-40 ms at 10,000) |
| `failover.choose` | a destination changes its tunnel; else it returns `before` itself | only groups of
tunnels that share destinations are looked at | | `plan._carries_of` | the configuration changes, or a tunnel
uses its other slot | a `Carry` for each destination and each tunnel that reaches it | | `plan._carries` | a
destination changes its tunnel, or the above | so that `NetworkPlan.carries` stays one object | |
`wanted._ground` | the configuration changes | routes and elements of the destinations, longest prefix first |
| `wanted._of_destinations` | `NetworkPlan.carries` is another object | the same with the lanes that carry
them | | `wanted._of_lane` | that lane or its interface changes | routes and elements of one lane | |
`wanted._of_gates`, `rules.leading`, `rules.returning` | access rules, the set of lanes or of interfaces
changes | |

Everything else is a plain function of its arguments. Losing any of these caches costs time and changes no
result.
"""

from __future__ import annotations

from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")


class ByIdentity(Generic[ValueT]):
    """A value as a cache key: equal only to itself. The cache keeps it alive, so its id is not
    given to another one.
    """

    __slots__ = ("value",)

    def __init__(self, value: ValueT) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)
