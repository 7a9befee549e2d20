"""What the documents name is there."""

from pathlib import Path
import re

import pytest

from tools import ROOT

DOCUMENTS = [
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "python/README.md",
    ROOT / "tests/chaos/README.md",
    ROOT / "docker/README.md",
    ROOT / "hpa/README.md",
    ROOT / "examples/custom-image/README.md",
    ROOT / "examples/api-server/README.md",
]


def _anchor(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = {_anchor(h) for h in re.findall(r"(?m)^#+ (.*)$", file.read_text())}
            assert anchor in headings, f"{document.name} links to {target}; there are {sorted(headings)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_commands_name_folders_that_exist(document: Path) -> None:
    for folder in re.findall(
        r"(?:apply|delete|diff|kustomize) (?:-k )?((?:deploy|hpa|examples)(?:/[\w-]+)*)", document.read_text()
    ):
        assert (ROOT / folder / "kustomization.yaml").is_file(), f"{document.name} applies {folder}"
    for file in re.findall(r"-f ((?:deploy|hpa|docker)/[\w./-]+)", document.read_text()):
        assert (ROOT / file).exists(), f"{document.name} names {file}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    for target in re.findall(r"(?m)(?:^|`)make ([a-z-]+)", document.read_text()):
        assert target in targets, f"{document.name}: make {target}"
