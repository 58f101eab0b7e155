"""No network, no trust, no answer, no extra: one line, the right exit code, and nothing secret in it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from moeplan.hub import is_hub_id
from moeplan.hub_errors import plain_endpoint
from tests.moeplan.hub.conftest import Moeplan, assert_refused
from tests.moeplan.hub.server import HubServer


def test_nobody_listens(moeplan: Moeplan) -> None:
    done = moeplan("memory", "acme/Big-Llama", HF_ENDPOINT="http://127.0.0.1:9")
    assert_refused(done, 3, "http://127.0.0.1:9 cannot be reached: [Errno 111] Connection refused")


def test_no_such_host(moeplan: Moeplan) -> None:
    done = moeplan("memory", "acme/Big-Llama", HF_ENDPOINT="http://hub.invalid")
    assert done.returncode == 3
    assert done.stderr.startswith("moeplan: http://hub.invalid cannot be reached: ")


def test_no_tls(hub: HubServer, moeplan: Moeplan) -> None:
    done = moeplan("memory", "acme/Big-Llama", HF_ENDPOINT=hub.url.replace("http:", "https:"))
    assert done.returncode == 3
    assert "cannot be reached: [SSL" in done.stderr
    assert done.stderr.count("\n") == 1


def test_silence(hub: HubServer, moeplan: Moeplan) -> None:
    hub.delay_s = 30.0
    done = moeplan("memory", "acme/Big-Llama", HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert_refused(done, 3, f"{hub.url} cannot be reached: no answer in time")


def test_offline(moeplan: Moeplan, hub: HubServer, environment: dict[str, str]) -> None:
    done = moeplan("memory", "acme/Big-Llama", HF_HUB_OFFLINE="1")
    cache = f"{environment['HF_HOME']}/hub"
    assert_refused(done, 2, f"HF_HUB_OFFLINE is set, and acme/Big-Llama is not in the cache at {cache}")
    assert hub.requests == []


def test_user_and_password_of_a_mirror_are_not_shown(moeplan: Moeplan) -> None:
    done = moeplan("memory", "acme/Big-Llama", HF_ENDPOINT="http://me:hf_SecretPassword@127.0.0.1:9")
    assert_refused(done, 3, "http://127.0.0.1:9 cannot be reached: [Errno 111] Connection refused")
    assert plain_endpoint("http://me:word@mirror/x/") == "http://mirror/x"


def test_without_the_extra(environment: dict[str, str]) -> None:
    program = (
        "import sys\nsys.modules['huggingface_hub'] = None\n"
        "from moeplan.cli import main\nsys.exit(main(['memory', 'acme/Big-Llama:Q4_K_M']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert_refused(done, 2, "install moeplan[hub] to read acme/Big-Llama:Q4_K_M")


def test_certificate_that_nobody_signed(moeplan: Moeplan, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    names = ("-keyout", "key.pem", "-out", "cert.pem", "-days", "1", "-subj", "/CN=127.0.0.1")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as plain, context.wrap_socket(plain, server_side=True) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        greeter = threading.Thread(target=greet, args=(server,))
        greeter.start()
        done = moeplan("memory", "acme/Big-Llama", HF_ENDPOINT=url)
        greeter.join()
    assert done.returncode == 3
    assert done.stderr.startswith(f"moeplan: {url} cannot be trusted: [SSL: CERTIFICATE_VERIFY_FAILED]")


def greet(server: ssl.SSLSocket) -> None:
    """One handshake, which the other end breaks off."""
    with contextlib.suppress(OSError):
        server.accept()


@pytest.mark.parametrize(
    "text", ["./acme/Big", "acme/model.gguf", "a/b/c", "acme/", "/acme", "acme/x:", "kimi", "a/..", ""]
)
def test_what_is_no_repository(text: str) -> None:
    assert not is_hub_id(text)


@pytest.mark.parametrize("text", ["acme/Big", "acme/Big_Llama-70B.v2", "acme/Big:Q4_K_M", "a/b:UD-Q2_K_XL"])
def test_what_may_be_one(text: str) -> None:
    assert is_hub_id(text)


def test_a_wrong_path_is_no_reason_to_ask(hub: HubServer, moeplan: Moeplan) -> None:
    done = moeplan("memory", "./acme/Big-Llama")
    assert (done.returncode, done.stderr) == (2, "moeplan: unknown file or folder './acme/Big-Llama'\n")
    assert hub.requests == []
