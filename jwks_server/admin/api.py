"""The private listener: is it alive, is it ready, what are its numbers. For the operator's own network only.

`/livez` answers as long as the event loop does. `/readyz` is 200 when every tenant had its first load and the tree is
there, else 503; what is wrong without making the answers wrong is listed as degraded. `/metrics` is Prometheus' text.
"""

from collections.abc import Iterator
from http import HTTPStatus

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from jwks_server.core.snapshot import Level
from jwks_server.following.reconcile import Reconciler
from jwks_server.following.store import Store
from jwks_server.following.watchkeeper import Supervisor
from jwks_server.readers.pool import Workers
from jwks_server.state.directory import Memory


class Health:
    """What the parts of the server say of themselves, gathered when somebody asks."""

    def __init__(
        self, store: Store, reconciler: Reconciler, supervisor: Supervisor, memory: Memory, workers: Workers
    ) -> None:
        self._store = store
        self._reconciler = reconciler
        self._supervisor = supervisor
        self._memory = memory
        self._workers = workers

    def not_ready(self) -> list[str]:
        """Return why answers may be missing or old."""
        reasons = []
        if self._supervisor.root_fault is not None:
            reasons.append(self._supervisor.root_fault)
        if self._reconciler.unloaded:
            reasons.append(f"{self._reconciler.unloaded} tenants wait for their first load")
        return reasons

    def degraded(self) -> list[str]:
        """Return what is wrong while the answers are right."""
        reasons = [fault for fault in (self._supervisor.watch_fault, self._memory.fault) if fault is not None]
        faulty = self._tenants_with(Level.FAULT)
        if faulty:
            reasons.append(f"{faulty} tenants have faulty files; 'jwks-server check' and the log name them")
        if self._reconciler.unread:
            reasons.append(f"{self._reconciler.unread} tenants cannot be read; the log names them")
        return reasons

    def metrics(self) -> Iterator[Metric]:
        """Yield the numbers; none is a label of a tenant's, of which there may be ten thousands."""
        supervisor, reconciler = self._supervisor, self._reconciler
        yield _gauge("tenants", "Tenants that are published.", len(self._store.tenants()))
        yield _gauge("keys", "Members of all key sets.", sum(len(p.kids) for p in self._store))
        yield _gauge("tenants_loading", "Tenants that wait for their first load.", reconciler.unloaded)
        yield _gauge("tenants_withheld", "Tenants answered with 503.", sum(p.key_set is None for p in self._store))
        yield _gauge("tenants_unread", "Tenants whose last reading failed as a whole.", reconciler.unread)
        for level in Level:
            yield _gauge(f"tenants_with_{level.value}", f"Tenants with a {level.value}.", self._tenants_with(level))
        yield _gauge("keys_owed", "Keys published only by their removal grace.", sum(p.owed for p in self._store))
        yield _gauge("root_lost", "1 while the keystores folder cannot be read.", supervisor.root_fault is not None)
        yield _gauge("comparing", "1 while changes are found by comparing alone.", supervisor.comparing)
        yield _gauge("memory_failing", "1 while removed keys are not remembered.", self._memory.fault is not None)
        yield _gauge("workers", "Reader processes that live.", len(self._workers.pids))
        yield _counter("loads", "Times a tenant's folder was read.", reconciler.loads)
        yield _counter("swaps", "Times a tenant's key set changed.", reconciler.swaps)
        yield _counter("changes_missed", "Changes that no event named, found by comparing.", supervisor.missed)
        yield _counter("watch_rebuilds", "Times the watch was built anew.", supervisor.rebuilds)
        yield _counter("readers_lost", "Reader processes that died or were ended.", self._workers.lost)

    def _tenants_with(self, level: Level) -> int:
        return sum(any(problem.level is level for problem in publication.problems) for publication in self._store)


class AdminHandler:
    """Answers the private listener's requests."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._registry = CollectorRegistry()
        self._registry.register(_HealthCollector(health))

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET, HEAD"})
        match request.path:
            case "/livez":
                return web.json_response({"status": "alive"})
            case "/readyz":
                return self._ready()
            case "/metrics":
                text = generate_latest(self._registry)
                return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
            case _:
                return web.json_response({"paths": ["/livez", "/readyz", "/metrics"]}, status=HTTPStatus.NOT_FOUND)

    def _ready(self) -> web.Response:
        reasons, degraded = self._health.not_ready(), self._health.degraded()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        word = "not ready" if reasons else "degraded" if degraded else "ready"
        body = {"status": word, "reasons": reasons, "degraded": degraded}
        return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})


class _HealthCollector(Collector):
    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        return self._health.metrics()


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"jwks_server_{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"jwks_server_{name}", text, value=float(value))
