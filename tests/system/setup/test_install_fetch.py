"""`scripts/install.sh` and a release that comes over the network, or does not come whole."""

import hashlib
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typing_extensions import override

from tests.system.setup.home import INSTALLER, Home

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

NAME = "cmesh-0.1.0-cp311-abi3-manylinux_2_28_{}.whl"
CONTENT = b"not a wheel, but what its sum says" * 1000
FETCHERS = ("curl", "wget", "python")
BUNDLE = "SHA256SUMS.sigstore.json"


class Served(http.server.BaseHTTPRequestHandler):
    """Gives files away; `cut` of them only the first half. Notes what it was asked for."""

    files: dict[str, bytes]
    cut: bool
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        content = self.files.get(self.path.rpartition("/")[2])
        if content is None:
            self.send_error(404)
            return
        half = self.cut and not self.path.endswith("SHA256SUMS")
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if half else content)

    @override
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served() -> Iterator[tuple[type[Served], str]]:
    """Serve a release of one false wheel on loopback; return the handler and its address."""
    names = [NAME.format(cpu) for cpu in ("x86_64", "aarch64")]
    digest = hashlib.sha256(CONTENT).hexdigest()
    sums = "".join(f"{digest}  {name}\n" for name in names).encode()
    files = {"SHA256SUMS": sums} | dict.fromkeys(names, CONTENT)
    handler = type("Handler", (Served,), {"files": files, "cut": False, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield handler, f"http://127.0.0.1:{server.server_port}/v0.1.0"
        server.shutdown()
        thread.join()


def only(home: Home, fetcher: str) -> dict[str, str]:
    """Return a PATH with everything that the installer calls, and one program to fetch with."""
    for folder in ("/usr/bin", "/bin"):
        for program in Path(folder).iterdir():
            place = home.tools / program.name
            if program.name not in ("curl", "wget") and not place.is_symlink():
                place.symlink_to(program)
    if fetcher != "python":
        program = shutil.which(fetcher)
        if program is None:
            pytest.skip(f"no `{fetcher}` on this machine")
        (home.tools / fetcher).symlink_to(program)
    return {"PATH": str(home.tools)}


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_download_that_was_cut_off_installs_nothing(
    fetcher: str, home: Home, served: tuple[type[Served], str]
) -> None:
    handler, address = served
    handler.cut = True
    done = home.install(address, variables=only(home, fetcher))
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert any(path.endswith(".whl") for path in handler.asked)
    assert home.snapshot() == {}


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_what_came_whole_is_what_the_environment_is_made_of(
    fetcher: str, home: Home, served: tuple[type[Served], str]
) -> None:
    # The sum is right, so the installer gets as far as to hand it over; it is no wheel.
    done = home.install(served[1], "--uv", "--offline", variables=only(home, fetcher))
    assert done.returncode == 1
    assert "the packages that cmesh needs could not be installed" in done.stderr
    assert home.snapshot() == {}


def test_without_a_network_it_says_what_to_do(home: Home) -> None:
    done = home.install("https://127.0.0.1:9/v0.1.0")
    assert done.returncode == 1
    assert "`https://127.0.0.1:9/v0.1.0/SHA256SUMS` could not be fetched" in done.stderr
    assert "copy the release here: install.sh --from FOLDER" in done.stderr
    assert home.snapshot() == {}


def test_an_address_that_anyone_on_the_way_could_change_is_refused(home: Home) -> None:
    done = home.install("http://example.com/v0.1.0")
    assert done.returncode == 1
    assert "is not an https address" in done.stderr


def test_a_proxy_is_used(home: Home, served: tuple[type[Served], str]) -> None:
    handler, address = served
    handler.cut = True
    proxy = {"http_proxy": address.removesuffix("/v0.1.0"), "no_proxy": ""}
    home.install("http://localhost:9/v0.1.0", variables=proxy)
    assert handler.asked[0] == "http://localhost:9/v0.1.0/SHA256SUMS"


def test_a_name_in_the_sums_that_is_a_path_is_no_wheel(home: Home, tmp_path: Path) -> None:
    place = tmp_path / "release"
    place.mkdir()
    lines = [f"{'0' * 64}  ../{NAME.format(cpu)}\n" for cpu in ("x86_64", "aarch64")]
    (place / "SHA256SUMS").write_text("".join(lines), "utf-8")
    done = home.install(place)
    assert done.returncode == 1
    assert "the release has no wheel for" in done.stderr


class Signed:
    """A release with a signature, and an installer that knows the signer."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        lines = [f"{'0' * 64}  {NAME.format(cpu)}\n" for cpu in ("x86_64", "aarch64")]
        (place / "SHA256SUMS").write_text("".join(lines), "utf-8")
        (place / BUNDLE).write_text("{}", "utf-8")
        text = INSTALLER.read_text("utf-8").replace(
            "SIGNER_IDENTITY=''", "SIGNER_IDENTITY='me@example.com'"
        )
        self.script = place / "install.sh"
        self.script.write_text(
            text.replace("SIGNER_ISSUER=''", "SIGNER_ISSUER='https://id.example'"), "utf-8"
        )


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    return Signed(tmp_path / "release")


@pytest.mark.parametrize("verifier", ["sigstore", "cosign"])
def test_a_signature_is_checked_by_what_can_check_it(
    verifier: str, home: Home, signed: Signed
) -> None:
    home.tool(verifier, f'echo "$@" > {home.base}/called')
    done = home.install(signed.place, script=signed.script)
    assert "the signature of me@example.com is good, says " + verifier in done.stdout
    called = (home.base / "called").read_text("utf-8")
    for word in (f"/{BUNDLE}", "me@example.com", "https://id.example", "/SHA256SUMS"):
        assert word in called


@pytest.mark.parametrize("verifier", ["sigstore", "cosign"])
def test_a_signature_of_another_is_refused(verifier: str, home: Home, signed: Signed) -> None:
    home.tool(verifier, "echo certificate of another; exit 1")
    done = home.install(signed.place, script=signed.script)
    assert done.returncode == 1
    assert "the signature of SHA256SUMS is not that of me@example.com" in done.stderr
    assert home.snapshot() == {}


def test_a_signature_that_was_left_out_is_refused_where_it_could_be_checked(
    home: Home, signed: Signed
) -> None:
    home.tool("cosign", "exit 0")
    (signed.place / BUNDLE).unlink()
    done = home.install(signed.place, script=signed.script)
    assert done.returncode == 1
    assert "the signature of me@example.com is missing" in done.stderr
    assert home.snapshot() == {}


def test_a_signature_that_nobody_checked_is_not_called_good(home: Home, signed: Signed) -> None:
    done = home.install(signed.place, script=signed.script)
    assert "neither sigstore nor cosign is here, so the signature is not checked" in done.stdout
    unknown = home.install(signed.place)
    assert "this script names no signer, so the signature is not checked" in unknown.stdout
    (signed.place / BUNDLE).unlink()
    unsigned = home.install(signed.place, script=signed.script)
    assert "no signature came with this release" in unsigned.stdout
    assert "is good" not in done.stdout + unknown.stdout + unsigned.stdout
