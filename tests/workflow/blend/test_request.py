"""A blend as it is asked for: its points, where its model goes, and what it never writes over."""

from pathlib import Path

import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests import ledger
from cusa.manifests.storage import store
from cusa.workflow.blend import BlendRequest


def _request(out: Path, **more: object) -> BlendRequest:
    return BlendRequest("base", "run", out, **more)  # type: ignore[arg-type]


def test_points__of_the_grid_and_the_one_that_is_named_rising(tmp_path: Path) -> None:
    assert _request(tmp_path).points() == tuple(number / 10 for number in range(11))
    assert _request(tmp_path, grid="1,0.5").points() == (0.5, 1.0)
    assert _request(tmp_path, grid="1,0.5", choose="0.25").points() == (0.25, 0.5, 1.0)
    assert _request(tmp_path, grid="1,0.5", choose="0.5").points() == (0.5, 1.0)
    assert _request(tmp_path, grid="1,0.5", choose="best").points() == (0.5, 1.0)
    assert _request(tmp_path, grid="0,1", choose="keep:1", guards=["w"]).points() == (0.0, 1.0)
    with pytest.raises(ConfigError, match="asks what guards lose, and none is named"):
        _request(tmp_path, grid="0,1", choose="keep:1").points()
    with pytest.raises(ConfigError, match=r"compares with the base, and --grid 0\.1,1 does not hold 0"):
        _request(tmp_path, grid="0.1,1", choose="keep:1", guards=["w"]).points()


def test_model__a_blend_s_own_is_known_by_its_card(tmp_path: Path) -> None:
    request = _request(tmp_path)
    assert request.model == tmp_path / "model"
    assert not request.holds_own_model
    store.write_json(tmp_path / "model/student.json", {"kind": "heads"})
    assert not request.holds_own_model
    store.write_json(tmp_path / "model/student.json", {"blend": {}})
    assert request.holds_own_model


def test_refuse_to_replace__parents_others_outputs_and_others_models(tmp_path: Path) -> None:
    for name in ("base", "run"):
        store.write_text(tmp_path / name / "model/weights", "w")
    store.write_text(tmp_path / "plain/weights", "w")

    def refuse(out: Path, base: str = "base", choose: str = "") -> None:
        BlendRequest(str(tmp_path / base), str(tmp_path / "run"), out, choose=choose).refuse_to_replace()

    refuse(tmp_path / "out")
    refuse(tmp_path / "run/blends/first")
    for out, base, who in (
        (tmp_path / "base", "base", "BASE"),
        (tmp_path / "run", "base", "RUN"),
        (tmp_path / "run/model", "base", "RUN"),
        (tmp_path / "run/model/deeper", "base", "RUN"),
        (tmp_path / "plain", "plain", "BASE"),
        (tmp_path / "plain/within", "plain", "BASE"),
        (tmp_path / "out", "out/model", "BASE"),
        (tmp_path / "out", "out/model/deeper", "BASE"),
    ):
        with pytest.raises(ConfigError, match=rf"--out .* would be written over {who}"):
            refuse(out, base)
    for stage, said in (("train", "holds what `cusa train` wrote"), ("blend", "")):
        out = tmp_path / stage
        store.write_text(out / "x", "x")
        ledger.Clock().finish(
            out / "ledger.json", stage=stage, inputs={}, parameters={}, outputs=[out / "x"], counts={}
        )
        if said:
            with pytest.raises(DataError, match=said):
                refuse(out)
        else:
            refuse(out)
    store.write_json(tmp_path / "out/model/student.json", {"kind": "heads"})
    refuse(tmp_path / "out")
    with pytest.raises(DataError, match="is no blend's model"):
        refuse(tmp_path / "out", choose="best")
    store.write_json(tmp_path / "out/model/student.json", {"blend": {}})
    refuse(tmp_path / "out", choose="best")
