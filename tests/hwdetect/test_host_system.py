from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwdetect import software as software_module
from hwdetect.host_system import container, network, nvidia_on_bus
from hwdetect.inventory import known
from hwdetect.model_folder import model_folder
from hwdetect.software import software
from tests.hwdetect.conftest import WriteTree

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0
   1: 0100007F:0016 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0
"""
TCP6 = TCP.replace("0100007F:1F40", "00000000000000000000000000000000:7530")


def test_ports_on_which_something_listens(write_tree: WriteTree) -> None:
    root = write_tree({"proc/net/tcp": TCP, "proc/net/tcp6": TCP6})
    assert known(network(root).listening_ports) == (8000, 30000)


def test_a_port_of_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = known(network(Path("/")).listening_ports)
        assert ports is not None and server.getsockname()[1] in ports


def test_without_proc_the_ports_are_not_known(tmp_path: Path) -> None:
    ports = network(tmp_path).listening_ports
    assert ports is not None and (ports.value, ports.reason) == (None, "No such file or directory")


@given(st.text(max_size=200) | st.just(TCP).flatmap(lambda text: st.integers(0, len(text)).map(lambda at: text[:at])))
def test_whatever_stands_in_the_table_of_sockets(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.getbasetemp() / "sockets"
    (root / "proc/net").mkdir(parents=True, exist_ok=True)
    (root / "proc/net/tcp").write_text(text, errors="replace")
    assert set(known(network(root).listening_ports) or ()) <= {8000}


@pytest.mark.parametrize(
    ("files", "environment", "name"),
    [
        ({".dockerenv": ""}, {}, "docker"),
        ({"run/.containerenv": ""}, {}, "podman"),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({}, {"container": "lxc"}, "lxc"),
        ({"proc/1/cgroup": "0::/system.slice/docker-abc.scope\n"}, {}, "docker"),
        ({"proc/1/cgroup": "0::/init.scope\n"}, {}, "none"),
        ({}, {}, None),
    ],
)
def test_the_container_around_us(
    write_tree: WriteTree, files: dict[str, str], environment: dict[str, str], name: str | None
) -> None:
    assert known(container(write_tree(files), environment)) == name


def test_gpus_on_the_bus(write_tree: WriteTree) -> None:
    devices = {"a": ("0x10de", "0x030200"), "b": ("0x10de", "0x040300"), "c": ("0x1002", "0x030000")}
    files = {}
    for name, (vendor, kind) in devices.items():
        files[f"sys/bus/pci/devices/{name}/vendor"] = f"{vendor}\n"
        files[f"sys/bus/pci/devices/{name}/class"] = f"{kind}\n"
    assert known(nvidia_on_bus(write_tree(files))) == 1
    assert known(nvidia_on_bus(Path("/nonexistent"))) is None


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but what a test puts there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def versions() -> dict[str, str | None]:
    return {one.name: known(one.version) for one in software()}


def test_llama_server_says_its_build(programs: Path) -> None:
    script(programs, "llama-server", "#!/bin/sh\necho 'version: 5123 (9c720ef0)' >&2\n")
    (one,) = [each for each in software() if each.name == "llama.cpp"]
    assert (known(one.version), one.place) == ("b5123", str(programs / "llama-server"))


def test_a_program_that_does_not_answer(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software_module, "ANSWER_TIMEOUT_S", 0.2)
    script(programs, "docker", f"#!{sys.executable}\nimport time\ntime.sleep(30)\n")
    script(programs, "podman", "#!/bin/sh\nexit 3\n")
    found = {one.name: one.version for one in software()}
    assert "no answer within 0.2 s" in str(found["docker"])
    assert "exit status 3" in str(found["podman"])


def test_an_engine_in_an_environment_of_its_own(programs: Path, tmp_path: Path) -> None:
    """The first line of its start script leads to the interpreter, and that one says what it has."""
    other = script(tmp_path, "python-of-vllm", '#!/bin/sh\necho \'{"vllm": "0.33.0", "torch": "2.14.0"}\'\n')
    script(programs, "vllm", f"#!{other}\n")
    found = versions()
    assert (found["vllm"], found["torch"]) == ("0.33.0", "2.14.0")


def test_an_interpreter_that_is_none(tmp_path: Path) -> None:
    (one,) = [each for each in software(str(tmp_path / "none")) if each.name == "python"]
    assert "No such file or directory" in str(one.version)
    broken = script(tmp_path, "python", "#!/bin/sh\necho '[1]'\n")
    (one,) = [each for each in software(str(broken)) if each.name == "python"]
    assert "not what was asked for" in str(one.version)


def test_what_the_cache_of_models_holds(tmp_path: Path) -> None:
    for name, sizes in (("models--org--Whole", {"a": 10, "b": 5}), ("models--org--Half", {"c.incomplete": 3})):
        (tmp_path / name / "blobs").mkdir(parents=True)
        for blob, size in sizes.items():
            (tmp_path / name / "blobs" / blob).write_bytes(bytes(size))
    (tmp_path / "datasets--org--other").mkdir()
    folder = model_folder(environment={"HF_HUB_CACHE": str(tmp_path)})
    assert (folder.source, folder.path) == ("HF_HUB_CACHE", str(tmp_path))
    held = {one.repository: (one.bytes.value, one.complete and one.complete.value) for one in folder.checkpoints}
    assert held == {"org/Whole": (15, True), "org/Half": (3, False)}
    assert folder.disk is not None
    assert folder.disk.free_bytes is not None
    sizes_here = os.statvfs(tmp_path)
    assert known(folder.disk.total_bytes) == sizes_here.f_blocks * sizes_here.f_frsize
    assert known(folder.writable)


def test_a_cache_that_is_not_there_yet_lies_on_its_parent_s_disk(tmp_path: Path) -> None:
    folder = model_folder(environment={"HF_HOME": str(tmp_path / "a/b")})
    assert folder.path == str(tmp_path / "a/b/hub")
    assert folder.disk is not None and known(folder.disk.free_bytes) is not None
    assert folder.checkpoints == ()


def test_the_order_in_which_the_cache_is_looked_for(tmp_path: Path) -> None:
    both = {"HF_HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert model_folder(environment=both).path == str(tmp_path / "home/hub")
    assert model_folder(str(tmp_path / "given"), both).path == str(tmp_path / "given")
    assert model_folder(environment={"XDG_CACHE_HOME": str(tmp_path)}).path == str(tmp_path / "huggingface/hub")
