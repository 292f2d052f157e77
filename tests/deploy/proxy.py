"""`deploy/nginx.conf` as it is, run by a real nginx on free ports, over TLS with a certificate made here."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.journeys.processes import PATIENCE_SECONDS, free_port
from tests.tools import tool

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CONFIGURATION = DEPLOY / "nginx.conf"


class Proxy(msgspec.Struct, frozen=True):
    """A running nginx: where its configuration lies, its two ports, and whom a client must trust."""

    directory: Path
    https_port: int
    http_port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.https_port}"

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.directory / "tls" / "tls.crt"))

    def client(self, address: str = "127.0.0.1") -> httpx.Client:
        """A client that calls from `address`, one of the loopback network."""
        transport = httpx.HTTPTransport(verify=self.trust(), local_address=address)
        return httpx.Client(base_url=self.url, transport=transport, timeout=20)

    def reload(self) -> None:
        """What `nginx -s reload` does."""
        subprocess.run([tool("nginx"), *_configured(self.directory), "-s", "reload"], check=True, capture_output=True, timeout=30)


def install(directory: Path, upstreams: Iterable[str], **changes: str) -> Proxy:
    """The files of an nginx in `directory`: ours, but for its ports, /tmp, and what `changes` says, a directive each."""
    proxy = Proxy(directory, free_port(), free_port())
    text = CONFIGURATION.read_text().replace("/tmp/", f"{directory}/").replace("/dev/stdout", f"{directory}/access.log")
    text = text.replace("listen 8443 ", f"listen 127.0.0.1:{proxy.https_port} ").replace(
        "listen 8080;", f"listen 127.0.0.1:{proxy.http_port};"
    )
    text = text.replace("worker_processes auto", "worker_processes 1")
    (directory / "nginx.conf").write_text(text)
    write_upstreams(directory, upstreams)
    _write_certificate(directory / "tls")
    return proxy


def write_upstreams(directory: Path, servers: Iterable[str]) -> None:
    (directory / "upstream").mkdir(exist_ok=True)
    (directory / "upstream" / "instances.conf").write_text("".join(f"server {server};\n" for server in servers))


@contextmanager
def proxying(directory: Path, upstreams: Iterable[str]) -> Iterator[Proxy]:
    """nginx before these gateways, once it answers."""
    nginx = tool("nginx")
    proxy = install(directory, upstreams)
    with (directory / "nginx.log").open("wb") as log:
        process = subprocess.Popen([nginx, *_configured(directory), "-g", "daemon off;"], stdout=log, stderr=log)
        try:
            _await_answer(proxy, process)
            yield proxy
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def _configured(directory: Path) -> list[str]:
    return ["-e", str(directory / "error.log"), "-c", str(directory / "nginx.conf")]


def _await_answer(proxy: Proxy, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    with proxy.client() as client:
        while time.monotonic() < end and process.poll() is None:
            try:
                client.get("/nothing")
            except httpx.TransportError:
                time.sleep(0.01)
            else:
                return
    raise AssertionError(f"nginx did not answer:\n{(proxy.directory / 'nginx.log').read_text()}")


def _write_certificate(directory: Path) -> None:
    """A certificate for localhost and 127.0.0.1 that vouches for itself, and its key."""
    directory.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    (directory / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "tls.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
