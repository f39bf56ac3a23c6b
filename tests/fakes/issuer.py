"""A provider of logins on loopback: a device login as codex does one, and renewals (RFC 6749).

Its tokens are JSON web tokens that nobody signed; each says when it ends.
"""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs

from typing_extensions import override

__all__ = ["ACCOUNT", "CLIENT", "Issuer", "web_token"]

ACCOUNT = "account-of-the-owner-7d1"
CLIENT = "app_test"
USER_CODE = "ABCD-1234"


def web_token(**claims: object) -> str:
    """Return a token that says these things of itself."""
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, b"s"))


class Issuer:
    """The provider in a thread of this process; a context manager.

    Attributes:
        url: of it, without a slash at its end.
        lasts_s: seconds that the next tokens last.
        refuses: the status that answers renewals instead; 0 = they are granted.
        access, refresh: tokens that were handed out, newest last.
        renewals: what was sent for each renewal.
    """

    def __init__(self) -> None:
        self.lasts_s = 3600
        self.refuses = 0
        self.access: list[str] = []
        self.refresh: list[str] = []
        self.renewals: list[dict[str, Any]] = []
        issuer = self

        class Handler(_Handler):
            fake = issuer

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def grant(self) -> dict[str, object]:
        """Return new tokens."""
        number = len(self.access) + 1
        account = {"chatgpt_account_id": ACCOUNT, "chatgpt_plan_type": "pro"}
        claims: dict[str, object] = {
            "exp": int(time.time()) + self.lasts_s,
            "jti": number,
            "https://api.openai.com/auth": account,
        }
        self.access.append(web_token(**claims))
        self.refresh.append(f"renewal-token-{number:04d}-of-the-account")
        return {
            "id_token": web_token(**claims, email="me@example.com"),
            "access_token": self.access[-1],
            "refresh_token": self.refresh[-1],
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: Issuer

    @override
    def log_message(self, format: str, *args: object) -> None:
        return

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("content-length", "0"))).decode()
        if self.path.endswith("/deviceauth/usercode"):
            code = {"device_auth_id": "device-1", "user_code": USER_CODE, "interval": "1"}
            self._json(200, code | {"expires_at": "2100-01-01T00:00:00Z"})
        elif self.path.endswith("/deviceauth/token"):
            code = {"authorization_code": "code-1", "code_challenge": "c", "code_verifier": "v"}
            self._json(200, code)
        elif self.path != "/oauth/token":
            self._json(404, {})
        elif self.headers.get("content-type") == "application/json":
            self._renew(json.loads(text))
        else:
            assert parse_qs(text)["client_id"] == [CLIENT]
            self._json(200, self.fake.grant())

    def _renew(self, asked: dict[str, Any]) -> None:
        self.fake.renewals.append(asked)
        if self.fake.refuses:
            self._json(self.fake.refuses, {"error": "invalid_grant"})
        elif asked.get("refresh_token") != self.fake.refresh[-1]:
            self._json(401, {"error": "refresh_token_reused"})
        else:
            self._json(200, self.fake.grant())

    def _json(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
