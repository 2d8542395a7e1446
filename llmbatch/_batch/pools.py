"""The deployments of one run: their pools, senders and configured limits."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from llmbatch._deployments.member import Member
from llmbatch._deployments.pool import Pool
from llmbatch._deployments.pool_sender import MemberRoute, MemberSender, PoolSender
from llmbatch._limits.limiter import Limiter
from llmbatch._request.circuit_breaker import CircuitBreaker
from llmbatch._request.plans import ChatPlan, DeploymentPlan, EmbeddingsPlan
from llmbatch._request.run_watch import RunWatch
from llmbatch._request.sender import Sender


class _Senders(Protocol):
    """What a run makes senders of."""

    watch: RunWatch

    def single_sender(self, plan: ChatPlan | EmbeddingsPlan) -> Sender: ...
    def limiter_of(self, plan: ChatPlan | EmbeddingsPlan) -> Limiter: ...
    def breaker_of(self, key: Any, place: Mapping[str, str]) -> CircuitBreaker: ...
    def sender_arguments(self, plan: ChatPlan | EmbeddingsPlan) -> dict[str, Any]: ...


class Pools:
    """The pools of a run: one for each set of deployments that may answer a request."""

    def __init__(self, run: _Senders) -> None:
        self._run = run
        self._members: dict[tuple[str, Limiter], Member] = {}
        self._pools: dict[frozenset[Member], Pool] = {}
        self._configured: contextlib.ExitStack | None = None

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a deployment."""
        return sum(pool.waiting for pool in self._pools.values())

    def sender(self, plan: ChatPlan | EmbeddingsPlan) -> Sender:
        """Return the sender of a plan that has deployments. A single one needs no pool."""
        first = plan.deployments[0]
        if len(plan.deployments) == 1 and first.deployment.max_in_flight is None:
            self._member(first)
            sender = replace(self._run.single_sender(first.plan), deployment=first.deployment.name)
            sender.timeout = first.deployment.timeout or sender.timeout
            return sender
        routes = dict(self._route(plan, one) for one in plan.deployments)
        key = frozenset(routes)
        if key not in self._pools:
            self._pools[key] = Pool(list(routes))
        pool = self._pools[key]
        target = plan.target
        breaker = self._run.breaker_of(pool, {"provider": f"{len(routes)} deployments", "model": target.name})
        limiter = next(iter(routes)).limiter
        arguments = {**self._run.sender_arguments(first.plan), "target": target}
        return PoolSender(**arguments, limiter=limiter, breaker=breaker, pool=pool, routes=routes)

    def configure(self, configured: contextlib.ExitStack) -> None:
        """Apply the limits of deployments until `configured` is closed."""
        self._configured = configured
        for member in self._members.values():
            self._configure(member, configured)

    def close(self) -> None:
        """Listen to no limiter any more."""
        self._configured = None
        for pool in self._pools.values():
            pool.close()

    def _route(self, plan: ChatPlan | EmbeddingsPlan, one: DeploymentPlan) -> tuple[Member, MemberRoute]:
        member = self._member(one)
        arguments = self._run.sender_arguments(one.plan) | {"deployment": one.deployment.name}
        sender = MemberSender(**arguments, limiter=member.limiter, breaker=member)
        sender.timeout = one.deployment.timeout or sender.timeout
        return member, MemberRoute(sender, plan.params, one.plan.params)

    def _member(self, one: DeploymentPlan) -> Member:
        limiter = self._run.limiter_of(one.plan)
        key = one.deployment.name, limiter
        if key not in self._members:
            self._members[key] = member = Member(one.deployment, limiter)
            self._run.watch.limiters[limiter]["deployment"] = one.deployment.name
            if self._configured is not None:
                self._configure(member, self._configured)
        return self._members[key]

    @staticmethod
    def _configure(member: Member, configured: contextlib.ExitStack) -> None:
        its = member.deployment
        if its.requests_per_minute or its.tokens_per_minute:
            configured.enter_context(member.limiter.configured(its.requests_per_minute, its.tokens_per_minute))
