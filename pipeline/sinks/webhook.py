"""Posts events, and rows if wanted, to an address of the web.

POST <url>
Content-Type: application/json
Idempotency-Key: <the same for a request that is repeated>
X-Vpipe-Signature-256: sha256=<HMAC of the body>      with a secret

{"run": "lobby", "events": [{"event": "began", "key": ..., ...}, ...], "rows": [...]}
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from pipeline.errors import ConfigError
from pipeline.rows import Labelling
from pipeline.sinks.delivery import Away, Refused, SpooledSink, events_in, rows_in
from pipeline.threads import Stop

__all__ = ["WebhookSink"]

# Of the 4xx, those that may be over soon: an expired token, a receiver that is being put in place, too many requests.
LATER = (401, 403, 404, 407, 408, 425, 429)


class WebhookSink(SpooledSink):
    """See the module. 2xx is taken, 4xx but those of `LATER` is refused for good, anything else is tried again.

    Args:
        url: Of http or https. A name and password in it become basic authentication.
        headers: More headers of each request.
        batch: Events, or tables of up to 256 rows, of a request, at most.
        timeout_s: For each step of a request.
        rows: Whether rows are sent, too.
        secret: Key of the signature; None: none.
        name, spool_mb, thumbnails, folder, stop, live: See SpooledSink.
    """

    def __init__(
        self,
        url: str,
        *,
        folder: Path,
        headers: Mapping[str, str] | None = None,
        batch: int = 50,
        timeout_s: float = 5.0,
        spool_mb: float = 100.0,
        rows: bool = False,
        thumbnails: bool = True,
        secret: str | None = None,
        name: str = "webhook",
        stop: Stop | None = None,
        live: Mapping[str, Labelling] | None = None,
    ) -> None:
        super().__init__(
            name, folder=folder, spool_mb=spool_mb, batch=batch, rows=rows, thumbnails=thumbnails, stop=stop, live=live
        )
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii():
            raise ConfigError([f"sink {name}: url must be http://host/path or https://host/path, in ASCII"])
        self._url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
        self._headers = {"Content-Type": "application/json", "User-Agent": "vpipe"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        self._headers |= headers or {}
        self._timeout_s = timeout_s
        self._secret = None if secret is None else secret.encode()
        self._opener = urllib.request.build_opener(_NoRedirect)

    def send(self, records: Sequence[bytes], timeout_s: float) -> int:
        run = json.dumps(self.run, ensure_ascii=False).encode()
        body = b'{"run": %s, "events": [%s]' % (run, b", ".join(events_in(records)))
        if self._rows:
            body += b', "rows": [%s]' % b", ".join(rows_in(records))
        body += b"}"
        headers = self._headers | {"Idempotency-Key": hashlib.sha256(body).hexdigest()}
        if self._secret is not None:
            headers["X-Vpipe-Signature-256"] = f"sha256={hmac.new(self._secret, body, 'sha256').hexdigest()}"
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            self._opener.open(request, timeout=min(self._timeout_s, timeout_s)).close()
        except urllib.error.HTTPError as exc:
            with exc:
                if 400 <= exc.code < 500 and exc.code not in LATER:
                    raise Refused(f"HTTP {exc.code}") from None
                raise Away(f"HTTP {exc.code}") from None
        except urllib.error.URLError as exc:
            if isinstance(exc.reason, ssl.SSLCertVerificationError):
                raise Away(f"a certificate that is not trusted: {exc.reason.verify_message}; {_cure()}") from None
            told = exc.reason.strerror if isinstance(exc.reason, OSError) else None
            raise Away(told or str(exc.reason)) from None
        except OSError as exc:
            raise Away(exc.strerror or str(exc) or type(exc).__name__) from None
        except http.client.HTTPException as exc:  # its text may hold the address
            raise Away(f"no answer of HTTP ({type(exc).__name__})") from None
        return len(records)


def _cure() -> str:
    named = os.environ.get("SSL_CERT_FILE")
    if named and not os.path.isfile(named):
        return f"SSL_CERT_FILE must name a file, got {named}"
    return "SSL_CERT_FILE may name a file of authorities to trust"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET without a body, and count as taken."""

    def redirect_request(self, *_: object) -> None:
        return None
