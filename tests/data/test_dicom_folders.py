"""Which files of a folder are slices of one volume."""

import pytest

from ttl_monai.data.dicom_folders import fold_series


def beside(path, name, content=b"x"):
    (path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("write", "kept"),
    [
        (lambda made, f: made.series(f, made.volume(3)), []),
        (lambda made, f: made.series(f, made.volume(3), modality="MR"), []),
        (lambda made, f: made.series(f, made.volume(2), modality="CR"), ["im00.dcm", "im07.dcm"]),
        (lambda made, f: made.series(f, made.volume(1)), ["im00.dcm"]),
        # two series with a slice each are two images
        (
            lambda made, f: [made.series(f, made.volume(1), prefix=uid, series_uid=uid) for uid in ("1.2", "1.3")],
            ["1.200.dcm", "1.300.dcm"],
        ),
        # a picture beside the slices stays; an x-ray too; a report and a damaged file are for the reader of the folder
        (lambda made, f: (made.series(f, made.volume(3)), beside(f, "view.png")), ["view.png"]),
        (
            lambda made, f: (made.series(f, made.volume(3)), made.series(f, made.volume(1), prefix="x", modality="DX")),
            ["x00.dcm"],
        ),
        (
            lambda made, f: (made.series(f, made.volume(3)), made.series(f, made.volume(1), prefix="r", modality="SR")),
            [],
        ),
        (lambda made, f: (made.series(f, made.volume(3)), beside(f, "im99.dcm", bytes(128) + b"DICM")), []),
        (lambda made, f: (made.series(f, made.volume(3)), beside(f, "im99.dcm")), []),
    ],
)
def test_slices_of_a_scan_become_their_folder(tmp_path, made, write, kept):
    folder = tmp_path / "scan"
    write(made, folder)
    beside(tmp_path, "other.dcm")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    folded = not {path.name for path in folder.iterdir()} <= set(kept)
    expected = [tmp_path / "other.dcm", *([folder] if folded else []), *(folder / name for name in kept)]
    assert fold_series(files) == sorted(expected)
