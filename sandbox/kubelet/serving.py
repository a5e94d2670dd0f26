"""Serves an ASGI application on a loopback port inside this program's event loop."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.types import ASGIApp

from sandbox.ports import LOOPBACK

# Seconds that open requests get to finish when the server ends.
SHUTDOWN_SECONDS = 1


class Server(uvicorn.Server):
    """uvicorn without its own signal handling; set `should_exit` to end `serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def loopback_server(app: ASGIApp, certificate: Path | None = None) -> Server:
    """Return a server for `app`; it uses TLS if `certificate` (a PEM file with key and certificate) is given."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        # uvicorn adds no headers: the proxy passes the headers of the pods unchanged.
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        ssl_keyfile=certificate,
        ssl_certfile=certificate,
    )
    return Server(config)


def listen(port: int) -> socket.socket:
    """Return a listening socket on loopback. Raises OSError, which names the port, when the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {LOOPBACK}:{port}: {error.strerror}") from error
    return listener


def self_signed(path: Path) -> Path:
    """Write a new self-signed key and certificate for loopback to `path`, as a kubelet does by default; return it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sandbox-kubelet")])
    now = datetime.now(UTC)
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK)), x509.DNSName("localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(addresses, critical=False)
        .sign(key, hashes.SHA256())
    )
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
