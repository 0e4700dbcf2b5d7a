"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
USERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Measured:
    """Counters of one server, apart from those of any other in the process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "deeprec_requests_total", "Requests answered", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "deeprec_request_seconds",
            "From the request's first byte to its answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_users = Histogram(
            "deeprec_batch_users", "Users in a call of the model", buckets=USERS, registry=registry
        )
        self.waiting = Gauge("deeprec_waiting", "Questions that wait", registry=registry)
        self.unknown = Counter(
            "deeprec_unknown_items_total", "Events whose item is not known", registry=registry
        )
        self.version = Gauge(
            "deeprec_bundle",
            "1 for the version that is served",
            ["name", "version", "identity"],
            registry=registry,
        )
        self.reloads = Counter(
            "deeprec_reloads_total", "Versions taken up or refused", ["outcome"], registry=registry
        )
