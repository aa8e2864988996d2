"""Built-in profiles are complete and sourced; everything that a profile may not say is refused with a hint."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from edgeq.core.target import Provenance
from edgeq.errors import UnknownNameError, UsageError
from edgeq.targets import profiles
from edgeq.targets.profiles import NUMBERS, available_profiles, load_profile, profile_dir

BUILT_IN = (
    "android",
    "android-4gb",
    "android-6gb",
    "android-8gb",
    "android-12gb",
    "android-16gb",
    "browser",
    "browser-mobile",
    "edge",
    "ios",
    "ios-4gb",
    "ios-4gb-entitled",
    "ios-6gb",
    "ios-6gb-entitled",
    "ios-8gb",
    "ios-8gb-entitled",
    "jetson-orin-nano-8gb",
    "rpi5-4gb",
    "rpi5-8gb",
)
OWN = """\
extends = "android-8gb"
description = "Our own phone"
memory_limit_mib = 1500

[provenance.memory_limit_mib]
source = "measured in our laboratory"
source_date = "2026-11-01"
confidence = "measured"
"""
CPUS = """
[provenance.validate_cpus]
source = "the board's data sheet"
source_date = 2026-11-28
confidence = "published"
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return str(path)


def test_available_profiles_are_in_numeric_order() -> None:
    assert available_profiles() == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_number_of_a_built_in_profile_has_a_dated_source(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.memory_reserve_mib < profile.memory_limit_mib
    for number in NUMBERS:
        if getattr(profile, number) is not None:
            provenance = profile.provenance[number]
            assert len(provenance.source) > 20
            assert date.fromisoformat(provenance.source_date) <= date(2026, 11, 24)


@pytest.mark.parametrize(
    ("name", "limit"), [("4gb", 2048), ("6gb", 2304), ("8gb", 2304), ("12gb", 3328), ("16gb", 4352)]
)
def test_android_limits_are_the_published_ones(name: str, limit: int) -> None:
    profile = load_profile(f"android-{name}")
    assert profile.memory_limit_mib == limit
    assert profile.provenance["memory_limit_mib"].confidence == "published"
    assert profile.memory_budget_bytes == (limit - 256) * 2**20


@pytest.mark.parametrize("memory", [4, 6, 8])
def test_ios_limits_are_estimates_under_what_was_reported(memory: int) -> None:
    plain, entitled = load_profile(f"ios-{memory}gb"), load_profile(f"ios-{memory}gb-entitled")
    assert plain.memory_limit_mib <= memory * 1024 * 0.5 * 0.9 + 1
    assert plain.memory_limit_mib < entitled.memory_limit_mib <= memory * 1024 * 0.65 * 0.9 + 1
    for profile in (plain, entitled):
        assert profile.provenance["memory_limit_mib"].confidence == "estimated"
        assert profile.formats == ("coreml", "executorch")
        assert profile.surface == "ios"
        assert profile.compute_unit == "gpu"
    assert (plain.increased_memory_limit, entitled.increased_memory_limit) == (False, True)


def test_browsers_have_providers_and_limits_of_their_own() -> None:
    desktop, mobile = load_profile("browser"), load_profile("browser-mobile")
    for profile in (desktop, mobile):
        assert (profile.surface, profile.formats) == ("browser", ("transformersjs",))
        assert profile.execution_providers == ("wasm", "webgpu")
        assert (profile.accuracy_level, profile.context_length) == (4, 2048)
        assert profile.file_limit_mib is not None
        assert profile.file_limit_mib << 20 < 0x7FE00000  # what an ArrayBuffer of Chrome holds
    assert (desktop.memory_limit_mib, desktop.threads) == (4096, 4)
    assert (mobile.memory_limit_mib, mobile.threads) == (1200, 2)
    assert (mobile.file_limit_mib, mobile.buffer_limit_mib) == (512, 128)
    assert load_profile("edge").execution_providers == ()


@pytest.mark.parametrize(
    ("base", "line", "message"),
    [
        ("android-8gb", 'execution_providers = ["wasm"]', "are those of browsers, not of android"),
        ("browser", "execution_providers = []", "a list without repeats"),
        ("browser", 'execution_providers = "wasm"', "a list without repeats"),
        ("browser", 'execution_providers = ["wasm", "wasm"]', "a list without repeats"),
        ("browser", 'execution_providers = ["wasm", "webgl"]', "'webgl' is unknown"),
        ("browser", 'formats = ["onnx"]', "the surface browser takes no format 'onnx'"),
        ("browser", "file_limit_mib = 100", "without saying where"),
    ],
)
def test_what_only_browsers_have_is_checked(tmp_path: Path, base: str, line: str, message: str) -> None:
    own = OWN.replace("android-8gb", base).replace("memory_limit_mib = 1500", f"memory_limit_mib = 1500\n{line}")
    with pytest.raises(UsageError, match=message):
        load_profile(write(tmp_path, own))


@pytest.mark.parametrize("key", ["file_limit_mib", "buffer_limit_mib"])
def test_a_device_has_no_limits_of_browsers(tmp_path: Path, key: str) -> None:
    own = OWN.replace("memory_limit_mib", key)
    with pytest.raises(UsageError, match=f"{key} is a limit of browsers, not of android"):
        load_profile(write(tmp_path, own))
    profile = load_profile(write(tmp_path, own.replace("android-8gb", "browser")))
    assert getattr(profile, key) == 1500


def test_a_browser_needs_providers(tmp_path: Path) -> None:
    text = (profile_dir() / "browser.toml").read_text().replace('execution_providers = ["wasm", "webgpu"]\n', "")
    with pytest.raises(UsageError, match="a list without repeats, and a browser has some"):
        load_profile(write(tmp_path, text))


def test_android_takes_both_formats_and_onnx_first() -> None:
    profile = load_profile("android-4gb")
    assert profile.formats == ("onnx", "executorch")
    assert (profile.compute_unit, profile.increased_memory_limit) == ("cpu", False)


def test_choices_need_no_source(tmp_path: Path) -> None:
    own = OWN.replace("android-8gb", "ios-8gb").replace(
        "memory_limit_mib = 1500",
        'memory_limit_mib = 1500\ncompute_unit = "neural_engine"\nincreased_memory_limit = true',
    )
    profile = load_profile(write(tmp_path, own))
    assert (profile.compute_unit, profile.increased_memory_limit) == ("neural_engine", True)


@pytest.mark.parametrize(("alias", "base"), [("android", "android-8gb"), ("edge", "rpi5-8gb"), ("ios", "ios-6gb")])
def test_plain_names_mean_the_common_device(alias: str, base: str) -> None:
    profile, expected = load_profile(alias), load_profile(base)
    if alias == "edge":  # whose name also stands for older boards
        assert profile.validate_cpus == ("cortex-a76", "cortex-a72", "cortex-a53")
        provenance = profile.provenance | {"validate_cpus": expected.provenance["validate_cpus"]}
        profile = dataclasses.replace(profile, validate_cpus=expected.validate_cpus, provenance=provenance)
    assert dataclasses.replace(profile, name=base, description=expected.description) == expected


@pytest.mark.parametrize("name", BUILT_IN)
def test_devices_with_arm64_say_on_which_cpus_they_are_validated(name: str) -> None:
    profile = load_profile(name)
    if profile.surface in ("ios", "browser"):
        assert (profile.validate_arch, profile.validate_cpus) == (None, ())
        return
    assert profile.validate_arch == "arm64"
    assert profile.validate_cpus[0] == "cortex-a76"
    assert date.fromisoformat(profile.provenance["validate_cpus"].source_date)


@pytest.mark.parametrize(
    ("base", "lines", "message"),
    [
        ("android-8gb", 'validate_cpus = ["cortex-a76"]', "without saying where that comes from"),
        ("android-8gb", 'validate_arch = "arm46"', "Did you mean 'arm64'"),
        ("android-8gb", 'validate_arch = "x86_64"', "validate_cpus are arm64's"),
        ("ios-8gb", 'validate_arch = "arm64"', "and arm64 has some"),
        ("ios-8gb", f'validate_cpus = ["cortex-a76"]{CPUS}', "validate_cpus are arm64's"),
        ("android-8gb", f"validate_cpus = []{CPUS}", "a list without repeats"),
        ("android-8gb", f'validate_cpus = "cortex-a76"{CPUS}', "a list without repeats"),
        ("android-8gb", f'validate_cpus = ["cortex-a76", "cortex-a76"]{CPUS}', "a list without repeats"),
        ("android-8gb", f'validate_cpus = ["cortex-a67"]{CPUS}', "Did you mean 'cortex-a76'"),
    ],
)
def test_cpus_are_checked(tmp_path: Path, base: str, lines: str, message: str) -> None:
    own = OWN.replace("android-8gb", base).replace("memory_limit_mib = 1500", f"memory_limit_mib = 1500\n{lines}")
    with pytest.raises(UsageError, match=message):
        load_profile(write(tmp_path, own))


def test_an_own_device_can_have_other_cpus(tmp_path: Path) -> None:
    own = OWN.replace("memory_limit_mib = 1500", f'memory_limit_mib = 1500\nvalidate_cpus = ["cortex-a55"]{CPUS}')
    profile = load_profile(write(tmp_path, own))
    assert (profile.validate_arch, profile.validate_cpus) == ("arm64", ("cortex-a55",))


def test_own_file_extends_a_built_in_profile(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, OWN))
    assert (profile.name, profile.memory_limit_mib, profile.threads) == ("own", 1500, 4)
    assert profile.provenance["memory_limit_mib"] == Provenance(
        source="measured in our laboratory", source_date="2026-11-01", confidence="measured"
    )
    assert profile.provenance["threads"] == load_profile("android-8gb").provenance["threads"]


def test_whole_own_file_needs_no_bundle_limit(tmp_path: Path) -> None:
    text = (profile_dir() / "rpi5-4gb.toml").read_text()
    assert load_profile(write(tmp_path, text)).bundle_limit_mib is None


@pytest.mark.parametrize("name", ["andriod", "android-10gb", "Android", "rpi5"])
def test_unknown_target_is_refused_with_a_suggestion(name: str) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean"):
        load_profile(name)


def test_unlike_target_is_refused_with_the_list() -> None:
    with pytest.raises(UnknownNameError, match=r"Use one of android, .*FILE\.toml"):
        load_profile("toaster/../../x")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_limit_mib = 1500", "memory_limit_mb = 1500", "Did you mean 'memory_limit_mib'"),
        ("memory_limit_mib = 1500", "memory_limit_mib = 1500\nzzz = 1", "'zzz' is an unknown key"),
        ("[provenance.memory_limit_mib]", "[provenance.memory_limit]", "Did you mean 'memory_limit_mib'"),
        ("source_date =", "source_dat =", "Did you mean 'source_date'"),
        ('confidence = "measured"', 'confidence = "measurd"', "Did you mean 'measured'"),
        ('extends = "android-8gb"', 'extends = "android-8"', "Did you mean 'android-8gb'"),
        ('extends = "android-8gb"', 'extends = "edge"\nsurface = "egde"', "one level|unknown"),
    ],
)
def test_unknown_names_in_a_file_are_refused_with_a_suggestion(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load_profile(write(tmp_path, OWN.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_limit_mib = 1500", "memory_limit_mib = '1500'", "positive integer"),
        ("memory_limit_mib = 1500", "memory_limit_mib = true", "positive integer"),
        ("memory_limit_mib = 1500", "memory_limit_mib = -1", "positive integer"),
        ("memory_limit_mib = 1500", "memory_limit_mib = 1500.5", "positive integer"),
        ("memory_limit_mib = 1500", "memory_limit_mib = 200", "leaves nothing"),
        ("memory_limit_mib = 1500", "memory_limit_mib = 1500\nthreads = 2", "without saying where"),
        ("memory_limit_mib = 1500\n", "", "does not set"),
        ('source = "measured in our laboratory"\n', "", "lacks source"),
        ('source = "measured in our laboratory"', "source = 5", "source must be a string"),
        ('source_date = "2026-11-01"', 'source_date = "last week"', "is no date"),
        ('description = "Our own phone"', "description = 5", "description must be"),
        ("extends =", "extends", "is not TOML"),
        ('description = "Our own phone"', 'formats = "onnx"', "formats must be a list"),
        ('description = "Our own phone"', 'formats = ["onx"]', "Did you mean 'onnx'"),
        ('description = "Our own phone"', 'surface = "andriod"', "Did you mean 'android'"),
        ('description = "Our own phone"', 'formats = ["coreml"]', "the surface android takes no format 'coreml'"),
        ('description = "Our own phone"', 'surface = "edge"', "the surface edge takes no format 'executorch'"),
        ('description = "Our own phone"', 'compute_unit = "neural-engine"', "Did you mean 'neural_engine'"),
        ('description = "Our own phone"', "compute_unit = 4", "compute_unit 4 is unknown"),
        ('description = "Our own phone"', 'increased_memory_limit = "yes"', "must be true or false"),
        ('description = "Our own phone"', "increased_memory_limit = true", "an entitlement of iOS, not of android"),
        ('extends = "android-8gb"', 'extends = "android"', "one level"),
        ('extends = "android-8gb"\n', "", "lacks surface"),
        (
            "[provenance.memory_limit_mib]",
            "accuracy_level = 3\n[provenance.accuracy_level]\nsource = 'x'\nsource_date = 2026-01-01\n"
            "confidence = 'estimated'\n[provenance.memory_limit_mib]",
            "must be 1 or 4",
        ),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in OWN
    with pytest.raises(UsageError, match=message) as refusal:
        load_profile(write(tmp_path, OWN.replace(old, new)))
    assert "own.toml" in refusal.value.what
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("provenance", ["provenance = 5\n", "[provenance]\nmemory_limit_mib = 'here'\n"])
def test_provenance_that_is_no_table_is_refused(tmp_path: Path, provenance: str) -> None:
    text = f'extends = "android-8gb"\nmemory_limit_mib = 1500\n{provenance}'
    with pytest.raises(UsageError, match="table"):
        load_profile(write(tmp_path, text))


def test_missing_file_and_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no profile file"):
        load_profile(str(tmp_path / "absent.toml"))
    (tmp_path / "own.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not TOML"):
        load_profile(str(tmp_path / "own.toml"))


def test_installed_profiles_are_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "edgeq" / "targets"
    package.mkdir(parents=True)
    monkeypatch.setattr(profiles, "__file__", str(package / "profiles.py"))
    assert profile_dir() == tmp_path / "targets"
    (package / "android.toml").touch()
    assert profile_dir() == package


def test_loading_a_profile_loads_no_framework() -> None:
    code = (
        "import sys, edgeq.targets.profiles as p; p.load_profile('android');"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
