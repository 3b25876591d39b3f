"""Machines, as their own tools describe them, against models' needs.

The recorded outputs are written by hand after NVIDIA's and AMD's documentation of nvidia-smi and rocm-smi and the
kernel's of /proc and control groups.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.authoring import fit_gpu, fit_machine
from berth.authoring.fit import Device, Fit, Machine, compare, size
from berth.authoring.hardware import Hardware
from berth.cli.main import run
from berth.cli.xumi import COMMANDS

GIB = 1024**3
MIB = 1024**2

A100 = Device("nvidia", "NVIDIA A100-SXM4-40GB", 40960 * MIB, 40536 * MIB, "8.0")
A10 = Device("nvidia", "NVIDIA A10", 23028 * MIB, 22000 * MIB, "8.6")
MI250 = Device("amd", "AMD Instinct MI250X", 68702699520, 68691738624)
MACHINE = Machine(
    architecture="amd64",
    cpus=4.0,
    cpu_features=frozenset({"avx", "avx2"}),
    memory=16 * GIB,
    memory_free=3 * GIB,
    disk=100 * GIB,
    gpus=(A100, A10),
    runtimes={"cuda": "12.2"},
)


def fit(machine: Machine = MACHINE, **minimum: Any) -> Fit:
    return compare(Hardware.model_validate({"minimum": minimum}), machine)


def results(found: Fit) -> dict[str, str]:
    return {row.what: row.result for row in found.rows if row.what != "architecture"}


# --- comparing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minimum", "expected"),
    [
        ({"cpu": 4}, {"cpu": "ok"}),
        ({"cpu": 4.5}, {"cpu": "missing"}),
        ({"memory": "16GiB"}, {"memory": "ok"}),
        ({"memory": "17GiB"}, {"memory": "missing"}),
        ({"disk": "100GiB"}, {"disk": "ok"}),
        ({"disk": "101GiB"}, {"disk": "missing"}),
        ({"cpu_features": ["avx2"]}, {"cpu features": "ok"}),
        ({"cpu_features": ["avx2", "avx512f"]}, {"cpu features": "missing"}),
        ({"gpu": {"count": 2}}, {"gpu": "ok"}),
        ({"gpu": {"count": 3}}, {"gpu": "missing"}),
        ({"gpu": {"vendor": "amd"}}, {"gpu": "missing"}),
        ({"gpu": {"models": ["A10"]}}, {"gpu": "ok"}),
        ({"gpu": {"models": ["A10"], "count": 2}}, {"gpu": "missing"}),
        ({"gpu": {"memory": "40GiB"}}, {"gpu": "ok", "gpu memory": "ok"}),
        ({"gpu": {"memory": "40GiB", "count": 2}}, {"gpu": "ok", "gpu memory": "missing"}),
        ({"gpu": {"compute_capability": "8.6"}}, {"gpu": "ok", "gpu compute capability": "ok"}),
        # No single device has both.
        (
            {"gpu": {"memory": "40GiB", "compute_capability": "8.6"}},
            {"gpu": "ok", "gpu memory": "ok", "gpu compute capability": "missing"},
        ),
        ({"gpu": {"runtime": "cuda 12.2"}}, {"gpu": "ok", "gpu runtime": "ok"}),
        ({"gpu": {"runtime": "cuda 12.10"}}, {"gpu": "ok", "gpu runtime": "missing"}),
        ({"gpu": {"runtime": "rocm 6"}}, {"gpu": "ok", "gpu runtime": "missing"}),
        ({"gpu": {"runtime": "something else"}}, {"gpu": "ok", "gpu runtime": "unknown"}),
    ],
)
def test_each_requirement_is_a_row(minimum: dict[str, Any], expected: dict[str, str]) -> None:
    found = fit(**minimum)
    assert results(found) == expected
    assert found.runs is ("missing" not in expected.values())


def test_what_is_missing_is_said_with_numbers() -> None:
    found = fit(cpu=8, memory="64GiB", gpu={"vendor": "nvidia", "models": ["H100"], "count": 8})
    assert found.missing() == [
        "cpu: needs 8 cores, has 4 cores",
        "memory: needs 64 GiB, has 16 GiB",
        "gpu: needs 8 × nvidia (H100), has 1 × NVIDIA A100-SXM4-40GB, 1 × NVIDIA A10",
    ]
    row = next(row for row in found.rows if row.what == "memory")
    assert (row.needed_value, row.found_value) == (64 * GIB, 16 * GIB)


def test_memory_that_is_there_but_taken_now_fits_and_says_so() -> None:
    row = next(row for row in fit(memory="8GiB").rows if row.what == "memory")
    assert (row.result, row.found) == ("ok", "16 GiB (only 3 GiB free now)")


def test_another_architecture_does_not_fit() -> None:
    found = compare(Hardware.model_validate({"architectures": ["arm64", "s390x"]}), MACHINE)
    assert found.missing() == ["architecture: needs arm64 or s390x, has amd64"]


def test_less_than_recommended_fits_but_not_well() -> None:
    hardware = Hardware.model_validate({"minimum": {"cpu": 1}, "recommended": {"cpu": 16}})
    found = compare(hardware, MACHINE)
    assert (found.runs, found.runs_well) == (True, False)
    assert found.missing("recommended") == ["cpu: needs 16 cores, has 4 cores"]


def test_what_could_not_be_read_is_unknown_and_not_missing() -> None:
    bare = Machine("amd64", 2.0, gpus=(Device("nvidia", "NVIDIA GB10"),))
    found = fit(
        bare, memory="1GiB", disk="1GiB", cpu_features=["avx"], gpu={"memory": "1GiB", "compute_capability": "8.0"}
    )
    assert set(results(found).values()) == {"ok", "unknown"}
    assert found.runs


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.50 KiB"),
        (8 * GIB, "8 GiB"),
        (2**52, "4096 TiB"),
        (None, "unknown"),
    ],
)
def test_sizes_for_people(count: int | None, text: str) -> None:
    assert size(count) == text


# --- nvidia-smi --------------------------------------------------------------------------------------------------

NVIDIA = """\
0, NVIDIA A100-SXM4-40GB, 40960, 40536, 8.0
1, NVIDIA A10, 23028, 22000, 8.6
"""
NVIDIA_HEAD = """\
Mon Nov 23 10:00:00 2026
+---------------------------------------------------------------------------------------+
| NVIDIA-SMI 535.104.05             Driver Version: 535.104.05   CUDA Version: 12.2     |
|-----------------------------------------+----------------------+----------------------+
"""


def test_nvidia_smi_is_read() -> None:
    assert fit_gpu.parse_nvidia(NVIDIA) == [A100, A10]
    assert fit_gpu.parse_cuda(NVIDIA_HEAD) == "12.2"
    assert fit_gpu.nvidia_query() == [
        "nvidia-smi",
        "--query-gpu=index,name,memory.total,memory.free,compute_cap",
        "--format=csv,noheader,nounits",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("No devices were found\n", []),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", []),
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.104\n", []),
        ('Field "compute_cap" is not a valid field to query.\n', []),
        ("index, name, memory.total [MiB], memory.free [MiB], compute_cap\n", []),
        ("0, [Unknown Error], 40960, 1, 8.0\n", []),
        ("0, , 40960, 1, 8.0\n", []),
        ("0, NVIDIA A100\n", []),
        ("0, NVIDIA A100, 40960, 1, 8.0, more\n", []),
        ("\x00\x01\x02, a, b, c, d\n", []),
        # Devices whose memory is the machine's own.
        ("0, NVIDIA GB10, [N/A], [N/A], 12.1\n", [Device("nvidia", "NVIDIA GB10", None, None, "12.1")]),
        ("0, Tesla K80, 11441, [Not Supported], [N/A]\n", [Device("nvidia", "Tesla K80", 11441 * MIB, None, None)]),
        ("0, Tesla T4, -1, 1e9, 7\n", [Device("nvidia", "Tesla T4", None, None, None)]),
        ("0, Tesla T4, 15360 MiB, 15000 MiB, 7.5\n", [Device("nvidia", "Tesla T4", 15360 * MIB, 15000 * MIB, "7.5")]),
    ],
)
def test_what_nvidia_smi_says_otherwise_is_never_guessed(text: str, expected: list[Device]) -> None:
    assert fit_gpu.parse_nvidia(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("CUDA Version: N/A ", None), ("", None), ("| CUDA Version: ERR! |", None), ("CUDA UMD Version: 13.0", "13.0")],
)
def test_a_driver_without_cuda_is_none(text: str, expected: str | None) -> None:
    assert fit_gpu.parse_cuda(text) == expected


# --- rocm-smi ----------------------------------------------------------------------------------------------------

ROCM: dict[str, Any] = {
    "card0": {
        "VRAM Total Memory (B)": "68702699520",
        "VRAM Total Used Memory (B)": "10960896",
        "Card series": "AMD Instinct MI250X",
        "Card model": "0x0b0c",
        "Card vendor": "Advanced Micro Devices, Inc. [AMD/ATI]",
        "Card SKU": "D65209",
    },
    "system": {"Driver version": "6.3.6"},
}


def test_rocm_smi_is_read_in_both_spellings_and_behind_warnings() -> None:
    newer = {"card0": {k.title().replace("(B)", "(B)"): v for k, v in ROCM["card0"].items()}}
    warning = "WARNING: AMD GPU device(s) is/are in a low-power state. Check power control/runtime_status\n\n"
    assert fit_gpu.parse_rocm(json.dumps(ROCM)) == [MI250]
    assert fit_gpu.parse_rocm(warning + json.dumps(newer)) == [MI250]
    many = {f"card{n}": ROCM["card0"] | {"Card series": f"GPU {n}"} for n in (10, 2, 0)}
    assert [d.name for d in fit_gpu.parse_rocm(json.dumps(many))] == ["GPU 0", "GPU 2", "GPU 10"]
    assert fit_gpu.parse_rocm_version("6.1.0-82\n") == "6.1.0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("ERROR: GPU[0]: get_name: not supported", []),
        ("{", []),
        ("[]", []),
        ("{}", []),
        ('{"card0": "text"}', []),
        ('{"system": {}}', []),
        ('{"cardX": {"Card series": "a"}}', []),
        ('{"card0": {}}', [Device("amd", "AMD GPU")]),
        ('{"card0": {"Card series": "N/A", "Card model": "N/A", "Card SKU": "D1"}}', [Device("amd", "D1")]),
        ('{"card0": {"Card series": "X", "VRAM Total Memory (B)": "N/A"}}', [Device("amd", "X")]),
        ('{"card0": {"Card series": "X", "VRAM Total Memory (B)": "5", "VRAM Total Used Memory (B)": "9"}}',
         [Device("amd", "X", 5)]),
    ],
)  # fmt: skip
def test_what_rocm_smi_says_otherwise_is_never_guessed(text: str, expected: list[Device]) -> None:
    assert fit_gpu.parse_rocm(text) == expected


@given(st.text())
def test_no_output_breaks_a_parser(text: str) -> None:
    fit_gpu.parse_nvidia(text)
    fit_gpu.parse_cuda(text)
    fit_gpu.parse_rocm(text)
    fit_gpu.parse_rocm("{" + text)
    fit_gpu.parse_rocm_version(text)
    fit_machine.parse_cpuinfo(text)
    fit_machine.parse_meminfo(text)


# --- /proc and control groups ------------------------------------------------------------------------------------

CPUINFO = """\
processor	: 0
vendor_id	: GenuineIntel
model name	: Intel(R) Xeon(R) CPU @ 2.20GHz
flags		: fpu avx avx2 avx512f

processor	: 1
model name	: Intel(R) Xeon(R) CPU @ 2.20GHz
flags		: fpu avx avx2
"""
MEMINFO = (
    "MemTotal:       16384000 kB\nMemFree:         1000000 kB\nMemAvailable:    8192000 kB\nHugePages_Total:       0\n"
)


def test_cpuinfo_of_x86_and_arm() -> None:
    assert fit_machine.parse_cpuinfo(CPUINFO) == (
        "Intel(R) Xeon(R) CPU @ 2.20GHz",
        frozenset({"fpu", "avx", "avx2"}),
        2,
    )
    arm = "processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\n"
    assert fit_machine.parse_cpuinfo(arm) == (None, frozenset({"fp", "asimd", "sve"}), 1)
    assert fit_machine.parse_cpuinfo("") == (None, frozenset(), 0)


def test_meminfo_of_new_and_old_kernels() -> None:
    assert fit_machine.parse_meminfo(MEMINFO) == (16384000 * 1024, 8192000 * 1024)
    assert fit_machine.parse_meminfo("MemTotal: 10 kB\nMemFree: 4 kB\n") == (10240, 4096)
    assert fit_machine.parse_meminfo("MemTotal: many kB\n") == (None, None)


def recorded(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def nothing(command: Sequence[str]) -> tuple[int, str]:
    return 127, ""


@pytest.mark.parametrize(
    ("files", "memory", "cpus"),
    [
        ({}, None, None),
        # Version 2: the limit of a group above counts.
        (
            {
                "proc/self/cgroup": "0::/kube/pod/one\n",
                "sys/fs/cgroup/kube/pod/memory.max": "2147483648\n",
                "sys/fs/cgroup/kube/pod/one/memory.max": "max\n",
                "sys/fs/cgroup/kube/pod/one/cpu.max": "150000 100000\n",
            },
            2 * GIB,
            1.5,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None, None),
        # A container whose group has the host's path, which is not there.
        ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/memory.max": "1048576\n"}, MIB, None),
        # Version 1, controllers together in one folder.
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/a\n3:memory:/docker/a\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes": "536870912\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            512 * MIB,
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n2:memory:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            None,
            None,
        ),
        ({"proc/self/cgroup": "garbage\n::\n0::/\n", "sys/fs/cgroup/cpu.max": "a b\n"}, None, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1 0\n"}, None, None),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path, files: dict[str, str], memory: int | None, cpus: float | None
) -> None:
    root = recorded(tmp_path, files)
    assert fit_machine.memory_limit(root) == memory
    assert fit_machine.cpu_limit(root) == cpus


def test_a_whole_machine_with_limits_and_devices(tmp_path: Path) -> None:
    root = recorded(
        tmp_path,
        {
            "proc/cpuinfo": CPUINFO,
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.max": str(4 * GIB),
            "sys/fs/cgroup/a/cpu.max": "100000 100000",
            "opt/rocm/.info/version": "6.1.0-82",
        },
    )

    def tools(command: Sequence[str]) -> tuple[int, str]:
        if command[0] == "rocm-smi":
            return 0, json.dumps(ROCM)
        return 0, NVIDIA if len(command) > 1 else NVIDIA_HEAD

    found = fit_machine.read_machine(tmp_path / "not" / "there", root=root, run=tools, cpus=2, arch="amd64")
    assert (found.cpus, found.memory, found.memory_free) == (1.0, 4 * GIB, 4 * GIB)
    assert found.gpus == (A100, A10, MI250)
    assert found.runtimes == {"cuda": "12.2", "rocm": "6.1.0"}
    assert len(found.notes) == 2
    assert found.disk


def test_an_old_driver_is_asked_again_without_what_it_does_not_know(tmp_path: Path) -> None:
    def tools(command: Sequence[str]) -> tuple[int, str]:
        if command[0] != "nvidia-smi":
            return 127, ""
        if any("compute_cap" in word for word in command):
            return 2, 'Field "compute_cap" is not a valid field to query.'
        return 0, "0, Tesla K80, 11441, 11000" if len(command) > 1 else ""

    found = fit_machine.read_machine(tmp_path, root=tmp_path, run=tools, cpus=1, arch="amd64")
    assert found.gpus == (Device("nvidia", "Tesla K80", 11441 * MIB, 11000 * MIB),)
    assert (found.memory, found.notes, found.runtimes) == (None, (), {})


def test_a_tool_that_fails_is_a_note_and_no_error(tmp_path: Path) -> None:
    found = fit_machine.read_machine(
        tmp_path, root=tmp_path, run=lambda command: (9, "NVIDIA-SMI has failed\nmore"), cpus=1, arch="arm64"
    )
    assert found.gpus == ()
    assert found.notes == ("nvidia-smi failed: NVIDIA-SMI has failed", "rocm-smi failed.")
    assert fit_machine.run_tool(["no-such-tool-here"]) == (127, "")


def test_this_very_machine_can_be_read() -> None:
    found = fit_machine.read_machine(Path.cwd(), run=nothing)
    assert found.cpus is not None
    assert found.cpus > 0
    assert found.memory is None or found.memory > 2**20
    assert found.disk is not None


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def xumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run("xumi", COMMANDS, [str(a) for a in arguments])
        done = capsys.readouterr()
        return code, done.out, done.err

    return call


def test_the_command_exits_1_when_something_is_missing(xumi: Callable[..., Any], make_project: Any) -> None:
    root = make_project()
    code, out, _ = xumi("fit", root)
    assert (code, out.splitlines()[-1]) == (0, "acme/echo:1.2.3 fits this machine.")
    text = (root / "xumi.yaml").read_text()
    (root / "xumi.yaml").write_text(text + "hardware: {minimum: {memory: 4096TiB, gpu: {count: 64}}}\n")
    code, out, _ = xumi("fit", root)
    assert code == 1
    assert "does not fit" in out.splitlines()[-1]
    code, out, _ = xumi("fit", root, "-o", "json")
    assert code == 1
    found = json.loads(out)
    assert found["fits"] is False
    assert {r["what"]: r["result"] for r in found["requirements"]} == {
        "architecture": "ok",
        "memory": "missing",
        "gpu": "missing",
    }
    code, _, err = xumi("test", root)
    assert code == 1
    assert "memory: needs 4096 TiB" in err
    assert "--force" in err
