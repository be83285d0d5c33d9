"""The server's numbers in Prometheus' text. No tenant is a label: there may be ten thousands."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jwks_server.admin.health import Health
from jwks_server.core.snapshot import Level
from jwks_server.serving.complaints import Kind
from jwks_server.serving.limits import Phase


class Metrics(Collector):
    """Reads the numbers when they are asked for."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """Return all numbers as Prometheus reads them."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers."""
        store, follower = self._health.store, self._health.follower
        yield _gauge("tenants", "Tenants that are published.", len(store.tenants()))
        yield _gauge("keys", "Members of all key sets.", sum(p.keys for p in store))
        yield _gauge("tenants_loading", "Tenants that wait for their first load.", len(follower.unloaded))
        withheld = sum(p.key_set is None and not p.vacant for p in store)
        yield _gauge("tenants_withheld", "Tenants answered with 503.", withheld)
        unread = len(follower.reconciler.unread)
        yield _gauge("tenants_unread", "Tenants whose last reading failed as a whole.", unread)
        for level in Level:
            count = self._health.tenants_with(level)
            yield _gauge(f"tenants_with_{level.value}", f"Tenants with a {level.value}.", count)
        yield _gauge("keys_owed", "Keys published only by their removal grace.", sum(p.owed for p in store))
        yield _gauge("root_lost", "1 while the keystores folder cannot be read.", follower.root.fault is not None)
        yield _gauge("comparing", "1 while changes are found by comparing alone.", follower.watchkeeper.is_deaf)
        state_fails = self._health.state.fault is not None
        yield _gauge("state_failing", "1 while removed keys are not remembered.", state_fails)
        yield _gauge("readers", "Reader processes that live.", len(self._health.readers.pids))
        yield _counter("loads", "Times a tenant's folder was read.", follower.reconciler.loads)
        yield _counter("swaps", "Times a tenant's key set changed.", follower.reconciler.swaps)
        yield _counter("changes_missed", "Changes that no event named, found by comparing.", follower.missed)
        yield _counter("watch_rebuilds", "Times the watch was built anew.", follower.watchkeeper.rebuilds)
        yield _counter("readers_lost", "Reader processes that crashed or were ended.", self._health.readers.lost)
        yield _counter("readers_retired", "Reader processes that had read enough.", self._health.readers.retired)
        yield from self._of_listeners()

    def _of_listeners(self) -> Iterator[Metric]:
        open_now = GaugeMetricFamily(
            "jwks_server_connections", "Open connections, by what they wait for.", labels=("listener", "phase")
        )
        most = GaugeMetricFamily("jwks_server_connections_limit", "Connections at most.", labels=("listener",))
        refused = CounterMetricFamily(
            "jwks_server_refused", "Requests refused and connections ended, by reason.", labels=("listener", "reason")
        )
        for name, listener in self._health.listeners.items():
            most.add_metric((name,), listener.connections.most)
            for phase in Phase:
                open_now.add_metric((name, phase.value), listener.connections.in_phase(phase))
            for kind in Kind:
                refused.add_metric((name, kind.value), listener.complaints.counts[kind])
        yield from (open_now, most, refused)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"jwks_server_{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"jwks_server_{name}", text, value=float(value))
