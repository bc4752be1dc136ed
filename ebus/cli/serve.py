"""`ebus serve`: run the server."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial

import click
import msgspec

from ebus.cli.failing import fail
from ebus.cli.logs import LogFormat, set_up_logs
from ebus.config import Config, ConfigError, load_config
from ebus.core.address import shown
from ebus.core.errors import EbusError, StoreBusy
from ebus.http.handover import Handover
from ebus.http.reload import load_first
from ebus.http.reload_alone import AloneReloads, Take
from ebus.http.reload_workers import Overseer, WorkerReloads
from ebus.http.roster import Counters
from ebus.http.server import Reloads, listen, run
from ebus.http.tenancy import Tenancy
from ebus.http.workers import MAX_WORKERS, Worker, Workers
from ebus.tenants.claim import Claim
from ebus.tenants.merging import with_registered
from ebus.tenants.place import registry_path
from ebus.tenants.registry import Registry
from ebus.tenants.trash import finish_deletions

logger = logging.getLogger("ebus")


@click.command()
@click.option(
    "--config",
    "-config",
    "config_file",
    metavar="FILE",
    help="The tenants to serve. Without it: one tenant, from API_KEY and DB_PATH.",
)
@click.option("--host", help="The interface to listen on.  [default: all]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="The port to listen on; 0 takes any.  [default: PORT, or 8080]",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Lines for people, or JSON for machines.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, MAX_WORKERS),
    default=1,
    show_default=True,
    help="Processes that share the port and the data.",
)
@click.option("--access-log", is_flag=True, help="Log every request.")
def serve(
    config_file: str | None,
    host: str | None,
    port: int | None,
    log_format: LogFormat,
    workers: int,
    access_log: bool,
) -> None:
    """Serve the tenants of a config file, or a single tenant.

    These are read from the environment: PORT, RATE_LIMIT and RATE_BURST (requests per second
    of one tenant), ENABLE_GZIP, READ_TIMEOUT, WRITE_TIMEOUT, IDLE_TIMEOUT, SHUTDOWN_TIMEOUT
    (30s, 2m, 500ms), MAX_CONNECTIONS, MAX_INFLIGHT_BODY_BYTES, OTEL_TRACES_EXPORTER, and for
    a single tenant API_KEY or API_KEY_SHA256, ADMIN_KEY_SHA256, DB_PATH and TRUSTED_PROXIES.
    """
    set_up_logs(log_format)
    # It would end the process; once it serves, the config is read again.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        loaded = load_first(config_file, os.environ) if config_file else None
        config = loaded.config if loaded else load_config(None, os.environ)
    except ConfigError as error:
        fail(str(error))
    if host is not None:
        config = msgspec.structs.replace(config, host=host)
    if port is not None:
        config = msgspec.structs.replace(config, port=port)
    try:
        claim, config = claimed(config)
    except EbusError as error:
        fail(f"Failed to start: {error}" if not isinstance(error, ConfigError) else str(error))
    if loaded is not None:
        loaded = msgspec.structs.replace(loaded, config=config)
    try:
        sockets = listen(config.host, config.port, workers=workers)
    except (OSError, UnicodeError) as error:
        fail(_cannot_listen(config, error))
    _say_what_starts(config)
    started = partial(_say_it_is_up, config, sockets[0], claim)
    counters = Counters(config, workers=workers)
    serve_on = partial(_serve, access_log=access_log, counters=counters)
    status = 0
    if workers == 1:
        reloading = partial(AloneReloads, loaded, counters, os.environ) if loaded else None
        serve_on(config, sockets[0], started=started, reloading=reloading)
    else:
        handover = Handover()
        overseer = Overseer(loaded, counters, os.environ, handover) if loaded else None

        def serve_as(worker: Worker) -> None:
            follow, current = None, config
            if overseer is not None:
                current = overseer.config
                follow = partial(
                    WorkerReloads,
                    handover,
                    counters,
                    worker.place,
                    overseer.generation,
                    worker.ask_to_follow,
                )
            serve_on(
                current,
                worker.taken,
                started=worker.say_ready,
                lifeline=worker.lifeline,
                place=worker.place,
                reloading=follow,
            )

        status = Workers(sockets, serve=serve_as, started=started, overseer=overseer).run()
    if status:
        sys.exit(status)
    logger.info("Server stopped")


def _serve(
    config: Config,
    taken: socket.socket,
    *,
    access_log: bool,
    counters: Counters,
    started: Callable[[], None],
    lifeline: int | None = None,
    place: int = 0,
    reloading: Callable[[Tenancy, Take], Reloads] | None = None,
) -> None:
    doing = "start"

    def note_start() -> None:
        nonlocal doing
        doing = "stop cleanly"
        started()

    try:
        run(
            config,
            taken,
            access_log=access_log,
            counters=counters,
            started=note_start,
            lifeline=lifeline,
            place=place,
            reloading=reloading,
        )
    except EbusError as error:
        fail(f"Failed to {doing}: {error}")
    finally:
        taken.close()


def _say_what_starts(config: Config) -> None:
    if config.single_tenant:
        logger.info("=== ebus Server ===")
    else:
        logger.info("=== ebus Multi-Tenant Server ===")
        logger.info("Config file: %s", config.config_file)


def claimed(config: Config) -> tuple[Claim | None, Config]:
    """The servers' right to the registry of tenants, and the config with its tenants.

    None where there is no registry and nobody could make tenants in one. Held until the process
    and those that it forks have ended. Raises `EbusError`.
    """
    path = registry_path(config)
    if path is None or not (config.admins or path.exists()):
        return None, config
    claim = Claim.take_for_server(path.parent)
    if claim is None:
        raise StoreBusy(f"a command has {path} for too long, and is changing it")
    with Registry(path) as registry:
        if claim.is_sole:
            finish_deletions(config, registry)
        claim.share()
        return claim, with_registered(config, registry.read())


def _say_it_is_up(config: Config, taken: socket.socket, claim: Claim | None) -> None:
    names = " ".join(tenant.name for tenant in config.tenants)
    if config.single_tenant:
        logger.info("Database: %s", os.path.join(config.data_dir, f"{names}.db"))
    else:
        logger.info("Initialized %d tenants: [%s]", len(config.tenants), names)
        if config.engine.partition(":")[2].startswith("//"):  # which has a place of its own
            logger.info("Engine: %s", shown(config.engine))
        else:
            logger.info("Data directory: %s", config.data_dir)
    port = taken.getsockname()[1]
    if claim is not None:
        here = _LOOPBACKS.get(config.host, config.host)
        claim.say(f"http://{_address(here, port)}")
    logger.info("Server listening on %s", _address(config.host, port))
    for warning in config.warnings:
        logger.warning("%s", warning)


_LOOPBACKS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not to listen
"""Where who listens everywhere is found from this machine."""


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cannot_listen(config: Config, error: OSError | UnicodeError) -> str:
    reason = error.strerror if isinstance(error, OSError) else "no name of a host"
    reason = (reason or str(error)).lower()
    return (
        f"Failed to listen on {_address(config.host, config.port)}: {reason}; "
        f"choose another port or interface with --port and --host"
    )
