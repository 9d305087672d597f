from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ckptd.core.model import Role
from ckptd.core.programs import parameter_differences
from ckptd.shell.scanning import scan_file
from pickling import codes

PROGRAM = Path(__file__).with_name("paddle_binaries.py")
HEADER_BYTES = 4 + 8 + 4 + 4 + 6  # of a tensor with two dimensions


@pytest.fixture(scope="module", params=["pir", "older"])
def saved(request, tmp_path_factory):
    """A directory of files that one Paddle process saved, with programs in one of the two forms."""
    directory = tmp_path_factory.mktemp("binaries")
    environment = os.environ | ({"FLAGS_enable_pir_api": "0"} if request.param == "older" else {})
    subprocess.run(
        [sys.executable, str(PROGRAM), str(directory)], check=True, capture_output=True, env=environment
    )
    return directory


def scanned(directory, name, role=Role.PARAMS):
    """The scan of one of the files."""
    return scan_file(str(directory), name, role)


def program(directory, stem):
    """The scan of the program with that name, in whichever form it has."""
    (path,) = (path for path in directory.glob(f"{stem}.*") if path.suffix in {".json", ".pdmodel"})
    return scanned(directory, path.name, Role.PROGRAM)


def test_every_tensor_of_paddle_is_clean_with_its_type(saved):
    """Each element type and each odd form that Paddle writes is read to its end."""
    found = {path.stem: scanned(saved, path.name) for path in saved.glob("*.tensor")}

    assert {name: codes(one) for name, one in found.items() if one.findings} == {}
    containers = {name: one.container for name, one in found.items()}
    assert containers.pop("rows") == "selected_rows"
    assert set(containers.values()) == {"tensors"}
    assert found["scalar"].tensors[0].shape == ()
    assert found["empty"].tensors[0].shape == (0, 4)
    assert found["ragged"].tensors[0].shape == (5, 2)
    assert found["rows"].tensors[0].shape == (3, 2)
    assert len(found["combined"].tensors) == 11
    odd = {"scalar", "empty", "ragged", "rows", "combined"}
    assert all(one.tensors[0].dtype == name for name, one in found.items() if name not in odd)


def test_files_of_single_variables_are_clean(saved):
    """A directory of nameless binaries, one a variable."""
    names = sorted(path.name for path in (saved / "variables").iterdir())

    assert len(names) == 11
    for name in names:
        found = scanned(saved / "variables", name)
        assert (found.container, found.findings, len(found.tensors)) == ("tensors", (), 1)


@pytest.mark.parametrize("stem", ["jit", "inference"])
def test_parameters_agree_with_their_program(saved, stem):
    """Number, shapes and types of the stream are those the program needs, in the order of the names."""
    needed = program(saved, stem)
    parameters = scanned(saved, f"{stem}.pdiparams")

    assert (needed.findings, parameters.findings) == ((), ())
    assert needed.container in {"pir", "program"}
    assert len(needed.expected) == len(parameters.tensors) > 1
    assert list(parameter_differences(needed.expected, parameters.tensors)) == []


def test_stream_cut_between_two_tensors_disagrees_with_its_program(saved):
    """What the stream alone cannot tell, the program does."""
    needed = program(saved, "jit")
    whole = (saved / "jit.pdiparams").read_bytes()
    cut = saved / "cut.pdiparams"
    last = scanned(saved, "jit.pdiparams").tensors[-1]
    cut.write_bytes(whole[: -last.bytes - HEADER_BYTES])

    found = scanned(saved, "cut.pdiparams")
    assert found.findings == ()
    assert list(parameter_differences(needed.expected, found.tensors))


def test_programs_without_parameters_and_of_training_are_clean(saved):
    """A program need not have parameters, and may have those of an optimizer."""
    assert (program(saved, "bare").findings, program(saved, "bare").expected) == ((), ())
    assert program(saved, "static").findings == ()
    assert not (saved / "bare.pdiparams").exists()


def test_info_of_an_older_program_is_a_clean_pickle(saved):
    """The older form has a third file, which is plain values."""
    for path in saved.glob("*.info"):
        found = scanned(saved, path.name, Role.META)
        assert (found.container, found.findings) == ("pickle", ())


@pytest.mark.parametrize("suffix", [".json", ".pdmodel", ".pdiparams"])
def test_prefix_of_a_binary_is_never_clean_and_whole(saved, suffix):
    """Every cut is found, by the file alone or by its program."""
    needed = program(saved, "jit")
    for path in saved.glob(f"jit{suffix}"):
        whole = path.read_bytes()
        for length in range(0, len(whole), 1 + len(whole) // 150):
            (saved / "cut").write_bytes(whole[:length])
            found = scanned(saved, "cut")
            is_stream = suffix == ".pdiparams"
            assert found.findings or (
                is_stream and list(parameter_differences(needed.expected, found.tensors))
            )


def test_archive_of_a_checkpoint_is_clean(saved):
    """A tar archive of what Paddle saved is read with all its tensors."""
    with tarfile.open(saved / "best.tar", "w") as archive:
        for name in ("static.pdparams", "static.pdopt"):
            archive.add(saved / name, name)
    found = scanned(saved, "best.tar")

    assert (found.container, found.findings) == ("tar", ())
    assert ("static.pdparams", "fc_0.w_0") in {one.key for one in found.tensors}
