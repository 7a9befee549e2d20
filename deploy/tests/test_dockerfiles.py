"""Dockerfiles and the compose stack: what hadolint says, what every image and container must be, and nothing but that."""

import re

import pytest
import yaml

from tools import ROOT, run

DOCKERFILES = sorted(
    str(file.relative_to(ROOT))
    for file in [*(ROOT / "docker").glob("*.Dockerfile"), *(ROOT / "examples").rglob("Dockerfile")]
)
OURS = ["docker/engine-svc.Dockerfile", "docker/agent-host.Dockerfile"]


def _stages(dockerfile: str) -> list[str]:
    """Each stage without comments, from its FROM on."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / dockerfile).read_text())
    return ["FROM" + stage for stage in re.split(r"(?m)^FROM", text)[1:]]


def _named(dockerfile: str) -> dict[str, str]:
    """Stages by their names."""
    return {stage.split()[3]: stage for stage in _stages(dockerfile) if stage.split()[2] == "AS"}


def _image(dockerfile: str) -> str:
    """What the image is made of: the last stage, and the ones it is made from."""
    stage = _stages(dockerfile)[-1]
    while (base := stage.split()[1]) in _named(dockerfile):
        stage = _named(dockerfile)[base] + stage.partition("\n")[2]
    return stage


def test_there_are_dockerfiles() -> None:
    assert set(OURS) < set(DOCKERFILES) and "examples/custom-image/Dockerfile" in DOCKERFILES


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_finds_nothing(dockerfile: str) -> None:
    run("hadolint", dockerfile)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_either_builder_builds_it_as_an_unprivileged_image(dockerfile: str) -> None:
    of_its_own = {"scratch", "${BASE}", *_named(dockerfile)}
    for stage in _stages(dockerfile):
        base = stage.split()[1]
        assert base in of_its_own or (":" in base and not base.endswith(":latest")), f"{base} is not pinned"
        assert "--mount" not in stage and "<<" not in stage, "only BuildKit understands this"
    image = _image(dockerfile)
    assert re.findall(r"(?m)^USER (\S+)", image)[-1:] == ["10001:10001"]
    assert not re.search(r"\b(gcc|build-essential|g\+\+|clang)\b", image), "no compiler in an image that runs"


@pytest.mark.parametrize("dockerfile", OURS)
def test_our_images_say_what_they_are_and_how_they_stop(dockerfile: str) -> None:
    image = _image(dockerfile)
    assert "STOPSIGNAL SIGTERM" in image
    # The program itself is process 1: a shell would keep SIGTERM to itself.
    assert re.search(r'(?m)^ENTRYPOINT \["/usr/local/bin/[a-z-]+"\]$', image)
    for label in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert f"org.opencontainers.image.{label}=" in image, label


def test_both_images_share_one_builder() -> None:
    engine, host = (_named(file) for file in OURS)
    for stage in ("manifests", "sources", "builder"):
        assert engine[stage] == host[stage], stage


def test_the_builder_knows_every_crate() -> None:
    stages = _named(OURS[0])
    members = re.search(r"members = \[(.*?)\]", (ROOT / "Cargo.toml").read_text(), re.DOTALL)
    assert members
    for crate in re.findall(r'"([^"]+)"', members[1]):
        manifest = f"COPY {crate}/Cargo.toml /src/{crate}/"
        assert manifest in stages["manifests"], f"{crate} is new: name its manifest"
        assert re.search(rf"for crate in [^;]*\b{crate}\b", stages["builder"]), f"{crate} is new: give it a stand-in"


def test_the_image_pins_what_the_package_asks_for() -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "docker/requirements.txt").read_text().splitlines() if "==" in line
    )
    project = (ROOT / "python/pyproject.toml").read_text()
    for exact in ("rusticai-core", "rusticai-redis"):
        wanted = re.search(rf'"{exact}==([^"]+)"', project)
        assert wanted and pinned[exact] == wanted[1]


def test_every_container_of_the_stack_is_bounded() -> None:
    stack = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    assert {"redis", "engine-svc-0", "engine-svc-1", "agent-host-0", "agent-host-1", "agent-host-2"} < set(
        stack["services"]
    )
    for service, container in stack["services"].items():
        assert container["read_only"] is True, service
        assert container["user"] == "10001:10001", service
        assert container["cap_drop"] == ["ALL"] and "cap_add" not in container, service
        assert container["security_opt"] == ["no-new-privileges:true"], service
        assert container["pids_limit"] > 0 and container["mem_limit"], service
        assert not container.get("init") and not container.get("privileged"), service
        assert not container["image"].endswith("latest"), service
        for port in container.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{service}: {port} is open to the network"


def test_the_stack_gives_its_containers_time_to_stop() -> None:
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    for service, grace in (("engine-svc-0", "30s"), ("agent-host-0", "45s")):
        assert services[service]["stop_grace_period"] == grace
