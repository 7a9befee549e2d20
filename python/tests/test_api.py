"""The API as protobuf has it: its style, that nothing breaks, and that the generated modules are of these files."""

from pathlib import Path
import subprocess
import sys
import sysconfig

import pytest

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"
_OURS = sorted(path.relative_to(PROTO).as_posix() for path in (PROTO / "rustic_ai").rglob("*.proto"))


def _buf(*arguments: str) -> str:
    buf = Path(sysconfig.get_path("scripts")) / "buf"
    done = subprocess.run([buf, *arguments], cwd=PROTO, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def test_the_protos_keep_to_the_style() -> None:
    assert _buf("lint") == ""


def test_nothing_that_was_agreed_on_breaks() -> None:
    assert _buf("breaking", "--against", "api.binpb") == "", "if that is meant, renew proto/api.binpb by `make api`"


def test_what_would_break_a_client_is_found(tmp_path: Path) -> None:
    for name in _OURS:
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((PROTO / name).read_text().replace("string host_id = 6;", "string host = 6;"))
    (tmp_path / "buf.yaml").write_text((PROTO / "buf.yaml").read_text().replace("    excludes:\n", "").split("lint:")[0])
    lines = [line for line in (tmp_path / "buf.yaml").read_text().splitlines() if "externalscaler" not in line and "KEDA" not in line]
    (tmp_path / "buf.yaml").write_text("\n".join([*lines, "breaking:", "  use:", "    - FILE", ""]))
    found = _buf("breaking", str(tmp_path), "--against", "api.binpb")
    assert "host_id" in found, found


@pytest.mark.parametrize("name", _OURS)
def test_the_generated_modules_are_of_these_files(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", name]
    subprocess.run(command, cwd=PROTO, check=True, timeout=120)
    for made in tmp_path.rglob("*_pb2.py*"):
        kept = ROOT / "python" / "src" / made.relative_to(tmp_path)
        assert kept.read_text() == made.read_text(), f"{kept} is not of {name}; run `make protos`"
