"""Exporting a trained student, or the mean of two, with its ledger."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests import ledger
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.manifests.words import mixture
from cusa.models import source
from cusa.models.config import EXPORT_FORMATS

_CARD = "trained with cusa"
"""What every export's `README.md` says."""


def export(
    name: str,
    *,
    to: str,
    out: Path,
    space: str = "cross",
    ensemble: str = "",
    encoders: Mapping[str, str] | None = None,
    trust: Collection[str] = (),
    force: bool = False,
) -> Outcome:
    """Write a student as a folder for other libraries, compared with the student once loaded again.

    Args:
        name: a run folder, a model folder, a checkpoint file, or a hub name.
        to: `folder` (our own), `hf`, `sentence-transformers` or `onnx`.
        out: the folder; replaced whole.
        space: of a sentence-transformers folder, `cross` or `uni`.
        ensemble: a second run; an SGR and an SAF become SGRAF.
        encoders: of heads on tables, `image` or `text` -> what makes such a row of a new one; the card names it then.
        trust: as in `cusa.models.student.load`.
        force: write it again.

    Raises:
        ConfigError: for another format or space, or a student that cannot be written so.
        DataError: if a model is not there, the folder holds anything but an earlier export, or the export gives other
            rows than the student.
    """
    if to not in EXPORT_FORMATS:
        raise ConfigError(f"There is no export to {to!r}. {nearest(to, EXPORT_FORMATS)}.", to=to)
    if space not in ("cross", "uni"):
        raise ConfigError(f"There is no space {space!r}. {nearest(space, ('cross', 'uni'))}.", space=space)
    from cusa.models import export as exporting
    from cusa.models import student as students
    from cusa.models.students.embedding_heads import EmbeddingHeads
    from cusa.models.students.sgraf import Sgraf

    parts = [part for part in (name, ensemble) if part]
    _refuse_to_replace(out, parts)
    inputs = {f"student {number}": source.weights_digest(part) for number, part in enumerate(parts, 1)}
    parameters: dict[str, Any] = {"to": to, "space": space, "encoders": dict(encoders or {})}
    stage = StageRun("export", out / "ledger.json", inputs=inputs, parameters=parameters, force=force)
    if stage.up_to_date:
        return stage.reuse()
    loaded = [students.load(part, trust=trust) for part in parts]
    student = loaded[0]
    if ensemble:
        one, other = loaded
        if not (isinstance(one, Sgraf) and isinstance(other, Sgraf)):
            raise ConfigError("--ensemble joins two runs of kind sgraf, one SGR and one SAF.", ensemble=ensemble)
        student = Sgraf.ensemble(one, other)
    for modality, encoder in (encoders or {}).items():
        if not isinstance(student, EmbeddingHeads):
            raise ConfigError(
                f"--{modality} names the encoder that belongs to heads on a table, and {name} is a student with an "
                f"encoder of its own. Leave --{modality} out.",
                option=f"--{modality}",
            )
        student.name_encoder(modality, encoder)  # type: ignore[arg-type]
    facts: dict[str, Any] = {}
    for ledger_path in (Path(name) / "ledger.json", Path(name) / "eval" / "ledger.json"):
        ledger.refuse_changed(ledger_path)
    for key, place in (("recipe", "recipe.json"), ("run", "run.json"), ("metrics", "eval/metrics.json")):
        if (Path(name) / place).is_file():
            facts[key] = store.read_json(Path(name) / place)
    run = facts.get("run", {})
    facts["data"] = mixture(run) or Path(run.get("data", "")).name
    with stage.begin():
        exporting.run(student, to, out, space=space, facts=facts)  # type: ignore[arg-type]
        counts = {"parameters": sum(parameter.numel() for parameter in student.parameters())}
        return stage.finish(outputs=store.files_below(out), counts=counts)


def _refuse_to_replace(out: Path, parts: Iterable[str]) -> None:
    """Refuse a folder that is no earlier export, for an export replaces it whole.

    Raises:
        DataError: if it holds something else, or is a model that is exported.
    """
    there = [path for path in out.iterdir() if path.name != store.LOCK] if out.is_dir() else []
    if not there:
        return
    written, card = ledger.read(out / "ledger.json"), out / "README.md"
    if written is not None:
        is_export = written.stage == "export"
    else:  # killed before its ledger was written
        is_export = (out / store.LOCK).is_file() and card.is_file() and _CARD in card.read_text(errors="replace")
    if not is_export or any(Path(part).expanduser().resolve() == out.resolve() for part in parts):
        what = ", ".join(sorted(path.name for path in there)[:3])
        raise DataError(
            f"--out {out} is no earlier export of another model: it holds {what}, and an export replaces its folder "
            "whole. Name a folder that does not exist yet.",
            path=out,
        )
