"""An object store on loopback that speaks Cloud Storage's JSON API, as fast as the machine allows.

nginx sends the bytes of objects straight from files; a thread here answers only for listings and metadata:

    GET /storage/v1/b/BUCKET                            bucket                        thread
    GET /storage/v1/b/BUCKET/o?prefix=…&pageToken=…     listing, 1,000 names a page   thread
    GET /storage/v1/b/BUCKET/o/NAME                     metadata                      thread
    GET /storage/v1/b/BUCKET/o/NAME?alt=media           bytes, ranges too             nginx
    GET /download/storage/v1/b/BUCKET/o/NAME?alt=media  the same                      nginx
    GET /BUCKET/NAME                                    the same (XML API)            nginx

Generation, crc32c, md5, size and ETag are the objects' real ones, as clients check them. It is read-only.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from benchmarks.objects import Objects, metadata_server

_SO_MAX_PACING_RATE = 47  # <asm-generic/socket.h>; Python's socket module does not name it
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"

_CONFIG = """\
daemon off;
user {user};
worker_processes auto;
pid {home}/nginx.pid;
events {{ worker_connections 512; }}
http {{
  log_format requests '$request_method\t$request_uri\t$status\t$body_bytes_sent';
  access_log {home}/access.log requests;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  sendfile on; tcp_nopush on; tcp_nodelay on; output_buffers 2 512k; etag off; server_tokens off;
  keepalive_requests 100000000; keepalive_timeout 600s;
  map_hash_max_size 1048576; map_hash_bucket_size 512;
  map $uri $generation {{ include {home}/generations; }}
  map $uri $hash {{ include {home}/hashes; }}
  upstream metadata {{ server 127.0.0.1:{metadata}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{https} ssl;
    listen 127.0.0.1:{http};
    ssl_certificate {home}/ca.pem; ssl_certificate_key {home}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m; ssl_buffer_size 16k;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffers 16 256k; proxy_busy_buffers_size 1m;
    proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;
    location ~ ^/(?:download/)?storage/v1/b/(?<bucket>[^/]+)/o/(?<object>.+)$ {{
      if ($arg_alt = media) {{ rewrite ^ /media/$bucket/$object last; }}
      proxy_pass http://metadata;
    }}
    location /storage/v1/ {{ proxy_pass http://metadata; }}
    location /media/ {{
      internal;
      alias {data}/;
      types {{ }} default_type application/octet-stream;
      add_header ETag '"$generation"';
      add_header X-Goog-Generation $generation;
      add_header X-Goog-Metageneration 1;
      add_header X-Goog-Hash $hash;
      add_header X-Goog-Storage-Class STANDARD;
      add_header X-Goog-Stored-Content-Encoding identity;
    }}
    location / {{ rewrite ^ /media$uri last; }}
  }}
}}
"""


@dataclass(frozen=True)
class Request:
    """One line of the store's log."""

    method: str
    target: str
    status: int
    sent: int

    @property
    def is_listing(self) -> bool:
        return urlsplit(self.target).path.endswith("/o")

    @property
    def is_media(self) -> bool:
        url = urlsplit(self.target)
        return "alt=media" in url.query or not url.path.startswith("/storage/v1/")


class Store:
    """The store, running while its context lasts.

    Args:
        data: a directory of buckets, which are directories of objects. Names hold letters, digits and -._/ only.
        home: a directory for the store's own files, made here.
        limit: bytes a second that each connection gets at most. The kernel paces its packets, so the limit holds from
            the first byte for all requests on a connection together; nginx's limit_rate would give every request
            its first second's worth at once.

    Attributes:
        https, http: where it listens.
        certificate: a PEM file that makes the https side trusted.
        environment: what points google-cloud-storage, OpenSSL, requests and Go at the https side.
    """

    def __init__(self, data: Path, home: Path, *, limit: int | None = None) -> None:
        if not shutil.which(NGINX):
            raise SystemExit("nginx is not installed: run benchmarks/peers")
        home.mkdir()
        objects = Objects(data)
        self._log, self._config = home / "access.log", home / "nginx.conf"
        self._metadata = metadata_server(objects)
        self._sockets = [_listen(limit), _listen(limit)]
        https, http = (listening.getsockname()[1] for listening in self._sockets)
        self.https, self.http = f"https://localhost:{https}", f"http://localhost:{http}"
        self.certificate = home / "ca.pem"
        self.environment = {
            "STORAGE_EMULATOR_HOST": self.https,
            **dict.fromkeys(["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"], str(self.certificate)),
        }
        _certify(home)
        with (home / "generations").open("w") as generations, (home / "hashes").open("w") as hashes:
            for bucket, names in objects.buckets.items():
                for name, about in names.items():
                    generations.write(f"/media/{bucket}/{name} {about['generation']};\n")
                    hashes.write(f"/media/{bucket}/{name} crc32c={about['crc32c']},md5={about['md5Hash']};\n")
        user = f"{pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name}"
        ports = {"https": https, "http": http, "metadata": self._metadata.server_address[1]}
        self._config.write_text(_CONFIG.format(home=home, data=data, user=user, **ports))

    def __enter__(self) -> Self:
        threading.Thread(target=self._metadata.serve_forever, daemon=True).start()
        descriptors = [listening.fileno() for listening in self._sockets]
        home = self._config.parent
        self._nginx = subprocess.Popen(
            [NGINX, "-p", home, "-c", self._config, "-e", home / "error.log"],
            pass_fds=descriptors,
            env={**os.environ, "NGINX": "".join(f"{number};" for number in descriptors)},  # how it takes over sockets
        )
        trust = ssl.create_default_context(cafile=str(self.certificate))
        with socket.create_connection(self._sockets[0].getsockname(), 60) as plain:  # answers once a worker runs
            trust.wrap_socket(plain, server_hostname="localhost").close()
        return self

    def __exit__(self, *_error: object) -> None:
        self._nginx.terminate()
        self._nginx.wait(30)
        self._metadata.shutdown()
        self._metadata.server_close()
        for listening in self._sockets:
            listening.close()

    def requests(self) -> list[Request]:
        """Return what was asked since the last call, in the order of answers."""
        time.sleep(0.2)  # nginx writes the line after the last byte is out
        lines = [line.split("\t") for line in self._log.read_text().splitlines()]
        os.truncate(self._log, 0)  # nginx appends
        return [Request(method, target, int(status), int(sent)) for method, target, status, sent in lines]


def _listen(limit: int | None) -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listening.setblocking(False)  # nginx expects it of a socket that it takes over: a worker would wait in accept
    if limit:
        listening.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, limit)  # accepted connections inherit it
    return listening


def _certify(home: Path) -> None:
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost"
    extensions = ("subjectAltName=DNS:localhost,IP:127.0.0.1", "keyUsage=critical,digitalSignature,keyCertSign")
    command: list[str | Path] = ["openssl", *request.split(), "-keyout", home / "key.pem", "-out", home / "ca.pem"]
    for extension in extensions:
        command += ["-addext", extension]
    subprocess.run(command, check=True, capture_output=True)
