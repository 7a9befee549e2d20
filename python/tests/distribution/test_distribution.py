"""The distribution `rusticai-k8s`: what an index gets to see, and with what it can be installed.

`make test-package` builds wheel and sdist, installs the wheel into an environment that has rusticai-api, rusticai-ray
(with Ray itself), rusticai-redis and rusticai-nats in their newest versions, and runs these tests there. The lowest
versions go into an environment of their own; there Ray is resolved only, because it is large.
"""

from email.message import Message
from email.parser import HeaderParser
from importlib.metadata import version
import json
import os
from pathlib import Path
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile

from packaging.requirements import Requirement
import pytest

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / "python"
# Of the extras, those that a user names. The third one is for those who work on this repository.
BUSES = ("redis", "nats")
# They need no stack. The one left out compares stubs, for which it needs a compiler of protos.
UNIT_TESTS = ("test_units.py", "test_client.py", "test_handling.py")
NEEDS_PROTOC = "test_units.py::test_the_stubs_are_those_of_the_protos"


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The wheel that `make test-package` has built."""
    return _built("*.whl")


@pytest.fixture(scope="module")
def sdist() -> Path:
    """The sdist beside it."""
    return _built("*.tar.gz")


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """What the wheel says of itself."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode())


def test_an_index_accepts_both(wheel: Path, sdist: Path) -> None:
    """twine's strict check: metadata is complete, and the description can be shown."""
    _run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)


def test_the_metadata_says_who_may_use_it_and_with_what(metadata: Message) -> None:
    """Licence, authors, Python and what it is for."""
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Author"] and metadata["Summary"] and metadata["Keywords"] and metadata["Project-URL"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    classifiers = metadata.get_all("Classifier")
    assert "Typing :: Typed" in classifiers and "Operating System :: POSIX :: Linux" in classifiers
    # A newer Python than rusticai-core takes would be found out only by a resolver's long error.
    core = HeaderParser().parsestr(_distribution_text("rusticai-core"))
    assert set(metadata["Requires-Python"].split(",")) == set(core["Requires-Python"].split(","))


def test_its_version_is_that_of_the_programs(metadata: Message) -> None:
    """One version for all that is released together."""
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]
    assert metadata["Version"] == workspace["package"]["version"]


def test_both_carry_the_licence_of_the_repository(wheel: Path, sdist: Path) -> None:
    """Word for word."""
    licence = (ROOT / "LICENSE").read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/LICENSE")]
        assert archive.read(name) == licence
    with tarfile.open(sdist) as archive:
        (name,) = [name for name in archive.getnames() if name.endswith("/LICENSE")]
        member = archive.extractfile(name)
        assert member and member.read() == licence


def test_the_sdist_carries_what_a_wheel_is_built_from_and_nothing_else(sdist: Path) -> None:
    """Sources, and what describes them; nothing that only this repository needs."""
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames() if not name.endswith("/")}
    assert inside - _sources("src/") == {".gitignore", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert _sources("src/") <= inside


def test_the_wheel_carries_every_source_and_nothing_else(wheel: Path) -> None:
    """Generated stubs and the mark of typed packages among them."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == _sources("")
    assert {f"rustic_ai/{package}/py.typed" for package in ("k8s", "engine", "agent_host", "agent")} <= inside


def test_it_is_importable_beside_the_newest_of_its_siblings() -> None:
    """In one process with the engine of Ray and both message buses; nothing that one needs is missing or too old."""
    script = (
        "from rustic_ai.core.guild.execution.execution_engine import ExecutionEngine\n"
        "from rustic_ai.k8s.execution import K8sExecutionEngine\n"
        "from rustic_ai.nats.messaging.backend import NATSMessagingBackend\n"
        "from rustic_ai.ray import RayExecutionEngine\n"
        "from rustic_ai.redis.messaging.backend import RedisMessagingBackend\n"
        "import rustic_ai.k8s.execution as ours\n"
        "assert issubclass(K8sExecutionEngine, ExecutionEngine) and issubclass(RayExecutionEngine, ExecutionEngine)\n"
        "print(ours.__file__)\n"
    )
    # Elsewhere: the sources beside the working directory must not stand in for the installed package.
    where = _run(sys.executable, "-c", script, cwd=Path(sys.prefix)).strip()
    assert where.startswith(sysconfig.get_path("purelib")), f"{where} is not the wheel that was built"
    _run(sys.executable, "-m", "pip", "check")


def test_it_takes_every_version_of_rustic_ai_that_its_siblings_take(metadata: Message) -> None:
    """Bounds tighter than theirs would make an environment of all of them impossible with the next release."""
    ours = next(wanted for wanted in _requirements(metadata) if wanted.name == "rusticai-core")
    for sibling in ("rusticai-api", "rusticai-ray", "rusticai-redis", "rusticai-nats"):
        theirs = HeaderParser().parsestr(_distribution_text(sibling))
        (core,) = [wanted for wanted in _requirements(theirs) if wanted.name == "rusticai-core"]
        for release in ("1.4.0", version("rusticai-core"), "1.4.99"):
            assert core.specifier.contains(release) <= ours.specifier.contains(release), f"{sibling} with {release}"


def test_the_lowest_versions_that_it_names_are_enough(wheel: Path, metadata: Message, tmp_path: Path) -> None:
    """Installed into an empty environment, each at its lower bound: its own unit tests pass there."""
    constraints = _lowest(metadata, tmp_path)
    _run(sys.executable, "-m", "venv", tmp_path / "lowest")
    python = tmp_path / "lowest/bin/python"
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", constraints)
    _run(*install, f"{wheel}[{','.join(BUSES)}]")
    _run(
        python,
        "-c",
        "import rustic_ai.k8s.execution, rustic_ai.k8s.runtime.agent, rustic_ai.k8s.runtime.zygote",
        cwd=tmp_path,
    )
    _run(*install, "pytest")
    _run(python, "-m", "pip", "check")
    tests = [PYTHON / "tests" / name for name in UNIT_TESTS]
    passed = _run(
        python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--deselect=tests/{NEEDS_PROTOC}", *tests, cwd=tmp_path
    )
    assert " passed" in passed and "skipped" not in passed, passed
    listed = _run(python, "-m", "pip", "list", "--format", "json")
    print("lowest:", {one["name"]: one["version"] for one in json.loads(listed) if one["name"].startswith("rusticai")})


def test_the_lowest_versions_go_with_ray(wheel: Path, metadata: Message, tmp_path: Path) -> None:
    """The resolver finds a set; Ray is not installed a second time for it."""
    constraints = _lowest(metadata, tmp_path)
    constraints.write_text(constraints.read_text() + "rusticai-ray==1.4.*\n")
    install = (sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-")
    report = _run(*install, "--constraint", constraints, f"{wheel}[{','.join(BUSES)}]", "rusticai-ray")
    found = {one["metadata"]["name"]: one["metadata"]["version"] for one in json.loads(report)["install"]}
    assert {"ray", "rusticai-k8s", "rusticai-ray", "rusticai-redis", "rusticai-nats"} <= found.keys()


def _built(pattern: str) -> Path:
    folder = os.environ.get("RUSTIC_DISTRIBUTIONS")
    if not folder:
        pytest.fail("these tests look at what was built; use `make test-package`")
    (found,) = Path(folder).resolve().glob(pattern)
    return found


def _run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Runs a program and returns what it wrote; an error fails the test with its words."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUSTIC_")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(words)}:\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


def _sources(prefix: str) -> set[str]:
    source = PYTHON / "src"
    files = (path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"{prefix}{path.relative_to(source)}" for path in files}


def _distribution_text(name: str) -> str:
    script = f"from importlib.metadata import distribution as d; print(d({name!r}).read_text('METADATA'))"
    return _run(sys.executable, "-c", script)


def _requirements(metadata: Message) -> list[Requirement]:
    return [Requirement(line.replace(" (", "").replace(")", "")) for line in metadata.get_all("Requires-Dist", [])]


def _lowest(metadata: Message, folder: Path) -> Path:
    """Writes constraints that hold everything of a user at its lower bound.

    Args:
        metadata: Of our wheel.
        folder: Where to write them.
    """
    lines = []
    for wanted in _requirements(metadata):
        if wanted.marker and not any(wanted.marker.evaluate({"extra": bus}) for bus in BUSES):
            continue
        (bound,) = [one.version for one in wanted.specifier if one.operator == ">="]
        lines.append(f"{wanted.name}=={bound}\n")
    (folder / "lowest.txt").write_text("".join(lines))
    return folder / "lowest.txt"
