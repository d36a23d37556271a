"""What a student's name stands for, and that its digest follows every byte that decides its rows."""

from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.models import source, student
from cusa.models.source import CheckpointFile


def test_names_of_files(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"1")
    (tmp_path / "odd@name.pt").write_bytes(b"1")
    assert source.checkpoint_file(file) == CheckpointFile(file, "", None)
    assert source.checkpoint_file(f"{file}@ViT-B-32") == CheckpointFile(file, "ViT-B-32", None)
    assert source.checkpoint_file(tmp_path / "odd@name.pt") == CheckpointFile(tmp_path / "odd@name.pt", "", None)
    assert source.checkpoint_file(f"{tmp_path}/odd@name.pt@openai") == CheckpointFile(
        tmp_path / "odd@name.pt", "openai", None
    )
    for name in (tmp_path, tmp_path / "gone.pt", f"{tmp_path}/gone.pt@openai", "openai/clip-vit-base-patch32"):
        assert source.checkpoint_file(name) is None


def test_a_folder_of_open_clip(tmp_path: Path) -> None:
    weights, config = tmp_path / "open_clip_pytorch_model.bin", tmp_path / "open_clip_config.json"
    weights.write_bytes(b"1")
    config.write_text("{}")
    for name in (tmp_path, weights):
        assert source.checkpoint_file(name) == CheckpointFile(weights, "", config)
    (tmp_path / "other.pt").write_bytes(b"1")  # the configuration is of open_clip's own file
    assert source.checkpoint_file(tmp_path / "other.pt") == CheckpointFile(tmp_path / "other.pt", "", None)
    (tmp_path / "model.safetensors").write_bytes(b"1")  # then transformers reads the folder
    assert source.checkpoint_file(tmp_path) is None


def test_the_digest_follows_content_architecture_and_configuration(tmp_path: Path) -> None:
    weights, config = tmp_path / "open_clip_pytorch_model.bin", tmp_path / "open_clip_config.json"
    seen = set()
    for content in (b"1", b"2"):
        weights.write_bytes(content)
        names = [weights, f"{weights}@ViT-B-32", f"{weights}@openai"]
        seen |= {source.weights_digest(name) for name in names}
    config.write_text("{}")
    seen.add(source.weights_digest(weights))
    config.write_text('{"model_cfg": 1}')
    seen.add(source.weights_digest(weights))
    assert len(seen) == 8
    (tmp_path / "copy.bin").write_bytes(b"2")
    assert source.weights_digest(tmp_path / "copy.bin") in seen  # by content, not by name


def test_the_digest_of_a_run_is_its_models(tmp_path: Path) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "weights.safetensors").write_bytes(b"1")
    first = source.weights_digest(tmp_path / "run")
    assert first == source.weights_digest(tmp_path / "run" / "model")
    (tmp_path / "run" / "metrics.json").write_text("{}")
    assert source.weights_digest(tmp_path / "run") == first
    (tmp_path / "run" / "model" / "weights.safetensors").write_bytes(b"2")
    assert source.weights_digest(tmp_path / "run") != first


def test_the_digest_of_a_hub_name_is_its_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path | None] = [None, tmp_path / "snapshots" / "aaa", tmp_path / "snapshots" / "bbb"]
    digests = []
    for folder in folders:
        monkeypatch.setattr(source, "model_folder", lambda name, folder=folder: folder)
        digests.append(source.weights_digest("org/model"))
    assert digests[0] == "org/model"
    assert len(set(digests)) == 3


def test_a_slip_in_a_run_s_name_is_refused_before_a_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs/first").mkdir(parents=True)
    (tmp_path / "runs/first/recipe.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for refuses in (source.refuse_missing, student.load):
        for slip in ("runs/frist", "runs/first/modle", "./frist", str(tmp_path / "gone"), "a/b/c", "~/nothing"):
            with pytest.raises(DataError, match="^There is no "):
                refuses(slip)
    for fine in ("runs/first", "openai/clip-vit-base-patch32", "gpt2", "BAAI/bge-small@v1.5"):
        source.refuse_missing(fine)
